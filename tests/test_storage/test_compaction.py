"""Short shards packed into full ones: what the rows are afterwards, who may go on meanwhile, and what a kill leaves."""

import contextlib
import json
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import zarr

from storage.compaction import compact_store
from storage.encoding import DTYPES
from storage.errors import DiskSpaceError, RowsMissingError
from storage.features import Busy, FeatureStore
from storage.garbage import sweep
from storage.mending import mend
from storage.references import note_use
from storage.runs import create_run
from storage.shapes import row_bytes
from storage.superseded import discard_superseded
from storage.workspace import Workspace

PROGRAM = Path(__file__).with_name("compacting.py")
work = SimpleNamespace(**runpy.run_path(str(PROGRAM.with_name("extracting.py"))))
A, B, C = work.LAYERS
NIGHTS = 5
KEYS = tuple(work.keys_of(0, 3 * NIGHTS))


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("os.fdatasync", lambda descriptor: None)


def nightly(root, **options):
    """Append three images at a time to shards of four; return the store's folder, which nobody has open."""
    store = work.opened(root, **options)
    for night in range(NIGHTS):
        work.extract(store, KEYS[3 * night : 3 * night + 3])
    store.core.index.close()
    return store.path


def layer_bytes(store, keys=KEYS, layers=work.LAYERS, *, stock=True):
    """Read what is stored of each image, by our reader and by stock Zarr; they must agree."""
    rows = store.rows(keys, layers)
    assert len(set(rows)) == len(keys)
    group = zarr.open_group(store.path, mode="r")
    stored = {}
    for layer in layers:
        maps, scale_offset = store.reader([layer]).read_stored(layer, rows)
        array = group[group.attrs["layers"][layer]]
        if stock:
            np.testing.assert_array_equal(array[:][rows], maps)
        if stock and scale_offset is not None:
            beside = group[array.attrs["scale_offset"]][:][rows]
            np.testing.assert_array_equal(np.moveaxis(beside, 1, 0)[:, :, None], scale_offset)
        stored |= {(layer, key): maps[place].tobytes() for place, key in enumerate(keys)}
    return stored


def stock_keys(store):
    """Return the row keys that stock Zarr finds, in row order."""
    group = zarr.open_group(store.path, mode="r")
    valid, row_keys = group["valid"][:], group["row_keys"][:]
    # They are replaced one after the other: a kill between the two leaves them of different lengths.
    count = min(len(valid), len(row_keys))
    return [bytes(line).rstrip(b"\0").decode() for line in row_keys[:count][valid[:count]]]


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_keep_their_keys_and_every_byte(tmp_path, dtype, compression):
    path = nightly(tmp_path, dtype=dtype, compression=compression)
    before, records = layer_bytes(FeatureStore.open(path)), FeatureStore.open(path).record_count
    short_bytes = sum(file.stat().st_size for file in path.rglob("c.*.0.0.0"))
    done = compact_store(path, rewrite_rows=True)
    assert (done.short_shards, done.new_shards, done.rows, done.skipped, done.bytes_waiting) == (5, 3, 12, (), 0)
    store = FeatureStore.open(path)
    assert layer_bytes(store) == before
    assert store.verify() == []
    assert sorted(stock_keys(store)) == sorted(KEYS)
    assert store.info()["rows"] == 15
    assert store.info()["shards"] == 4
    assert store.record_count == records + 3 + 1
    assert sorted(store.committed_rows(A)) == sorted(store.rows(KEYS, [A]))
    assert done.bytes_removed == pytest.approx(short_bytes * 4 / 5, rel=0.1)
    assert store.info()["bytes"] == sum(file.stat().st_size for file in path.rglob("c.*.0.0.0"))
    assert compact_store(path, rewrite_rows=True).rows == 0
    assert work.extract(work.opened(tmp_path, dtype=dtype), KEYS) == [], "nothing is extracted again"


