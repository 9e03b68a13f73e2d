"""Forged records, and Zarr documents that lie: refused by name, or without any effect on what is read."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import FormatError, StorageError
from storage.features import FeatureStore
from tests.hostile.forging import (
    KEYS,
    body_of,
    digested,
    forged,
    last_number,
    mutations,
    record_path,
    spelled,
    tells_the_truth,
    work,
)

LAYER = work.LAYERS[0]
_SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("os.fdatasync", lambda descriptor: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A store of two shards, with records of each kind that an extraction writes."""
    root = tmp_path_factory.mktemp("stores")
    store = work.opened(root)
    work.extract(store, KEYS)
    store.core.index.close()
    return root


@pytest.fixture(scope="module")
def bodies(finished):
    """What its records say, and a record of the kind that a repair writes."""
    found = [body_of(finished, number) for number in range(1, last_number(finished) + 1)]
    return [*found, {"format": 1, "kind": "retire", "layer": LAYER, "shard": 0, "reason": "damaged"}]


def test_the_unforged_store_is_taken(finished, tmp_path, bodies):
    assert {body["kind"] for body in bodies} == {"create", "layers", "commit", "retire"}
    root = shutil.copytree(finished, tmp_path / "stores")
    assert tells_the_truth(root) == "taken"
    assert tells_the_truth(forged(finished, tmp_path / "same", bodies[0])) == "taken"
    assert tells_the_truth(forged(finished, tmp_path / "retired", bodies[-1])) == "missed"


