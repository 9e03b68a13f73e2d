"""What gc removes and what it leaves: by what the runs say, by age, and by who has a store open."""

import fcntl
import json
import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from storage.errors import FormatError, StorageError
from storage.features import FeatureStore
from storage.garbage import sweep
from storage.layout import StoreLayout
from storage.models import save_model
from storage.occupancy import Occupancy, alone_in, last_used
from storage.references import named_keys, note_use
from storage.removal import Removal
from storage.runs import append, create_run, read_run
from storage.samples import SampleSetWriter
from storage.workspace import Workspace

PROGRAM = Path(__file__).with_name("sweeping.py")
work = SimpleNamespace(**runpy.run_path(str(PROGRAM.with_name("extracting.py"))))
A, B, C = work.LAYERS
DAY = 86400.0
KEYS = {kind: str(number) * 20 for number, kind in enumerate(("samples", "model", "evaluation", "manifest", "checkpoints"))}


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("os.fdatasync", lambda descriptor: None)


@pytest.fixture
def workspace(tmp_path):
    """A workspace with one of each kind of thing, all of them made two days ago, and no run."""
    place = Workspace(tmp_path)
    work.extract(work.opened(place.stores), work.keys_of(0, 6))
    with SampleSetWriter(place.samples / f"{KEYS['samples']}.h5", {}, ["a"], dims=4) as writer:
        writer.append(np.ones((5, 4)), np.zeros(5, int), np.zeros(5, int), np.zeros((5, 2)))
    for folder, kind in ((place.models, "model"), (place.evaluations, "evaluation")):
        save_model(folder, KEYS[kind], {"weight": np.ones(3)}, {})
    (place.datasets / f"{KEYS['manifest']}.json").write_text("{}")
    (place.datasets / "rejected.json").write_text("[]")
    (place.checkpoints / KEYS["checkpoints"]).mkdir()
    (place.checkpoints / KEYS["checkpoints"] / "epoch-000001.safetensors").write_bytes(b"x" * 10)
    make_old(tmp_path)
    return place


def make_old(folder, seconds=2 * DAY):
    then = time.time() - seconds
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (then, then))


def store_of(workspace):
    (path,) = [path for path in workspace.stores.iterdir() if path.name != "trash"]
    return path


def kinds(items):
    return sorted(item.kind for item in items)


def everything_in(workspace):
    return {path.relative_to(workspace.root) for path in workspace.root.rglob("*")}


def begin(workspace, name="run", **started):
    return create_run(workspace.runs, name, started)


def test_a_sweep_says_what_it_would_remove_to_the_byte_and_removes_nothing(workspace):
    weight = {path: path.stat().st_size for path in workspace.root.rglob("*") if path.is_file()}
    before = everything_in(workspace)
    found = sweep(workspace, DAY, remove=False)
    assert everything_in(workspace) - before == {Path("runs"), Path("runs/references.lock")}
    assert kinds(found.garbage) == ["checkpoints", "evaluation", "manifest", "model", "samples", "store"]
    assert not found.removed
    for item in found.garbage:
        inside = workspace.root / item.path
        assert item.bytes == sum(size for path, size in weight.items() if path == inside or inside in path.parents)
    assert found.bytes == sum(item.bytes for item in found.garbage)
    assert json.loads(json.dumps(found.as_json()))["bytes"] == found.bytes
    removed = sweep(workspace, DAY, remove=True)
    assert (removed.removed, {item.path for item in removed.garbage}) == (True, {item.path for item in found.garbage})
    assert removed.bytes == found.bytes
    assert [path.name for path in workspace.root.rglob("*") if path.is_file()] == ["rejected.json", "references.lock"]
    assert sweep(workspace, 0, remove=True).garbage == ()


def test_what_a_run_names_stays_for_as_long_as_its_record(workspace):
    folder = begin(workspace, keys={"sample": KEYS["samples"]})
    append(folder, "stage", {"name": "pretrain", "seconds": 1, "keys": {"pretrain": KEYS["model"]}})
    append(folder, "stage", {"name": "pretrain", "seconds": 1, "keys": {"pretrain": "another"}})
    note_use(folder, store_of(workspace).name)
    note_use(folder, store_of(workspace).name)
    append(folder, "failed", {"error": "any status counts"})
    assert [entry.kind for entry in read_run(folder).entries] == ["started", "stage", "stage", "uses", "failed"]
    assert named_keys(read_run(folder)) == {KEYS["samples"], KEYS["model"], "another", store_of(workspace).name}
    assert kinds(sweep(workspace, DAY, remove=True).garbage) == ["checkpoints", "evaluation", "manifest"]
    assert FeatureStore.open(store_of(workspace)).verify() == []
    (folder / "record.jsonl").unlink()
    folder.rmdir()
    assert kinds(sweep(workspace, DAY, remove=True).garbage) == ["model", "samples", "store"]


