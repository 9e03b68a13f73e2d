"""`store gc`, `evict`, `compact`, and what `verify` and `repair` ask the backbone, in a workspace of one run."""

import shutil

import pytest

from cli.quantities import parse_bytes, parse_seconds, spell_bytes
from hypercolumns.canvas import normalise
from hypercolumns.errors import SpecError
from storage.features import FeatureStore
from tests.pipeline_factory import LAYERS, extract_only, tiny_spec


@pytest.fixture
def workspace(finished, tmp_path):
    """A copy of the workspace that may be harmed."""
    return shutil.copytree(finished.workspace, tmp_path / "copy")


def test_gc_says_what_would_be_removed_and_removes_it_only_when_told_to(hypercolumns, finished, workspace, data):
    unnamed = extract_only(tiny_spec(data, backbone__weights="random:1"), workspace)
    options = ("--workspace", workspace, "--older-than", "0")
    said = hypercolumns("store", "gc", *options)
    assert said.code == 0
    assert f"stores/{unnamed.key}: no run names it" in said.out
    assert "datasets/" in said.out, "its manifest too"
    assert finished.outcome.extracted.key not in said.out
    assert "would be removed with --yes: 2 things" in said.out
    assert unnamed.path.exists()
    asked = hypercolumns("store", "gc", *options, "--json").last
    removed = hypercolumns("store", "gc", *options, "--yes", "--json").last
    assert (asked["removed"], removed["removed"], asked["bytes"]) == (False, True, removed["bytes"])
    assert not unnamed.path.exists()
    again = hypercolumns("store", "gc", *options, "--yes")
    assert again.out == "removed: 0 things, 0 bytes\n"
    assert [listed["key"] for listed in hypercolumns("store", "ls", *options[:2], "--json").last] == [
        finished.outcome.extracted.key
    ]
    assert hypercolumns("store", "verify", *options[:2]).code == 0


def test_gc_keeps_what_is_young_and_says_so(hypercolumns, workspace, data):
    unnamed = extract_only(tiny_spec(data, backbone__weights="random:1"), workspace)
    said = hypercolumns("store", "gc", "--workspace", workspace, "--yes")
    assert f"stays  stores/{unnamed.key}: no run names it, but it was used or made a short while ago" in said.out
    assert unnamed.path.exists()


def test_gc_removes_nothing_while_a_run_s_record_cannot_be_read(hypercolumns, finished, workspace):
    (workspace / "runs" / finished.run_id / "record.jsonl").write_text("noise\n")
    said = hypercolumns("store", "gc", "--workspace", workspace, "--older-than", "0", "--yes")
    assert said.code == 1
    assert "cannot be read: run" in said.out
    assert "restore the record" in said.out
    assert (workspace / "stores" / finished.outcome.extracted.key).exists()


def test_a_store_that_cannot_be_opened_is_listed_with_the_reason(hypercolumns, finished, workspace):
    key = finished.outcome.extracted.key
    shutil.rmtree(workspace / "stores" / key / "journal")
    (workspace / "stores" / key / "journal" / "records").mkdir(parents=True)
    (listed,) = hypercolumns("store", "ls", "--workspace", workspace, "--json").last
    assert listed["key"] == key
    assert "found no record that creates one" in listed["broken"]
    assert "found no record" in hypercolumns("store", "ls", "--workspace", workspace).out


def test_evict_takes_stores_that_runs_name_only_when_told_to(hypercolumns, finished, workspace, data):
    unnamed, key = extract_only(tiny_spec(data, backbone__weights="random:1"), workspace), finished.outcome.extracted.key
    options = ("store", "evict", "--workspace", workspace, "--max-bytes")
    said = hypercolumns(*options, "1kB")
    assert said.code == 0
    assert "goes: no run names it" in said.out
    assert "stays: named by 1 runs" in said.out
    assert "--named-too evicts stores that runs name" in said.out
    assert unnamed.path.exists()
    within = hypercolumns(*options, "1GB", "--yes")
    assert (within.code, within.out.count("stays: the rest is below the cap")) == (0, 2)
    above = hypercolumns(*options, "1kB", "--yes", "--json")
    assert (above.code, above.last["is_within"]) == (1, False)
    assert not unnamed.path.exists()
    both = hypercolumns(*options, "1kB", "--named-too", "--yes")
    assert both.code == 0
    assert f"{key}" in both.out
    assert "their experiments extract it again" in both.out
    assert "left: 0 bytes of 1.0 kB" in both.out
    assert hypercolumns("store", "ls", "--workspace", workspace).out == "no stores yet\n"


def test_compact_packs_short_shards_and_says_so(hypercolumns, data, tmp_path):
    for limit in (1, 2, 3, 4, 5):
        extracted = extract_only(tiny_spec(data, store__shard_images=8, dataset__limit_train=limit), tmp_path)
    options = ("store", "compact", "--workspace", tmp_path)
    said = hypercolumns(*options)
    assert f"{extracted.key}: would pack 8 images" in said.out
    assert "of 5 short shards into 1 with --yes" in said.out
    store = FeatureStore.open(extracted.path)
    packed = hypercolumns(*options, extracted.key[:6], "--yes")
    assert packed.code == 0
    assert "of old files stay until nobody has the store open: `hypercolumns store gc --yes`" in packed.out
    store.core.leave()
    (again,) = hypercolumns(*options, "--yes", "--json").last
    assert again["rows"] == 0
    assert again["bytes_removed"] > 0
    assert hypercolumns(*options).out == f"{extracted.key}: nothing to pack\n"
    assert hypercolumns("store", "verify", "--workspace", tmp_path).code == 0
    assert extract_only(tiny_spec(data, store__shard_images=8, dataset__limit_train=5), tmp_path).images_computed == 0


