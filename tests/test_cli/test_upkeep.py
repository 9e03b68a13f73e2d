"""`store gc` on the command line, in a workspace of one run."""

import shutil

import pytest

from cli.quantities import parse_bytes, parse_seconds, spell_bytes
from hypercolumns.errors import SpecError
from tests.pipeline_factory import extract_only, tiny_spec


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