def test_what_was_used_a_short_while_ago_stays(workspace):
    work.opened(workspace.stores)
    os.utime(workspace.models / KEYS["model"])
    swept = sweep(workspace, DAY, remove=True)
    assert kinds(swept.kept) == ["model", "store"]
    assert all("a short while ago" in item.why for item in swept.kept)
    assert kinds(sweep(workspace, DAY, remove=False, clock=lambda: time.time() + 2 * DAY).garbage) == ["model", "store"]


def test_looking_at_a_store_is_no_use_of_it_and_reading_its_maps_is(workspace):
    path = store_of(workspace)
    layout = FeatureStore.open(path).core.layout
    FeatureStore.open(path).info()
    FeatureStore.open(path).verify()
    assert last_used(layout) < time.time() - DAY
    FeatureStore.open(path).reader([A])
    assert last_used(layout) > time.time() - 60


def test_a_store_from_before_stamps_was_last_used_when_its_last_record_was_written(workspace):
    path = store_of(workspace)
    layout = FeatureStore.open(path).core.layout
    layout.occupancy.unlink()
    made = layout.records.stat().st_mtime
    assert last_used(layout) == pytest.approx(made)
    FeatureStore.open(path)
    assert layout.occupancy.exists()
    assert last_used(layout) == pytest.approx(made)


def test_a_record_that_cannot_be_read_blocks_the_removal_of_what_it_might_name(workspace):
    folder = begin(workspace)
    note_use(folder, store_of(workspace).name)
    data = bytearray((folder / "record.jsonl").read_bytes())
    data[30] ^= 1
    (folder / "record.jsonl").write_bytes(data)
    before = everything_in(workspace)
    swept = sweep(workspace, 0, remove=True)
    assert swept.garbage == ()
    assert len(swept.blocked) == 1
    assert "run run" in swept.blocked[0]
    assert everything_in(workspace) == before


def test_names_that_are_not_ours_and_links_are_left_alone(workspace, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "precious").write_text("x")
    save_model(workspace.models, "my-own-model", {"weight": np.ones(3)}, {})
    (workspace.models / ("e" * 20)).symlink_to(elsewhere)
    (workspace.stores / "notes").mkdir()
    (workspace.samples / "mine.h5").write_text("x")
    make_old(workspace.root)
    sweep(workspace, 0, remove=True)
    assert (elsewhere / "precious").exists()
    assert {path.name for path in workspace.models.iterdir()} == {"my-own-model", "e" * 20, "trash"}
    assert (workspace.stores / "notes").is_dir()
    assert (workspace.samples / "mine.h5").exists()


def test_checkpoints_of_a_training_that_has_ended_go_though_its_run_names_them(workspace):
    folder = begin(workspace)
    note_use(folder, KEYS["checkpoints"])
    assert "checkpoints" not in kinds(sweep(workspace, DAY, remove=True).garbage)
    save_model(workspace.models, KEYS["checkpoints"], {"weight": np.ones(3)}, {})
    assert kinds(sweep(workspace, DAY, remove=True).garbage) == ["checkpoints"]
    assert not list(workspace.checkpoints.rglob("*.safetensors"))


def test_checkpoints_that_their_run_removes_while_we_look_are_passed_over(workspace, monkeypatch):
    checkpoints = workspace.checkpoints / KEYS["checkpoints"]
    take_away = Removal.take_away

    def late(self, path):
        if path == checkpoints:
            shutil.rmtree(checkpoints)
        return take_away(self, path)

    monkeypatch.setattr(Removal, "take_away", late)
    removed = sweep(workspace, DAY, remove=True)
    assert "checkpoints" not in kinds(removed.garbage)
    assert "model" in kinds(removed.garbage)


