"""Several processes and threads in one feature store at once, and the order in which things reach the disk."""

import os
import runpy
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import zarr

from storage.features import FeatureStore
from storage.leases import Owner

PROGRAM = Path(__file__).with_name("extracting.py")
work = SimpleNamespace(**runpy.run_path(str(PROGRAM)))
A, B, C = work.LAYERS


def together(root, *calls):
    """Run calls of the program at the same moment; return what each printed."""
    root.mkdir(exist_ok=True)
    (root / "start").write_text(str(time.time() + 2))
    runs = [
        subprocess.Popen([sys.executable, PROGRAM, "share", root, *map(str, call)], stdout=subprocess.PIPE, text=True)
        for call in calls
    ]
    printed = [run.communicate(timeout=100)[0] for run in runs]
    assert all(run.returncode == 0 for run in runs)
    (root / "start").unlink()
    return [int(number) for number in printed]


def is_right(store, keys, layers):
    rows = store.rows(keys, layers)
    assert len(set(rows)) == len(keys)
    for layer in layers:
        expected = np.stack([work.map_of(key, layer) for key in keys]).astype(np.float16)
        np.testing.assert_array_equal(store.reader([layer]).read(layer, rows), expected)
    return True


def test_processes_that_want_overlapping_images_share_the_work(tmp_path):
    layers = "|".join([A, B])
    done = together(tmp_path, (0, 40, layers, 0.01), (20, 60, layers, 0.01), (0, 60, layers, 0.01))
    assert sum(done) == 60 * 2, "each map is computed once"
    assert sum(count > 0 for count in done) >= 2, "they must have shared"
    store = work.opened(tmp_path)
    assert is_right(store, work.keys_of(0, 60), [A, B])
    valid = zarr.open_group(store.path, mode="r")["valid"][:]
    assert valid.sum() == 60
    assert store.verify() == []


def test_processes_that_add_different_layers_do_not_hinder_each_other(tmp_path):
    work.extract(work.opened(tmp_path), work.keys_of(0, 12), [A])
    done = together(tmp_path, (0, 12, "|".join([A, B]), 0.0), (0, 12, "|".join([A, C]), 0.0))
    assert done == [12, 12]
    assert is_right(work.opened(tmp_path), work.keys_of(0, 12), work.LAYERS)


def test_threads_share_one_store_and_readers_see_whole_rows_only(tmp_path):
    store, keys = work.opened(tmp_path), work.keys_of(0, 24)
    failures, ended = [], threading.Event()

    def read():
        reader = FeatureStore.open(store.path).reader([A])
        while not ended.is_set():
            there = FeatureStore.open(store.path)
            committed = [key for key in keys if key not in set(there.missing(keys, [A]))]
            rows = there.rows(committed, [A])
            for key, row in zip(committed, rows, strict=True):
                if not np.array_equal(reader.read(A, [row])[0], work.map_of(key, A).astype(np.float16)):
                    failures.append(key)
            array = zarr.open_group(store.path, mode="r")[A][:]
            if not np.isfinite(array[rows[rows < len(array)]]).all():
                failures.append("stock")

    done = []
    writers = [threading.Thread(target=lambda: done.extend(work.extract(store, keys))) for _ in range(2)]
    watcher = threading.Thread(target=read)
    for thread in (watcher, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    ended.set()
    watcher.join()
    assert failures == []
    assert len(done) == 72
    assert is_right(store, keys, work.LAYERS)


def test_a_reader_works_on_after_a_fork(tmp_path):
    store = work.opened(tmp_path)
    work.extract(store, work.keys_of(0, 6))
    reader = store.reader([A])
    reader.read(A, [0])
    process = os.fork()
    if process == 0:
        right = is_right(store, work.keys_of(0, 6), [A]) and reader.read(A, [5, 1]).shape[0] == 2
        os._exit(0 if right else 1)
    assert os.waitpid(process, 0)[1] == 0
    assert is_right(store, work.keys_of(0, 6), [A])


def test_an_ended_process_is_known_to_be_gone_and_a_living_one_is_not():
    assert not Owner.me().is_gone()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    me = Owner.me()
    living = Owner(me.machine, child.pid, "")
    assert living.is_gone(), "the same number, but started at another moment"
    child.kill()
    child.wait()
    assert Owner(me.machine, child.pid, me.started).is_gone()
    assert not Owner("another machine", child.pid, me.started).is_gone()


def test_data_reach_the_disk_before_their_names_and_names_before_the_record(tmp_path, monkeypatch):
    store = work.opened(tmp_path, [A, B])
    seen = []

    def name_of(descriptor):
        return Path(f"/proc/self/fd/{descriptor}").readlink().name

    fsync, fdatasync, link = os.fsync, os.fdatasync, os.link
    monkeypatch.setattr("os.fsync", lambda fd: (fsync(fd), seen.append(("folder", name_of(fd)))))
    monkeypatch.setattr("os.fdatasync", lambda fd: (fdatasync(fd), seen.append(("data", name_of(fd)))))
    monkeypatch.setattr("os.link", lambda source, target: (link(source, target), seen.append(("name", str(target)))))
    work.fill(store.claim(work.keys_of(0, 4), [A, B]))

    record = seen.index(("name", str(store.core.log.path(3))))
    for layer in (A, B):
        path = store.shard_path(layer, 0)
        named = seen.index(("name", str(path)))
        flushed = [place for place, (what, name) in enumerate(seen) if what == "data" and name.startswith(path.name)]
        assert min(flushed) < named
        assert named < seen.index(("folder", path.parent.name), named) < record
    assert ("data", "0000000003.json") in [(what, name.split(".json")[0] + ".json") for what, name in seen[:record]]
    assert ("folder", "records") in seen[record:]


def test_a_row_has_its_name_before_stock_zarr_is_told_that_it_exists(tmp_path, monkeypatch):
    store = work.opened(tmp_path, [A])
    replaced = []
    replace = os.replace
    monkeypatch.setattr("os.replace", lambda source, target: (replace(source, target), replaced.append(Path(target))))
    work.fill(store.claim(work.keys_of(0, 4), [A]))
    order = [path.relative_to(store.path).as_posix() for path in replaced]
    assert order.index("row_keys/c.0.0") < order.index("valid/c.0") < order.index(f"{A}/zarr.json")
    assert order.index(f"{A}/zarr.json") < order.index("row_keys/zarr.json") < order.index("valid/zarr.json")
    replaced.clear()
    store.declare_layers({B: work.SHAPES[B]})
    assert [path.parent for path in replaced][-2:] == [store.array_path(B), store.path], "an array before the group lists it"


@pytest.mark.slow
def test_eight_processes_share_a_larger_set(tmp_path):
    calls = [(8 * part, 8 * part + 80, "|".join(work.LAYERS), 0.0) for part in range(8)]
    assert sum(together(tmp_path, *calls)) == 136 * 3
    assert is_right(work.opened(tmp_path), work.keys_of(0, 136), work.LAYERS)
