"""Transfers past the page cache: any sizes at any offsets give the file's bytes, whatever the file system takes."""

import ctypes
import errno
import fcntl
import mmap
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import direct
from storage.direct import BLOCK_BYTES, BlockPool, BlockReader, BlockWriter, is_cached

SMALL_BUFFER = 2 * BLOCK_BYTES


@pytest.fixture(autouse=True)
def _small_buffers(monkeypatch):
    """Several buffers' worth of bytes without megabytes of them."""
    monkeypatch.setattr(direct, "_BUFFER_BYTES", SMALL_BUFFER)
    monkeypatch.setattr(direct, "PLACED_FROM", SMALL_BUFFER)
    monkeypatch.setattr(direct, "_scratch", direct.threading.local())


def noise(count, seed=0):
    return np.random.default_rng(seed).bytes(count)


def write(path, pieces, expected=None):
    writer = BlockWriter(path, BlockPool(spare=3), expected)
    try:
        for piece in pieces:
            writer.write(memoryview(piece))
        writer.finish()
        return writer.size
    finally:
        writer.close()


def read(path, offset, count):
    target = bytearray(count)
    with path.open("rb") as file:
        found = BlockReader(path, file.fileno()).read_into(memoryview(target), offset)
    return bytes(target[:found])


def without_direct(monkeypatch):
    """Have the file system refuse direct transfers when a file is opened, as some do."""
    opened = os.open

    def refusing(path, flags, *mode):
        descriptor = opened(path, flags & ~direct._DIRECT, *mode)
        if flags & direct._DIRECT:
            os.close(descriptor)
            raise OSError(errno.EINVAL, "no direct transfers here")
        return descriptor

    monkeypatch.setattr("storage.direct.os.open", refusing)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3 * SMALL_BUFFER), max_size=8))
def test_pieces_of_any_size_become_one_file(tmp_path_factory, sizes):
    path = tmp_path_factory.mktemp("direct") / "file"
    pieces = [noise(size, seed) for seed, size in enumerate(sizes)]
    assert write(path, pieces) == sum(sizes)
    assert path.read_bytes() == b"".join(pieces)


def _open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir()) if sys.platform == "linux" else 0


def _can_allocate(folder):
    with (folder / "asked").open("wb") as file:
        direct._allocate(file.fileno(), 1)
        return os.fstat(file.fileno()).st_size == 1


@pytest.mark.parametrize("off", [-SMALL_BUFFER, -1, 0, 1, 10 * SMALL_BUFFER])
def test_what_was_expected_has_its_place_at_once_and_the_file_is_as_long_as_what_came(tmp_path, off):
    data = noise(5 * SMALL_BUFFER + 33)
    writer = BlockWriter(tmp_path / "file", BlockPool(), len(data) + off)
    try:
        status = (tmp_path / "file").stat()
        if _can_allocate(tmp_path):
            assert status.st_size == len(data) + off <= status.st_blocks * 512
        writer.write(memoryview(data))
        writer.finish()
    finally:
        writer.close()
    assert (tmp_path / "file").read_bytes() == data


@pytest.fixture
def refuse(monkeypatch):
    """Have the C library's function interrupted first, and then refuse with an error; tells how often it was asked."""
    asked = []

    def with_error(number):
        def refusing(*arguments):
            asked.append(arguments)
            ctypes.set_errno(errno.EINTR if len(asked) == 1 else number)
            return -1

        monkeypatch.setattr(direct, "_c_function", lambda *names: refusing)
        return asked

    return with_error


def test_where_files_get_no_place_before_they_are_written_all_the_same(tmp_path, refuse):
    asked = refuse(errno.EOPNOTSUPP)
    data = noise(3 * SMALL_BUFFER + 5)
    write(tmp_path / "file", [data], len(data))
    assert (tmp_path / "file").read_bytes() == data
    assert len(asked) == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_file_for_which_there_is_no_place_is_refused_and_leaves_nothing(tmp_path, refuse, number):
    refuse(number)
    before = _open_files()
    with pytest.raises(OSError, match=os.strerror(number)):
        BlockWriter(tmp_path / "file", BlockPool(), 3 * SMALL_BUFFER)
    assert not list(tmp_path.iterdir())
    assert _open_files() == before


@pytest.mark.parametrize("offset", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 5 * BLOCK_BYTES + 17])
@pytest.mark.parametrize("count", [0, 1, BLOCK_BYTES, SMALL_BUFFER + 1, 4 * SMALL_BUFFER])
def test_any_piece_can_be_read_back(tmp_path, offset, count):
    data = noise(5 * SMALL_BUFFER + 33)
    (tmp_path / "file").write_bytes(data)
    assert read(tmp_path / "file", offset, count) == data[offset : offset + count]


def test_reading_beyond_the_end_tells_how_much_there_was(tmp_path):
    (tmp_path / "file").write_bytes(noise(1000))
    assert read(tmp_path / "file", 900, 500) == noise(1000)[900:]
    assert read(tmp_path / "file", 5000, 10) == b""


