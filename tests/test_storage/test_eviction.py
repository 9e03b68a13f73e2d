"""A cap on what the stores weigh: which go first, and which never."""

import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from storage.errors import StorageError
from storage.eviction import evict
from storage.features import FeatureStore
from storage.references import note_use
from storage.runs import append, create_run
from storage.workspace import Workspace

PROGRAM = Path(__file__).with_name("sweeping.py")
work = SimpleNamespace(**runpy.run_path(str(PROGRAM.with_name("extracting.py"))))
A = work.LAYERS[0]


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("os.fdatasync", lambda descriptor: None)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def make_store(workspace, name, days_ago):
    """Make a store of the same size as all others, last used some days ago; return its folder."""
    store = FeatureStore.create_or_open(workspace.stores, {"backbone": name}, shard_images=4)
    store.declare_layers({A: work.SHAPES[A]})
    work.extract(store, work.keys_of(0, 4), [A])
    store.core.index.close()
    used = time.time() - days_ago * 86400
    os.utime(store.core.layout.occupancy, (used, used))
    return store.path


def weight(*folders):
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


def test_the_least_recently_used_go_first_and_only_as_many_as_must(workspace):
    stores = {days: make_store(workspace, f"net{days}", days) for days in (3, 9, 1, 5)}
    cap = weight(stores[1], stores[3]) + 100
    asked = evict(workspace, cap, named_too=False, remove=False)
    assert [store.key for store in asked.evicted] == [stores[9].name, stores[5].name]
    assert {store.stays for store in asked.kept} == {"the rest is below the cap"}
    assert all(path.exists() for path in stores.values())
    done = evict(workspace, cap, named_too=False, remove=True)
    assert (done.removed, done.is_within, done.bytes_left) == (True, True, weight(stores[1], stores[3]))
    assert [days for days, path in stores.items() if path.exists()] == [3, 1]
    assert not list((workspace.stores / "trash").iterdir())
    assert json.loads(json.dumps(done.as_json()))["is_within"]
    assert evict(workspace, cap, named_too=False, remove=True).evicted == ()
    assert FeatureStore.open(stores[1]).verify() == []


def test_reading_a_store_s_maps_makes_it_the_last_to_go(workspace):
    old, newer = make_store(workspace, "old", 9), make_store(workspace, "newer", 2)
    reader = FeatureStore.open(old).reader([A])
    reader.read(A, [0])
    del reader
    assert [store.key for store in evict(workspace, weight(old) + 100, named_too=False, remove=False).evicted] == [newer.name]


def test_what_runs_name_goes_only_when_asked_for_and_after_all_others(workspace):
    named, other = make_store(workspace, "named", 9), make_store(workspace, "other", 1)
    run = create_run(workspace.runs, "run", {})
    note_use(run, named.name)
    append(run, "finished", {})
    kept = evict(workspace, 0, named_too=False, remove=True)
    assert [store.key for store in kept.evicted] == [other.name]
    assert [(store.runs, store.stays) for store in kept.kept] == [(("run",), "named by 1 runs, the latest run")]
    assert not kept.is_within
    other = make_store(workspace, "other", 1)
    order = evict(workspace, 0, named_too=True, remove=True)
    assert [store.key for store in order.evicted] == [other.name, named.name]
    assert order.is_within
    assert not named.exists()
    assert len(work.extract(FeatureStore.open(make_store(workspace, "named", 0)), work.keys_of(4, 8), [A])) == 4


def test_what_a_run_in_progress_names_never_goes(workspace):
    path = make_store(workspace, "net", 9)
    note_use(create_run(workspace.runs, "going", {}), path.name)
    kept = evict(workspace, 0, named_too=True, remove=True)
    assert [store.stays for store in kept.kept] == ["run going is in progress"]
    assert path.exists()


def test_what_a_process_has_open_never_goes(workspace):
    path = make_store(workspace, "net", 9)
    holder = subprocess.Popen([sys.executable, PROGRAM, "hold", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    holder.stdout.readline()
    assert [store.stays for store in evict(workspace, 0, named_too=True, remove=True).kept] == ["a process has it open"]
    assert FeatureStore.open(path).verify() == []
    holder.communicate("")
    assert [store.key for store in evict(workspace, 0, named_too=True, remove=True).evicted] == [path.name]


def test_nothing_is_evicted_while_a_run_s_record_cannot_be_read(workspace):
    path = make_store(workspace, "net", 9)
    (create_run(workspace.runs, "broken", {}) / "record.jsonl").write_text("noise\n")
    with pytest.raises(StorageError, match="run broken: expected a record that can be read"):
        evict(workspace, 0, named_too=True, remove=True)
    assert path.exists()


def test_where_nobody_can_tell_who_has_a_store_open_it_stays(workspace, monkeypatch):
    path = make_store(workspace, "net", 9)

    def refuse(layout):
        raise StorageError("cannot be known here")

    monkeypatch.setattr("storage.eviction.alone_in", refuse)
    assert [store.stays for store in evict(workspace, 0, named_too=True, remove=True).kept] == ["cannot be known here"]
    assert path.exists()