def test_a_manifest_s_list_of_images_stays_and_goes_with_it(workspace):
    lists = [workspace.datasets / f"{key}-images.json" for key in (KEYS["manifest"], "9" * 20)]
    for path in lists:
        path.write_text("{}")
    make_old(workspace.datasets)
    note_use(begin(workspace), KEYS["manifest"])
    sweep(workspace, DAY, remove=True)
    assert [path.exists() for path in lists] == [True, False]
    assert (workspace.datasets / f"{KEYS['manifest']}.json").exists()


def test_checkpoints_that_their_run_removes_while_they_are_listed_are_passed_over(workspace, monkeypatch):
    checkpoints = workspace.checkpoints / KEYS["checkpoints"]
    is_symlink = Path.is_symlink

    def late(self):
        if self == checkpoints:
            shutil.rmtree(checkpoints, ignore_errors=True)
        return is_symlink(self)

    monkeypatch.setattr(Path, "is_symlink", late)
    assert kinds(sweep(workspace, DAY, remove=False).garbage) == ["evaluation", "manifest", "model", "samples", "store"]


def test_unfinished_files_go_when_they_are_old_and_trash_at_once(workspace):
    note = begin(workspace)
    for key in (*KEYS.values(), store_of(workspace).name):
        note_use(note, key)
    (workspace.samples / "x.h5.abc.partial").write_bytes(b"12345")
    (workspace.models / "y.abc.partial").mkdir()
    (workspace.models / "y.abc.partial" / "model.json").write_bytes(b"123")
    (workspace.checkpoints / KEYS["checkpoints"] / "epoch-000002.safetensors.abc.partial").write_bytes(b"1")
    (workspace.stores / "trash").mkdir()
    (workspace.stores / "trash" / "old.abc").mkdir()
    (workspace.stores / "trash" / "old.abc" / "file").write_bytes(b"1234567")
    assert [(item.kind, item.bytes) for item in sweep(workspace, DAY, remove=False).garbage] == [("trash", 7)]
    make_old(workspace.root)
    swept = sweep(workspace, DAY, remove=True)
    assert sorted((item.kind, item.bytes) for item in swept.garbage) == [
        *(("trash", 7), ("unfinished", 1), ("unfinished", 3), ("unfinished", 5)),
    ]
    assert not [path for path in workspace.root.rglob("*") if ".partial" in path.name or path.name == "old.abc"]


def test_what_dead_writers_left_in_a_store_goes_and_what_living_ones_write_stays(workspace):
    store = work.opened(workspace.stores)
    note_use(begin(workspace), store.key)
    writer = store.claim(work.keys_of(0, 10), [A]).__enter__()
    writer.write(0, work.maps_of(writer.row_keys[:2], [A]))
    assert not [item for item in sweep(workspace, 0, remove=True).garbage if item.path.startswith("stores")]
    (lease,) = store.core.layout.leases.iterdir()
    lease.write_text(lease.read_text().replace('"pid":', '"pid":99999'))
    published = store.shard_path(A, writer.shard)
    published.write_bytes(b"published, and not counted")
    (found,) = [item for item in sweep(workspace, 0, remove=False).garbage if item.kind == "unfinished"]
    assert (workspace.root / found.path).stat().st_size == found.bytes
    assert lease.exists()
    swept = sweep(workspace, 0, remove=True)
    assert sorted(item.kind for item in swept.garbage if item.path.startswith("stores")) == ["uncounted", "unfinished"]
    assert not lease.exists()
    assert not published.exists()
    assert not list(store.path.rglob("*.partial"))
    assert len(work.extract(store, work.keys_of(0, 10))) > 0
    assert store.verify() == []


def test_quarantined_files_go_when_they_are_old(workspace):
    store = work.opened(workspace.stores)
    note_use(begin(workspace), store.key)
    store.retire(A, 0, "a test")
    weight = store.du()["quarantine"]
    assert weight > 0
    sweep(workspace, DAY, remove=True)
    assert store.du()["quarantine"] == weight
    make_old(store.core.layout.quarantine)
    swept = sweep(workspace, DAY, remove=True)
    assert [(item.kind, item.bytes) for item in swept.garbage if item.kind == "quarantined"] == [("quarantined", weight)]
    assert store.du()["quarantine"] == 0


def test_nothing_is_removed_from_a_store_that_cannot_be_opened(workspace):
    path = store_of(workspace)
    note_use(begin(workspace), path.name)
    record = path / "journal" / "records" / "0000000001.json"
    record.write_bytes(b"")
    (path / "journal" / "index.sqlite").unlink()
    before = {file for file in path.rglob("*") if "index.sqlite" not in file.name}
    sweep(workspace, 0, remove=True)
    assert {file for file in path.rglob("*") if "index.sqlite" not in file.name} == before