COMMIT = {
    "no shard": {"shard": None},
    "a shard below zero": {"shard": -1},
    "a shard that is no whole number": {"shard": 1.0},
    "a shard that is true": {"shard": True},
    "a shard in quotes": {"shard": "1"},
    "a shard a trillion away": {"shard": 10**12},
    "a shard that no database holds": {"shard": 2**70},
    "no slots": {"slots": None},
    "slots below zero": {"slots": [-1, 0]},
    "slots beyond the shard": {"slots": [3, 4]},
    "a slot a trillion away": {"slots": [0, 10**12]},
    "slots that fall": {"slots": [1, 0]},
    "a slot twice": {"slots": [0, 0]},
    "more slots than keys": {"slots": [0, 1, 2]},
    "keys of others in the same slots": {"row_keys": list(KEYS[:2])},
    "a key twice": {"row_keys": [KEYS[4], KEYS[4]]},
    "keys that are numbers": {"row_keys": [1, 2]},
    "a key too long": {"row_keys": ["k" * 193, "l"]},
    "an empty key": {"row_keys": ["", "l"]},
    "a key with a NUL": {"row_keys": ["a\0", "b"]},
    "keys in a mapping": {"row_keys": {KEYS[4]: 0, KEYS[5]: 1}},
    "layers in a list": {"layers": [LAYER]},
    "a layer without files": {"layers": {LAYER: {}}},
    "a layer with a file of another role": {"layers": {LAYER: {"masks": {}}}},
    "a file without its size": {"layers": {LAYER: {"maps": {"index_crc32c": 1, "rows_crc32c": [1, 2]}}}},
    "a file of a size below zero": {"layers": {LAYER: {"maps": {"bytes": -1, "index_crc32c": 1, "rows_crc32c": [1, 2]}}}},
    "a checksum too large": {"layers": {LAYER: {"maps": {"bytes": 1, "index_crc32c": 2**32, "rows_crc32c": [1, 2]}}}},
    "too few checksums": {"layers": {LAYER: {"maps": {"bytes": 1, "index_crc32c": 1, "rows_crc32c": [1]}}}},
}
LAYERS = {
    "no shapes": {"shapes": None},
    "a shape of two sides": {"shapes": [["new", [1, 2]]]},
    "a shape of nothing": {"shapes": [["new", [0, 2, 3]]]},
    "a shape below zero": {"shapes": [["new", [-1, 2, 3]]]},
    "a shape of a trillion": {"shapes": [["new", [10**12, 2, 3]]]},
    "a shape of floats": {"shapes": [["new", [1.0, 2, 3]]]},
    "a layer without a name": {"shapes": [["", [1, 2, 3]]]},
    "a layer that is a number": {"shapes": [[3, [1, 2, 3]]]},
    "another shape of a layer": {"shapes": [[LAYER, [9, 9, 9]]]},
    "another number of images a shard": {"shard_images": 5},
    "no images a shard": {"shard_images": 0},
    "images without end": {"shard_images": 10**9},
}
CREATE = {
    "made from something else": {"key_fields": {"backbone": "other"}},
    "made from a list": {"key_fields": []},
    "another type": {"dtype": "float32"},
    "a type that is none": {"dtype": "float8"},
    "a type in a list": {"dtype": ["float16"]},
    "another compression": {"compression": "zstd"},
    "a compression that is none": {"compression": "xz"},
    "another shard": {"shard_images": 8},
}
RETIRE = {"no layer": {"layer": None}, "no shard": {"shard": None}, "a shard below zero": {"shard": -3}}
KINDS = {"none": {"kind": None}, "unknown": {"kind": "sudo"}, "a number": {"kind": 3}, "a list": {"kind": ["commit"]}}
VERSIONS = {"older": {"format": 0}, "newer": {"format": 2}, "text": {"format": "1"}, "none": {"format": None}}
FORGERIES = {
    **{f"commit, {name}": ("commit", change) for name, change in COMMIT.items()},
    **{f"layers, {name}": ("layers", change) for name, change in LAYERS.items()},
    **{f"create, {name}": ("create", change) for name, change in CREATE.items()},
    **{f"retire, {name}": ("retire", change) for name, change in RETIRE.items()},
    **{f"kind, {name}": ("commit", change) for name, change in KINDS.items()},
    **{f"version, {name}": ("commit", change) for name, change in VERSIONS.items()},
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_record_is_refused_with_its_number_what_came_and_the_remedy(finished, bodies, tmp_path, name):
    kind, change = FORGERIES[name]
    body = next(body for body in reversed(bodies) if body["kind"] == kind)
    root = forged(finished, tmp_path / "stores", {**body, **change})
    number = last_number(root)
    with pytest.raises(FormatError, match=rf"({number:010d}\.json|record {number}): .*(repair`|release that wrote it)"):
        FeatureStore.open(next(root.iterdir()))


TAILS = {
    "nothing": b"",
    "no JSON": b"{",
    "a list": b'"a":[]]',
    "a number": b"3",
    "half a member": b'"kind":}',
    "NaN": b'"kind":NaN}',
    "100000 levels": b'"kind":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number of 100000 digits": b'"kind":' + b"9" * 100_000 + b"}",
    "not UTF-8": b'"kind":"\xff"}',
    "a NUL": b'"kind":"\0"}',
}


@pytest.mark.parametrize("name", TAILS)
def test_a_record_with_a_right_digest_that_is_none_is_refused(finished, tmp_path, name):
    root = shutil.copytree(finished, tmp_path / "stores", ignore=shutil.ignore_patterns("index.sqlite*"))
    number = last_number(root) + 1
    record_path(root, number).write_bytes(digested(TAILS[name]))
    with pytest.raises(FormatError, match=rf"{number:010d}\.json: .*repair"):
        FeatureStore.open(next(root.iterdir()))


@pytest.mark.parametrize("harm", ["folder", "loop", "moved", "unchained", "short"])
def test_a_record_that_is_elsewhere_or_no_file_is_refused(finished, tmp_path, harm):
    root = shutil.copytree(finished, tmp_path / "stores", ignore=shutil.ignore_patterns("index.sqlite*"))
    number = last_number(root) + 1
    path, last = record_path(root, number), record_path(root, number - 1)
    if harm == "folder":
        path.mkdir()
    elif harm == "loop":
        path.symlink_to(path)
    elif harm == "moved":
        shutil.copy(last, path)
    elif harm == "unchained":
        path.write_bytes(spelled({**body_of(root, number - 1), "number": number, "previous": "0" * 64}))
    else:
        path.write_bytes(last.read_bytes()[:30])
    with pytest.raises(FormatError, match=rf"{number:010d}\.json: .*repair"):
        FeatureStore.open(next(root.iterdir()))


@settings(max_examples=150, derandomize=True, **_SETTINGS)
@given(data=st.data())
def test_no_forged_record_makes_the_store_lie(finished, bodies, tmp_path, data):
    tells_the_truth(forged(finished, tmp_path / "stores", data.draw(mutations(bodies))))


@pytest.mark.slow
@settings(max_examples=10_000, **_SETTINGS)
@given(data=st.data())
def test_none_of_many_forged_records_makes_the_store_lie(finished, bodies, tmp_path, data):
    tells_the_truth(forged(finished, tmp_path / "stores", data.draw(mutations(bodies))))


DOCUMENTS = {
    "empty": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "not UTF-8": b"\xff\xfe",
    "another shape": json.dumps({"zarr_format": 3, "node_type": "array", "shape": [2**62, 1, 1, 1]}).encode(),
    "another type": json.dumps({"zarr_format": 3, "node_type": "array", "data_type": "float64", "shape": [1]}).encode(),
    "another format": json.dumps({"zarr_format": 2}).encode(),
    "a codec that runs": json.dumps({"zarr_format": 3, "node_type": "array", "codecs": [{"name": "pickle"}]}).encode(),
}


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("place", ["zarr.json", f"{LAYER}/zarr.json", "valid/zarr.json", "row_keys/zarr.json"])
def test_zarr_documents_that_lie_change_nothing_that_is_read_and_are_written_anew(finished, tmp_path, place, name):
    root = shutil.copytree(finished, tmp_path / "stores")
    path = next(root.iterdir()) / place
    whole = path.read_bytes()
    path.write_bytes(DOCUMENTS[name])
    assert tells_the_truth(root) == "taken"
    assert any("zarr.json" in str(finding) for finding in FeatureStore.open(next(root.iterdir())).verify())
    store = work.opened(root)
    assert path.read_bytes() == whole
    assert store.verify() == []


@pytest.mark.parametrize("name", [".", "row_keys", LAYER])
def test_a_zarr_document_that_leads_elsewhere_is_replaced_and_what_it_led_to_is_left_alone(finished, tmp_path, name):
    root = shutil.copytree(finished, tmp_path / "stores")
    path = next(root.iterdir()) / name / "zarr.json"
    elsewhere = tmp_path / "precious"
    elsewhere.write_bytes(b"precious")
    path.unlink()
    path.symlink_to(elsewhere)
    work.opened(root)
    assert elsewhere.read_bytes() == b"precious"
    assert json.loads(path.read_bytes())["zarr_format"] == 3
    assert not path.is_symlink()


LEASES = {
    "no JSON": b"{",
    "a list": b"[]",
    "a name that leads elsewhere": {"name": "../../../precious"},
    "a process that leads elsewhere": {"owner": {"machine": "m", "pid": "../../etc", "started": ""}},
    "a process below zero": {"owner": {"machine": "m", "pid": -1, "started": ""}},
    "a time that never comes": {"expires": float("nan")},
    "for ever": {"expires": float("inf")},
    "a shard below zero": {"shard": -1},
    "a shard of nothing": {"shard": None},
    "owner of nothing": {"owner": None},
    "owner with more": {"owner": {"machine": "m", "pid": 1, "started": "", "root": True}},
}


@pytest.mark.parametrize("name", LEASES)
def test_a_lease_that_is_none_hinders_nobody_and_leads_nowhere(finished, tmp_path, name):
    root = shutil.copytree(finished, tmp_path / "stores")
    store = work.opened(root)
    precious = tmp_path / "precious.json"
    precious.write_bytes(b"precious")
    folder = next(root.iterdir()) / "journal" / "leases"
    folder.mkdir(exist_ok=True)
    lease = {"shard": 2, "layers": [LAYER], "slots": [0], "row_keys": ["k"], "expires": 1e12, "name": "a" * 16}
    lease["owner"] = {"machine": "elsewhere", "pid": os.getpid(), "started": ""}
    change = LEASES[name]
    (folder / "bad.json").write_bytes(change if isinstance(change, bytes) else json.dumps({**lease, **change}).encode())
    more = (*KEYS, *work.keys_of(6, 9))
    assert len(work.extract(store, more)) == 3 * len(work.LAYERS)
    assert precious.read_bytes() == b"precious"
    assert store.verify() == []


def test_an_empty_folder_and_a_file_are_no_store(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for name in ("empty", "file", "none"):
        with pytest.raises(StorageError, match="expected the folder of a feature store"):
            FeatureStore.open(tmp_path / name)