def test_asked_without_yes_it_reckons_and_changes_nothing(tmp_path):
    path = nightly(tmp_path)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and "index" not in file.name}
    reckoned = compact_store(path, rewrite_rows=False)
    assert (reckoned.done, reckoned.rows, reckoned.short_shards, reckoned.new_shards) == (False, 12, 5, 3)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and "index" not in file.name} == before
    assert reckoned.bytes == sum(row_bytes(work.SHAPES[layer], FeatureStore.open(path).dtype) for layer in work.LAYERS) * 12
    json.dumps(reckoned.as_json())


def test_new_images_and_new_layers_go_on_as_before(tmp_path):
    store = work.opened(tmp_path, [A, B])
    for night in range(4):
        work.extract(store, work.keys_of(3 * night, 3 * night + 3), [A, B])
    path = store.path
    store.core.leave()
    assert compact_store(path, rewrite_rows=True).rows == 12
    store = work.opened(tmp_path)
    added = work.extract(store, KEYS)
    assert sorted({(layer, key) for layer, key in added if layer != C}) == sorted(
        (layer, key) for layer in (A, B) for key in KEYS[12:]
    )
    assert sorted(key for layer, key in added if layer == C) == sorted(KEYS)
    assert layer_bytes(store)
    assert store.verify() == []
    assert min(store.rows(KEYS, work.LAYERS)) >= 16, "the numbers of superseded rows are not given out again"


def test_rows_with_different_layers_are_packed_apart_and_repeated_ones_once(tmp_path):
    store = work.opened(tmp_path)
    work.extract(store, KEYS[:3], [A])
    work.extract(store, KEYS[3:6], [A])
    work.extract(store, KEYS[6:9])
    # An image asked for after its shard's layer was written gets a second row.
    work.extract(store, KEYS[:1], [A, B])
    work.extract(store, KEYS[:3], [A, B])
    work.extract(store, KEYS[9:12])
    wanted = {(A, key) for key in KEYS[:12]} | {(B, key) for key in (*KEYS[:3], *KEYS[6:12])}
    path = store.path
    store.core.leave()
    assert compact_store(path, rewrite_rows=True).rows > 0
    store = work.opened(tmp_path)
    for layer in (A, B):
        assert set(store.missing(KEYS[:12], [layer])) == {key for key in KEYS[:12] if (layer, key) not in wanted}
    assert layer_bytes(store, KEYS[:12], [A])
    assert layer_bytes(store, KEYS[:3], [A, B])
    assert layer_bytes(store, KEYS[6:12], [A, B, C])
    found = stock_keys(store)
    assert len(found) == len(set(found)) == 12
    assert store.verify() == []


def test_a_reader_that_knows_the_old_numbers_goes_on_and_the_old_files_wait_for_it(tmp_path):
    path = nightly(tmp_path / "stores")
    reading = FeatureStore.open(path)
    rows, reader = reading.rows(KEYS, [A]), reading.reader([A])
    expected = np.stack([work.map_of(key, A) for key in KEYS]).astype(np.float16)
    np.testing.assert_array_equal(reader.read(A, rows[:1]), expected[:1])
    done = compact_store(path, rewrite_rows=True)
    assert done.bytes_removed == 0
    assert done.bytes_waiting > 0
    np.testing.assert_array_equal(reader.read(A, rows), expected)
    np.testing.assert_array_equal(reading.reader([A]).read(A, rows), expected)
    assert reading.verify() == []
    workspace = Workspace(tmp_path)
    note_use(create_run(workspace.runs, "run", {}), path.name)
    assert sweep(workspace, 0, remove=True).garbage == ()
    np.testing.assert_array_equal(reading.reader([A]).read(A, rows), expected)
    del reading, reader
    asked = sweep(workspace, 0, remove=False)
    assert {item.kind for item in asked.garbage} == {"superseded"}
    assert asked.bytes == done.bytes_waiting
    swept = sweep(workspace, 0, remove=True)
    assert swept.bytes == done.bytes_waiting
    assert layer_bytes(FeatureStore.open(path))
    assert FeatureStore.open(path).verify() == []
    with pytest.raises(RowsMissingError, match="extract it"):
        FeatureStore.open(path).reader([A]).read(A, [0])


