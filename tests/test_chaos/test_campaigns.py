"""The campaigns at a small scale: nothing is lost; and each of them would say so if something were."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from chaos import damage, outages, power, pretended, recording
from chaos.harms import HARMS, KINDS, do_harm
from chaos.outcome import Case, Row, tallied
from chaos.power_works import WORKS
from tests.pipeline_factory import REPOSITORY, python_environment


def run(*arguments):
    """Run the campaigns in a process of their own, which has no threads yet."""
    command = [sys.executable, "-m", "chaos.run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=python_environment(), cwd=REPOSITORY)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kill", "power", "damage", "crowd", "disk", "plan", "memory"])
def test_a_campaign_at_a_small_scale_loses_nothing(name):
    done = run("--only", name, "--cases", "0.08", "--seed", "11", "--no-results")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " 0 lost" in done.stdout


def test_the_table_tells_what_was_broken_and_nothing_is_lost_in_a_handful_of_cases():
    done = run("--only", "damage", "--cases", "0.001", "--no-results")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("damage: ")]
    assert len(lines) == len(KINDS)
    assert [line.split()[-4:] for line in lines] == [[str(len(HARMS))] * 3 + ["0"]] * len(KINDS)


def test_a_scale_of_nothing_is_refused():
    assert "expected a scale above 0" in run("--cases", "0").stderr


@pytest.mark.parametrize("name", list(WORKS))
def test_a_power_loss_at_a_few_moments_loses_nothing(tmp_path, name):
    log = power._record(WORKS[name], tmp_path / "recorded")
    for case in range(6):
        told = power.cut_once(WORKS[name], log, tmp_path / f"case-{case}", case * 17, 5)
        assert told["lost"] == []
        assert told["recovered"]


def test_the_simulated_power_loss_takes_what_was_not_flushed_and_keeps_what_was(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    with recording.recorded(root) as log:
        (root / "kept").write_bytes(b"kept")
        descriptor = os.open(root / "kept", os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        folder = os.open(root, os.O_RDONLY)
        os.fsync(folder)
        (root / "unflushed").write_bytes(b"unflushed")
        os.mkdir(root / "folder")  # noqa: PTH102 - the call that is recorded
        os.fsync(folder)
        os.close(folder)
        (root / "unnamed").write_bytes(b"unnamed")
        os.replace(root / "kept", root / "moved")  # noqa: PTH105 - the call that is recorded
    seen = set()
    for number in range(300):
        tree = outages.outage(log, len(log.steps) - 1, random.Random(number))
        names = tree.entries[0]
        assert {"unflushed", "folder"} <= set(names)
        for name in {"kept", "moved"} & set(names):
            assert tree.contents[names[name]] == b"kept"
        seen |= {
            ("named", "unnamed" in names),
            ("moved", "moved" in names),
            ("whole", tree.contents[names["unflushed"]] == b"unflushed"),
        }
        outages.build(tree, tmp_path / str(number))
        assert (tmp_path / str(number) / "unflushed").exists()
    assert seen == {(what, value) for what in ("named", "moved", "whole") for value in (True, False)}


@pytest.mark.parametrize("harm", HARMS)
def test_every_harm_changes_a_file_and_says_which(tmp_path, harm):
    for number in range(30):
        victim, other = tmp_path / "victim", tmp_path / "other"
        victim.write_bytes(random.Random(number).randbytes(5000))
        other.write_bytes(b"other")
        before = {path: path.read_bytes() for path in (victim, other)}
        changed = do_harm(harm, victim, [victim, other], random.Random(number))
        after = {path: path.read_bytes() if path.exists() else None for path in (victim, other)}
        assert {path for path in before if before[path] != after[path]} == set(changed) != set()


def test_columns_that_are_wrong_are_seen_and_counted_as_lost(tmp_path, monkeypatch):
    whole = damage._Whole(tmp_path / "whole", {"dtype": "float16"})
    whole.make()
    # A store that compares no checksums: damage must show as wrong columns and as unnoticed, or the campaign proves nothing.
    monkeypatch.setattr("storage.shards.ShardFile._compare", lambda *arguments: None)
    monkeypatch.setattr("storage.shards.ShardFile.is_whole", lambda *arguments: True)
    told = [damage.harmed_once(whole, tmp_path / str(case), "shard", case, 3) for case in range(4)]
    assert any("read wrong columns" in what for answer in told for what in answer["lost"])
    assert any("not noticed" in what for answer in told for what in answer["lost"])
    assert not tallied("damage", told).passed


def test_a_row_passes_only_if_nothing_is_lost_all_was_noticed_and_all_came_back():
    fine = [{"name": "a", "detected": True, "recovered": True, "lost": [], "figures": {}}]
    assert tallied("x", fine).passed
    for spoilt in ({"lost": ["a row"]}, {"detected": False}, {"recovered": False}):
        row = tallied("x", [*fine, {**fine[0], **spoilt}])
        assert not row.passed
        assert row.problems
    assert Row("x", skipped="not here").passed
    assert json.dumps(row.as_json())
    assert Case("x").detected is None


def test_a_pretended_store_that_holds_another_image_s_map_is_seen_to_be_wrong(tmp_path):
    store = pretended.opened(tmp_path)
    keys = pretended.keys_of(0, 4)
    pretended.extract(store, keys)
    assert pretended.wrong_rows(store, keys) == []
    assert isinstance(store.path, Path)
    first, second = (
        pretended.stored_map(keys[0], pretended.LAYERS[0], "float16"),
        pretended.stored_map(keys[1], pretended.LAYERS[0], "float16"),
    )
    assert (first != second).any()