def test_a_file_system_without_direct_transfers_gives_the_same_bytes(tmp_path, monkeypatch):
    without_direct(monkeypatch)
    assert write(tmp_path / "file", [noise(3 * SMALL_BUFFER + 5)]) == 3 * SMALL_BUFFER + 5
    assert read(tmp_path / "file", 7, SMALL_BUFFER) == noise(3 * SMALL_BUFFER + 5)[7 : 7 + SMALL_BUFFER]


@pytest.mark.parametrize("name", ["pwrite", "preadv"])
def test_a_file_system_that_refuses_at_the_first_transfer_gives_the_same_bytes(tmp_path, monkeypatch, name):
    real = getattr(os, name)

    def transfer(descriptor, *arguments):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & direct._DIRECT:
            raise OSError(errno.EINVAL, "not aligned to what this disk wants")
        return real(descriptor, *arguments)

    monkeypatch.setattr(f"storage.direct.os.{name}", transfer)
    data = noise(3 * SMALL_BUFFER + 5)
    write(tmp_path / "file", [data])
    assert (tmp_path / "file").read_bytes() == data
    assert read(tmp_path / "file", 7, SMALL_BUFFER) == data[7 : 7 + SMALL_BUFFER]


@pytest.mark.parametrize("most", [BLOCK_BYTES, 1000])
def test_after_a_short_write_the_rest_follows(tmp_path, monkeypatch, most):
    # Less than a block at a time: a disk of small blocks that is almost full.
    real = os.pwrite
    monkeypatch.setattr("storage.direct.os.pwrite", lambda descriptor, view, offset: real(descriptor, view[:most], offset))
    write(tmp_path / "file", [noise(5 * SMALL_BUFFER + 9)])
    assert (tmp_path / "file").read_bytes() == noise(5 * SMALL_BUFFER + 9)


def test_an_error_in_the_background_reaches_the_writer(tmp_path, monkeypatch):
    def full(descriptor, view, offset):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("storage.direct.os.pwrite", full)
    with pytest.raises(OSError, match="no space left"):
        write(tmp_path / "file", [noise(4 * SMALL_BUFFER)])


def test_a_name_that_is_taken_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        BlockWriter(tmp_path / "file", BlockPool())
    assert (tmp_path / "file").read_bytes() == b"theirs"


def test_a_file_that_was_replaced_is_not_mistaken_for_the_old_one(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as old:
        path.unlink()
        path.write_bytes(b"new")
        with pytest.raises(FileNotFoundError, match="another file"):
            BlockReader(path, old.fileno())


def test_files_written_side_by_side_share_buffers_and_get_their_own_bytes(tmp_path):
    pool = BlockPool(threads=3, spare=1)
    pieces = [[noise(size, 10 * file + size) for size in (SMALL_BUFFER - 1, 3, 2 * SMALL_BUFFER)] for file in range(5)]
    writers = [BlockWriter(tmp_path / str(file), pool) for file in range(5)]
    for turn in zip(*pieces, strict=True):
        for writer, piece in zip(writers, turn, strict=True):
            writer.write(memoryview(piece))
    for writer in writers:
        writer.finish()
        writer.close()
    assert [(tmp_path / str(file)).read_bytes() for file in range(5)] == [b"".join(file) for file in pieces]


def test_an_error_in_the_background_does_not_keep_the_buffers(tmp_path, monkeypatch):
    pool, real = BlockPool(spare=1), os.pwrite

    def full(descriptor, view, offset):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("storage.direct.os.pwrite", full)
    writer = BlockWriter(tmp_path / "first", pool)
    writer.write(memoryview(noise(SMALL_BUFFER)))
    with pytest.raises(OSError, match="no space left"):
        writer.finish()
    writer.close()
    monkeypatch.setattr("storage.direct.os.pwrite", real)
    second = BlockWriter(tmp_path / "second", pool)
    second.write(memoryview(noise(4 * SMALL_BUFFER)))
    second.finish()
    second.close()
    assert (tmp_path / "second").read_bytes() == noise(4 * SMALL_BUFFER)


@pytest.mark.parametrize("size", [1, mmap.PAGESIZE, 5 * mmap.PAGESIZE + 1])
def test_a_file_that_was_just_written_lies_in_the_page_cache(tmp_path, monkeypatch, size):
    monkeypatch.setattr(direct, "_PAGES_ASKED", 2)
    (tmp_path / "file").write_bytes(noise(size))
    with (tmp_path / "file").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert is_cached(mapped)


@pytest.mark.parametrize(("missing", "asked"), [(0, 1), (2, 2), (4, 3), (None, 3)])
def test_the_first_page_that_is_missing_ends_the_question(tmp_path, monkeypatch, missing, asked):
    monkeypatch.setattr(direct, "_PAGES_ASKED", 2)
    questions = []

    def mincore(address, count, pages):
        first = 2 * len(questions)
        questions.append(count.value)
        answers = bytes(page != missing for page in range(first, first + -(-count.value // mmap.PAGESIZE)))
        ctypes.memmove(pages.value, answers, len(answers))
        return 0

    monkeypatch.setattr(direct, "_c_function", lambda *names: mincore)
    (tmp_path / "file").write_bytes(noise(4 * mmap.PAGESIZE + 7))
    with (tmp_path / "file").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert is_cached(mapped) == (missing is None)
    assert questions == [2 * mmap.PAGESIZE, 2 * mmap.PAGESIZE, 7][:asked]
