"""Shards' files are given their place on the disk before they are written: exactly as much as they take."""

import errno
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from storage import direct, shards
from storage.compaction import compact_store
from storage.direct import BlockWriter
from storage.encoding import DTYPES
from storage.errors import DiskSpaceError

work = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("extracting.py"))))


@pytest.fixture
def expected(monkeypatch):
    """The names of files that were begun, and how many bytes each was to have."""
    found = []

    class Noted(BlockWriter):
        def __init__(self, path, pool, size=None):
            found.append((path.name.partition(".")[0], path, size))
            super().__init__(path, pool, size)

    monkeypatch.setattr(shards, "BlockWriter", Noted)
    return found


def published(path):
    """The file that an unfinished one became."""
    (whole,) = (other for other in path.parent.iterdir() if path.name.startswith(f"{other.name}."))
    return whole.stat().st_size


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_has_as_many_bytes_as_it_was_given(tmp_path, expected, dtype):
    store = work.opened(tmp_path, dtype=dtype)
    # The last shard has fewer rows than slots.
    work.extract(store, work.keys_of(0, 6))
    assert len(expected) == 2 * len(work.LAYERS) * (2 if dtype == "uint8" else 1)
    assert [size for _, _, size in expected] == [published(path) for _, path, _ in expected]


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_so_has_one_that_is_packed_anew(tmp_path, expected, dtype):
    store = work.opened(tmp_path, dtype=dtype)
    for first in (0, 2, 4):
        work.extract(store, work.keys_of(first, first + 2))
    expected.clear()
    sizes = []
    finish = shards.ShardFileWriter.finish

    def finished(self):
        summary = finish(self)
        sizes.append((self.partial, summary.bytes))
        return summary

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards.ShardFileWriter, "finish", finished)
        compact_store(store.path, rewrite_rows=True)
    assert expected
    assert {path: size for _, path, size in expected} == dict(sizes)


def test_what_is_compressed_is_not_known_before(tmp_path, expected):
    work.extract(work.opened(tmp_path, compression="zstd"), work.keys_of(0, 6))
    assert {size for _, _, size in expected} == {None}


def test_without_a_place_for_a_shard_nothing_of_it_is_left_and_it_can_be_written_later(tmp_path, monkeypatch):
    store = work.opened(tmp_path)

    def full(descriptor, size):
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(direct, "PLACED_FROM", 0)
        patch.setattr(direct, "_allocate", full)
        with pytest.raises(DiskSpaceError, match="the disk is full"):
            work.extract(store, work.keys_of(0, 6))
    assert not list(tmp_path.rglob("*.partial"))
    work.extract(store, work.keys_of(0, 6))
    assert len(store.committed_rows(work.LAYERS[0])) == 6
