"""Stores of other format versions: refused with what to do, whichever way one comes to them, and changed by none."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from storage.core import StoreCore
from storage.errors import FormatError, VersionError
from storage.features import FeatureStore
from storage.garbage import sweep
from storage.layout import StoreLayout
from storage.mending import mend
from storage.verification import verify_path
from storage.workspace import Workspace

work = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("extracting.py"))))
WAYS = {
    "open": FeatureStore.open,
    "verify": verify_path,
    "mend": lambda path: mend(StoreCore(StoreLayout(path), 60.0)),
}


def of_version(root, version):
    """Make a store as a program of another version of the format would, if it spelled its records as we do."""
    with pytest.MonkeyPatch.context() as patched:
        for module in ("records", "core", "zarr_metadata"):
            patched.setattr(f"storage.{module}.FORMAT_VERSION", version)
        store = work.opened(root)
        work.extract(store, work.keys_of(0, 3))
        store.core.index.close()
    return store.path


def contents(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and "index.sqlite" not in file.name}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("version", "age"), [(2, "newer"), (0, "older"), ("1.5", "older")])
@pytest.mark.parametrize("with_index", [True, False])
def test_records_of_another_version_are_refused_and_left_alone(tmp_path, way, version, age, with_index):
    path = of_version(tmp_path, version)
    if not with_index:
        (path / "journal" / "index.sqlite").unlink()
    before = contents(path)
    message = f"format version {version}, this program reads 1; extract the store anew .*or use the {age} release"
    with pytest.raises(VersionError, match=message):
        WAYS[way](path)
    assert contents(path) == before


@pytest.mark.parametrize("way", WAYS)
def test_records_spelled_in_a_way_we_do_not_know_are_no_damage_if_the_group_says_its_version(tmp_path, way):
    path = of_version(tmp_path, 7)
    for record in (path / "journal" / "records").iterdir():
        record.write_bytes(b"CBOR" + record.read_bytes())
    before = contents(path)
    with pytest.raises(VersionError, match="format version 7"):
        WAYS[way](path)
    assert contents(path) == before


def test_a_group_that_names_another_version_over_records_of_ours_is_only_harmed_metadata(tmp_path):
    store = work.opened(tmp_path)
    document = store.path / "zarr.json"
    harmed = json.loads(document.read_bytes())
    harmed["attributes"]["format_version"] = 9
    document.write_text(json.dumps(harmed))
    assert {finding.kind for finding in verify_path(store.path)} == {"metadata"}
    mend(store.core)
    assert verify_path(store.path) == []


def test_a_damaged_first_record_is_damage_where_nothing_names_another_version(tmp_path):
    path = work.opened(tmp_path).path
    (path / "journal" / "records" / "0000000001.json").write_bytes(b"noise")
    (path / "journal" / "index.sqlite").unlink()
    with pytest.raises(FormatError, match="store repair"):
        FeatureStore.open(path)
    (path / "zarr.json").write_text("noise too")
    assert "record" in {finding.kind for finding in verify_path(path)}


def test_a_program_of_another_version_uses_a_store_of_its_own(tmp_path):
    ours = work.opened(tmp_path)
    theirs = of_version(tmp_path, 2)
    assert theirs != ours.path
    assert ours.verify() == []


def test_a_sweep_removes_nothing_from_inside_a_store_of_another_version(tmp_path):
    workspace = Workspace(tmp_path)
    path = of_version(workspace.stores, 2)
    before = contents(path)
    sweep(workspace, 3600, remove=True)
    assert contents(path) == before


def test_an_index_of_another_layout_is_built_anew(tmp_path):
    store = work.opened(tmp_path)
    work.extract(store, work.keys_of(0, 6))
    before = store.info()
    store.core.index._run(lambda connection: connection.execute("PRAGMA user_version = 1").close())
    store.core.index._run(lambda connection: connection.execute("DROP TABLE totals").close())
    store.core.index.close()
    assert FeatureStore.open(store.path).info() == before
    assert FeatureStore.open(store.path).verify() == []