def test_compact_names_what_it_left_because_it_is_damaged(hypercolumns, data, tmp_path):
    for limit in (1, 2, 3):
        extracted = extract_only(tiny_spec(data, store__shard_images=8, dataset__limit_train=limit), tmp_path)
    path = FeatureStore.open(extracted.path).shard_path(LAYERS[0], 0)
    path.write_bytes(path.read_bytes()[:-1])
    packed = hypercolumns("store", "compact", "--workspace", tmp_path, "--yes")
    assert packed.code == 1
    assert "left as it was: shards [0, 1, 2]" in packed.out


def test_verify_extracts_some_images_again_and_reports_the_drift(hypercolumns, finished):
    options = ("--workspace", finished.workspace, "--against-backbone", 3)
    said = hypercolumns("store", "verify", finished.config, *options)
    assert said.code == 0
    assert "3 images extracted again" in said.out
    assert said.out.count("identical") == len(LAYERS)
    assert "bytes are expected to be the same" in said.out
    drift = hypercolumns("store", "verify", finished.config, "head.hidden=8", *options, "--seed", 4, "--json").last
    assert (drift["is_defect"], len(drift["row_keys"])) == (False, 3)
    assert set(drift["layers"]) == set(LAYERS)
    assert hypercolumns("store", "verify", finished.outcome.extracted.key, "head.hidden=8", *options[:2]).code == 2


def test_verify_fails_where_a_map_is_not_what_the_backbone_gives(hypercolumns, finished, workspace, monkeypatch):
    # As if the maps had been stored from images that were a little brighter.
    monkeypatch.setattr("hypercolumns.extraction.normalise", lambda images, mean, std: normalise(images, mean, std) + 0.1)
    said = hypercolumns("store", "verify", finished.config, "--workspace", workspace, "--against-backbone", 2)
    assert said.code == 1
    assert "ulp), tolerance" in said.out


def test_verify_names_a_store_of_another_version_and_goes_on(hypercolumns, finished, workspace):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("storage.records.FORMAT_VERSION", 2)
        other = FeatureStore.create_or_open(workspace / "stores", {"any": "fields"})
    (other.path / "journal" / "index.sqlite").unlink()
    found = hypercolumns("store", "verify", "--workspace", workspace, "--json")
    assert found.code == 1
    assert found.last[finished.outcome.extracted.key] == []
    assert [finding["kind"] for finding in found.last[other.key]] == ["version"]


def test_repair_says_beforehand_what_it_would_do(hypercolumns, finished, workspace):
    path = FeatureStore.open(workspace / "stores" / finished.outcome.extracted.key).shard_path(LAYERS[0], 0)
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    options = ("store", "repair", finished.config, "dataset.limit_train=4", "--workspace", workspace)
    said = hypercolumns(*options, "--dry-run")
    assert said.code == 0
    assert "the experiment's store: 1 findings" in said.out
    assert f"would retire layer {LAYERS[0]}, shard 0" in said.out
    assert "would extract 7 images" in said.out
    assert "2 images are no part of this experiment" in said.out
    assert hypercolumns("store", "verify", "--workspace", workspace).code == 1
    assert hypercolumns(*options, "--dry-run", "--json").last["other_images"] == 2
    repaired = hypercolumns(*options)
    assert "7 images extracted again" in repaired.out
    assert hypercolumns("store", "verify", "--workspace", workspace).code == 0


@pytest.mark.parametrize(
    ("text", "count"), [("50GB", 50e9), ("1.5 TiB", 1.5 * 2**40), ("7", 7), ("200 k", 200e3), ("3mb", 3e6), ("0", 0)]
)
def test_numbers_of_bytes_are_read(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("90s", 90), ("12h", 43200), ("1.5d", 129600), ("2w", 1209600)])
def test_lengths_of_time_are_read(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "GB", "-3", "1e3", "5 apples", "nan", "1"])
def test_other_lengths_of_time_are_refused(hypercolumns, text, tmp_path):
    with pytest.raises(SpecError, match="expected a length of time"):
        parse_seconds(text)
    assert hypercolumns("store", "gc", f"--older-than={text}", "--workspace", tmp_path).code == 2


@pytest.mark.parametrize("text", ["", "GB", "-3", "1e3", "5 apples", "nan", "1d"])
def test_other_numbers_of_bytes_are_refused(text):
    with pytest.raises(SpecError, match="expected a number of bytes"):
        parse_bytes(text)


def test_bytes_are_spelled_in_the_unit_that_suits_them():
    spelled = [spell_bytes(count) for count in (0, 999, 1500, 2_500_000, 50_000_000_000, 1_500_000_000_000)]
    assert spelled == ["0 bytes", "999 bytes", "1.5 kB", "2.5 MB", "50.0 GB", "1.5 TB"]