def test_writers_and_compaction_leave_each_other_s_shards_alone(tmp_path):
    path = nightly(tmp_path)
    store = work.opened(tmp_path)
    writer = store.claim(work.keys_of(15, 17), work.LAYERS).__enter__()
    store.declare_layers({"late": (1, 1, 2)})
    late = store.claim(KEYS[:3], ["late"]).__enter__()
    done = compact_store(path, rewrite_rows=True)
    assert done.rows > 0
    late.write(0, {"late": np.ones((3, 1, 1, 2), np.float32)})
    late.commit()
    late.abandon()
    writer.write(0, work.maps_of(work.keys_of(15, 17), work.LAYERS))
    writer.commit()
    writer.abandon()
    assert store.missing(work.keys_of(0, 17), work.LAYERS) == []
    assert store.missing(KEYS[:3], [*work.LAYERS, "late"]) == []
    assert store.verify() == []
    assert layer_bytes(store, work.keys_of(0, 17))


def test_a_layer_that_is_added_while_its_rows_are_moved_is_not_lost(tmp_path):
    path = nightly(tmp_path)
    store = work.opened(tmp_path)
    store.declare_layers({"late": (1, 1, 2)})
    late = store.claim(KEYS[:3], ["late"]).__enter__()
    # As if the compaction had leased the shard before the layer was declared: it does not see the writer.
    hidden = [next(store.core.layout.leases.iterdir()), next((path / "late").glob("*.partial"))]
    aside = [file.rename(tmp_path / f"aside {number}") for number, file in enumerate(hidden)]
    assert compact_store(path, rewrite_rows=True).rows > 0
    for file, place in zip(aside, hidden, strict=True):
        file.rename(place)
    late.write(0, {"late": np.ones((3, 1, 1, 2), np.float32)})
    late.commit()
    late.abandon()
    layout = store.core.layout
    store.core.leave()
    assert discard_superseded(layout) != []
    store = work.opened(tmp_path)
    assert store.missing(KEYS, work.LAYERS) == []
    assert store.missing(KEYS[:3], ["late"]) == []
    assert layer_bytes(store)
    assert store.verify() == []


def test_what_is_being_moved_is_busy_for_writers_of_other_layers(tmp_path, monkeypatch):
    path = nightly(tmp_path)
    store, seen = work.opened(tmp_path), []
    store.declare_layers({"late": (1, 1, 2)})

    def look(self, *arguments):
        if not seen:
            seen.append(store.claim(KEYS[:3], ["late"]))
        return check(self)

    from storage.rewriting import _Rewriting

    check = _Rewriting._check_space
    monkeypatch.setattr(_Rewriting, "_check_space", look)
    compact_store(path, rewrite_rows=True)
    assert isinstance(seen[0], Busy)
    assert store.claim(KEYS[:3], ["late"]).row_keys == KEYS[:3]


def test_a_damaged_row_leaves_its_batch_as_it_was_and_is_named(tmp_path):
    path = nightly(tmp_path)
    file = FeatureStore.open(path).shard_path(A, 0)
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(data)
    done = compact_store(path, rewrite_rows=True)
    assert len(done.skipped) == 1
    assert "store repair" in done.skipped[0]
    store = FeatureStore.open(path)
    assert {finding.kind for finding in store.verify()} == {"damaged"}
    assert layer_bytes(store, KEYS[6:], stock=False)
    assert not list(path.rglob("*.partial"))
    assert not list(store.core.layout.leases.iterdir())


def test_a_batch_whose_rows_were_changed_meanwhile_is_left_alone(tmp_path, monkeypatch):
    from storage.rewriting import _Rewriting

    path = nightly(tmp_path)
    other, copy = FeatureStore.open(path), _Rewriting.copy

    def retired_meanwhile(self):
        copy(self)
        if 0 in self._batch.supersedes:
            other.retire(A, 0, "a test")

    monkeypatch.setattr(_Rewriting, "copy", retired_meanwhile)
    done = compact_store(path, rewrite_rows=True)
    assert len(done.skipped) == 1
    assert "changed them" in done.skipped[0]
    store = work.opened(tmp_path)
    assert work.extract(store, KEYS) == [(A, key) for key in KEYS[:3]]
    assert layer_bytes(store)
    assert store.verify() == []