def test_a_store_that_a_process_has_open_stays_until_it_is_killed(workspace):
    path = store_of(workspace)
    holder = subprocess.Popen([sys.executable, PROGRAM, "hold", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline().strip() == path.name
    swept = sweep(workspace, DAY, remove=True)
    assert [item.why for item in swept.kept] == ["no run names it, but a process has it open"]
    assert FeatureStore.open(path).verify() == []
    holder.kill()
    holder.communicate()
    assert "store" in kinds(sweep(workspace, DAY, remove=True).garbage)
    assert not path.exists()


def test_a_store_is_held_by_whatever_refers_to_it_and_by_forked_children(workspace):
    path = store_of(workspace)
    store = FeatureStore.open(path)
    layout, reader = store.core.layout, store.reader([A])
    del store
    with alone_in(layout) as alone:
        assert not alone
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(read, 1)
        os._exit(0)
    del reader
    with alone_in(layout) as alone:
        assert not alone, "the child has it open"
    os.write(write, b"x")
    os.waitpid(child, 0)
    with alone_in(layout) as alone:
        assert alone


def test_whoever_opens_a_store_while_it_is_taken_away_makes_it_anew(workspace):
    path = store_of(workspace)
    layout = FeatureStore.open(path).core.layout
    with alone_in(layout) as alone:
        assert alone
        process = subprocess.Popen([sys.executable, PROGRAM, "once", workspace.root])
        time.sleep(2)
        assert process.poll() is None, "it must wait"
        path.rename(path.with_name("taken"))
    assert process.wait(60) == 0
    assert FeatureStore.open(path).info()["rows"] == 8
    with pytest.raises(FormatError, match="found no records"):
        Occupancy(StoreLayout(path.with_name("nowhere")), create=False)


def test_where_locks_are_unknown_nothing_is_taken_away_and_stores_can_be_used(workspace, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(95, "Operation not supported")

    path = store_of(workspace)
    monkeypatch.setattr("storage.occupancy.fcntl", SimpleNamespace(**{**vars(fcntl), "flock": refuse}))
    assert FeatureStore.open(path).verify() == []
    with pytest.raises(StorageError, match="by hand when nothing runs"), alone_in(FeatureStore.open(path).core.layout):
        pass
    assert [item.kind for item in sweep(workspace, DAY, remove=True).kept] == ["store"]
    assert path.exists()


def test_runs_and_lookers_never_lose_what_they_use_to_sweepers(tmp_path):
    Workspace(tmp_path).runs.mkdir(exist_ok=True)
    roles = ("run", "run", "look", "sweep", "sweep")
    processes = [
        subprocess.Popen([sys.executable, PROGRAM, role, tmp_path, "6"], stdout=subprocess.PIPE, text=True) for role in roles
    ]
    counts = [int(process.communicate(timeout=100)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(roles)
    assert all(count > 1 for count in counts), dict(zip(roles, counts, strict=True))


def test_a_store_where_nothing_may_be_written_can_be_read_and_is_not_taken_away(workspace, monkeypatch):
    path = store_of(workspace)
    layout = FeatureStore.open(path).core.layout
    layout.occupancy.unlink()
    real = os.open

    def refuse(name, flags, *mode):
        if Path(name) == layout.occupancy and flags & os.O_CREAT:
            raise OSError(30, "Read-only file system")
        return real(name, flags, *mode)

    monkeypatch.setattr("storage.occupancy.os.open", refuse)
    store = FeatureStore.open(path)
    assert store.reader([A]).read(A, [0]).shape == (1, *work.SHAPES[A])
    store.core.leave()
    assert [item.kind for item in sweep(workspace, DAY, remove=True).kept] == ["store"]
    assert path.exists()


def test_an_unfinished_file_that_is_published_while_we_look_is_passed_over(workspace, monkeypatch):
    (workspace.samples / "x.h5.abc.partial").write_bytes(b"1")
    make_old(workspace.root)
    lstat = Path.lstat

    def published(path):
        if path.suffix == ".partial":
            raise FileNotFoundError(path)
        return lstat(path)

    monkeypatch.setattr("pathlib.Path.lstat", published)
    assert "unfinished" not in kinds(sweep(workspace, DAY, remove=False).garbage)