def test_a_disk_that_cannot_hold_the_new_shard_is_refused_beforehand(tmp_path, monkeypatch):
    path = nightly(tmp_path)
    monkeypatch.setattr("storage.rewriting.os.statvfs", lambda path: SimpleNamespace(f_bavail=1, f_frsize=100))
    with pytest.raises(DiskSpaceError, match=r"MB beside the short ones, the disk has 0\.0 MB free"):
        compact_store(path, rewrite_rows=True)
    monkeypatch.undo()
    assert layer_bytes(FeatureStore.open(path))
    assert not list(path.rglob("*.partial"))


def test_leases_are_renewed_while_rows_are_copied(tmp_path, monkeypatch):
    path, now = nightly(tmp_path), [time.time()]
    open_store = FeatureStore.open

    def opened(path):
        store = open_store(path)
        store.core.clock = store.core.leases._clock = lambda: now.__setitem__(0, now[0] + 50) or now[0]
        return store

    monkeypatch.setattr("storage.compaction.FeatureStore.open", opened)
    assert compact_store(path, rewrite_rows=True).rows == 12


def test_a_lost_record_of_a_compaction_gives_the_old_rows_back(tmp_path):
    path = nightly(tmp_path)
    holder = FeatureStore.open(path)
    before, records = layer_bytes(holder), holder.record_count
    compact_store(path, rewrite_rows=True)
    holder.core.log.path(records + 1).unlink()
    assert mend(holder.core) == [records + 1]
    store = work.opened(tmp_path)
    assert store.missing(KEYS, work.LAYERS) == []
    assert layer_bytes(store) == before
    assert {finding.kind for finding in store.verify()} <= {"orphan"}


@pytest.mark.parametrize(("stride", "offset"), [(211, 13), pytest.param(29, 7, marks=pytest.mark.slow)])
def test_a_compaction_killed_anywhere_loses_nothing_and_the_next_one_finishes(tmp_path, stride, offset):
    path = nightly(tmp_path / "finished")
    before = layer_bytes(FeatureStore.open(path))
    command = [sys.executable, PROGRAM, "kill", tmp_path / "finished", tmp_path / "cases", str(stride), str(offset)]
    (tmp_path / "cases").mkdir()
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) > 20, "it must have been killed at many places"
    for folder in sorted((tmp_path / "cases").iterdir()):
        store = FeatureStore.open(folder / path.name)
        assert layer_bytes(store, stock=False) == before
        found = stock_keys(store)
        assert len(found) == len(set(found))
        for finding in store.verify():
            assert finding.kind in ("partial", "orphan", "metadata"), finding
        del store
        compact_store(folder / path.name, rewrite_rows=True)
        store = FeatureStore.open(folder / path.name)
        assert layer_bytes(store) == before
        assert store.verify() == []
        assert sorted(stock_keys(store)) == sorted(KEYS)
        assert store.info()["shards"] == 4
        assert not list(store.path.rglob("*.partial"))
        assert not list(store.core.layout.leases.iterdir())
        del store
        shutil.rmtree(folder)


def test_extractors_readers_and_compactions_go_on_together(tmp_path):
    extracting, images = PROGRAM.with_name("extracting.py"), 48
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, extracting, "share", tmp_path, str(first), str(first + 24), "|".join(work.LAYERS), "0.01"]
                )
            )
            for first in (0, 24)
        ]
        store = work.opened(tmp_path)
        while any(process.poll() is None for process in processes):
            subprocess.run([sys.executable, PROGRAM, "once", store.path], capture_output=True, text=True, check=True)
            there = [key for key in work.keys_of(0, images) if not store.missing([key], work.LAYERS)]
            with store.core.locked():
                pass  # Whoever commits a row holds the lock from its record to the documents that tell stock Zarr of it.
            assert not there or layer_bytes(store, there)
        assert [process.wait() for process in processes] == [0, 0]
    assert layer_bytes(store, work.keys_of(0, images))
    assert store.verify() == []
