"""Bytes to and from the disk past the page cache, where the file system can; through it where it cannot.

A store is written once and is often larger than memory. Through the page cache each byte costs a page to be found, touched and
written back, which on many machines (above all virtual ones, whose memory is given to them page by page) is far slower
than the disk. Direct transfers need whole, aligned blocks: a `BlockWriter` gathers them, a `BlockReader` cuts them out.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

__all__ = ["BLOCK_BYTES", "PLACED_FROM", "BlockPool", "BlockReader", "BlockWriter", "is_cached"]

BLOCK_BYTES = 4096
"""Alignment of offsets, lengths and memory: what every common device takes."""

_BUFFER_BYTES = 1 << 21
PLACED_FROM = _BUFFER_BYTES
"""Bytes of a file above which it gets its place on the disk before it is written: fewer are one transfer."""
_DIRECT = getattr(os, "O_DIRECT", 0)
_PAGES_ASKED = 1024
_scratch = threading.local()
_REFUSED = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})
"""How a file system says that it does not take this flag."""
_NO_PLACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""How it says that a file cannot have so many bytes."""


class BlockPool:
    """Aligned buffers, and the threads that write them out: shared by files that are written side by side.

    Args:
        threads: transfers at a time; disks want several.
        spare: buffers that may be on their way to the disk; who needs one more waits.
    """

    def __init__(self, threads: int = 4, spare: int = 8) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="disk")
        self._free: deque[memoryview] = deque()
        self._spare = threading.BoundedSemaphore(spare)

    def take(self) -> memoryview:
        """Return a buffer that nobody uses."""
        try:
            return self._free.pop()
        except IndexError:
            return _new_buffer()

    def give(self, buffer: memoryview) -> None:
        """Take a buffer back."""
        self._free.append(buffer)

    def submit(self, write: Callable[[memoryview, int, int, int], None], buffer: memoryview, offset: int) -> Future[None]:
        """Have a full buffer written at a file offset in the background, and taken back."""
        self._spare.acquire()

        def run() -> None:
            try:
                write(buffer, 0, len(buffer), offset)
            finally:
                self._free.append(buffer)
                self._spare.release()

        try:
            return self._executor.submit(run)
        except RuntimeError:
            self._spare.release()
            raise


class BlockWriter:
    """Write a new file from its beginning to its end; full buffers leave in the background while the next one is filled.

    Args:
        path: must not exist.
        pool: whose buffers are filled, and whose threads write.
        expected: how many bytes are going to be given, where that is known. Above `PLACED_FROM` they get their place on the
            disk at once: file systems let a file grow by one transfer at a time, and take several inside it.

    Raises:
        FileExistsError: it does.
        OSError: the disk has no place for what is expected; no file is left.
    """

    def __init__(self, path: Path, pool: BlockPool, expected: int | None = None) -> None:
        self._pool = pool
        self._descriptor = _open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        if expected is not None and expected > PLACED_FROM:
            try:
                _allocate(self._descriptor, expected)
            except BaseException:
                os.close(self._descriptor)
                path.unlink()
                raise
        self._buffer: memoryview | None = None
        self._filled = 0
        self._flushed = 0
        self._leaving: deque[Future[None]] = deque()
        self._closed = False

    @property
    def size(self) -> int:
        """How many bytes were given so far."""
        return self._flushed + self._filled

    def write(self, data: memoryview) -> None:
        """Append bytes. An error of an earlier write shows here, or in `finish`."""
        while data:
            room = self.room()
            count = min(len(data), len(room))
            room[:count] = data[:count]
            self.advance(count)
            data = data[count:]

    def room(self) -> memoryview:
        """Return the memory that the next bytes go to, at least one: fill its beginning, then `advance`."""
        if self._buffer is None:
            self._buffer = self._pool.take()
        return self._buffer[self._filled :]

    def advance(self, count: int) -> None:
        """Take the first `count` bytes of `room` as appended."""
        self._filled += count
        if self._buffer is not None and self._filled == len(self._buffer):
            self._wait(most=None)
            self._leaving.append(self._pool.submit(self._write_at, self._buffer, self._flushed))
            self._flushed += self._filled
            self._filled, self._buffer = 0, None

    def finish(self) -> None:
        """Write what is left, and have the disk keep all of it."""
        self._wait(most=0)
        if self._buffer is not None:
            whole = self._filled - self._filled % BLOCK_BYTES
            self._write_at(self._buffer, 0, whole, self._flushed)
            _clear_direct(self._descriptor)
            self._write_at(self._buffer, whole, self._filled, self._flushed + whole)
        if os.fstat(self._descriptor).st_size != self.size:
            os.ftruncate(self._descriptor, self.size)
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file, finished or not. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        for future in self._leaving:
            future.exception()
        if self._buffer is not None:
            self._pool.give(self._buffer)
        os.close(self._descriptor)

    def _wait(self, most: int | None) -> None:
        """Raise what writes in the background have raised; wait until at most so many are left, if a number is given."""
        while self._leaving and (self._leaving[0].done() or (most is not None and len(self._leaving) > most)):
            self._leaving.popleft().result()

    def _write_at(self, buffer: memoryview, first: int, last: int, offset: int) -> None:
        """Write buffer[first:last] at a file offset; after a short write, go on through the page cache, at any size."""
        refused = False
        while first < last:
            try:
                count = os.pwrite(self._descriptor, buffer[first:last], offset)
            except OSError as error:
                # Refused once it may be for the flag, whether it is still set or another thread has cleared it meanwhile.
                if error.errno != errno.EINVAL or refused:
                    raise
                refused = True
                _clear_direct(self._descriptor)
                continue
            if count < last - first:
                _clear_direct(self._descriptor)
            first, offset = first + count, offset + count


class BlockReader:
    """Read pieces of a finished file without leaving them in the page cache. Safe among threads and after a fork.

    Args:
        path: the file.
        like: a descriptor of it that is open already.

    Raises:
        FileNotFoundError: there is none, or it is another one by now.
    """

    def __init__(self, path: Path, like: int) -> None:
        self._descriptor = _open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        if not os.path.sameopenfile(self._descriptor, like):
            raise FileNotFoundError(errno.ENOENT, "another file has taken its place", str(path))

    def read_into(self, target: memoryview, offset: int) -> int:
        """Fill `target` with the bytes at `offset`.

        Returns:
            How many there were: fewer than asked for at the file's end only.
        """
        done, out = 0, np.frombuffer(target, np.uint8)
        while done < len(target):
            skipped = (offset + done) % BLOCK_BYTES
            blocks = -(-(skipped + len(target) - done) // BLOCK_BYTES)
            view = memoryview(_buffer())[: min(_BUFFER_BYTES, blocks * BLOCK_BYTES)]
            count = min(self._read(view, offset + done - skipped) - skipped, len(target) - done)
            if count <= 0:
                break
            # By numpy, which lets other threads go on meanwhile.
            np.copyto(out[done : done + count], np.frombuffer(view, np.uint8, count, skipped))
            done += count
        return done

    def _read(self, view: memoryview, offset: int) -> int:
        try:
            return os.preadv(self._descriptor, [view], offset)
        except OSError as error:
            if error.errno != errno.EINVAL or not _clear_direct(self._descriptor):
                raise
            return os.preadv(self._descriptor, [view], offset)


def is_cached(mapped: mmap.mmap) -> bool:
    """Tell whether the page cache holds all of a mapped file."""
    mincore = _c_function("mincore")
    if mincore is None:
        return False
    pages = np.empty(_PAGES_ASKED, np.uint8)
    address, step = np.frombuffer(mapped, np.uint8).ctypes.data, _PAGES_ASKED * mmap.PAGESIZE
    # A few at a time: a file that is not there at all is known by its first pages.
    for first in range(0, len(mapped), step):
        count = min(step, len(mapped) - first)
        if mincore(ctypes.c_void_p(address + first), ctypes.c_size_t(count), ctypes.c_void_p(pages.ctypes.data)) != 0:
            return False
        if not (pages[: -(-count // mmap.PAGESIZE)] & 1).all():
            return False
    return True


def _allocate(descriptor: int, size: int) -> None:
    """Give a file its place on the disk, where the file system knows how.

    `os.posix_fallocate` would write zeros where it does not. Of the two functions, the plain one takes lengths of 32 bits on
    some machines.

    Raises:
        OSError: there is no place for it.
    """
    fallocate = _c_function("fallocate64", "fallocate")
    length = ctypes.c_int64(size)
    while fallocate is not None and fallocate(descriptor, 0, ctypes.c_int64(0), length) != 0:
        number = ctypes.get_errno()
        if number in _NO_PLACE:
            raise OSError(number, os.strerror(number))
        if number != errno.EINTR:
            return


@cache
def _c_function(*names: str) -> Callable[..., int] | None:
    """Return the C library's function of the first of these names that it has, if any."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
    except OSError:
        return None
    return next((getattr(library, name) for name in names if hasattr(library, name)), None)


def _new_buffer() -> memoryview:
    """Return a buffer that begins at a multiple of its size: so the system can make it of one page, which costs it least."""
    memory = mmap.mmap(-1, 2 * _BUFFER_BYTES)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % _BUFFER_BYTES
    with contextlib.suppress(AttributeError, OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)[start : start + _BUFFER_BYTES]


def _buffer() -> mmap.mmap:
    """Return this thread's aligned memory for one transfer."""
    buffer: mmap.mmap | None = getattr(_scratch, "buffer", None)
    if buffer is None:
        buffer = _scratch.buffer = mmap.mmap(-1, _BUFFER_BYTES)
    return buffer


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC | _DIRECT, 0o666)
    except OSError as error:
        if not _DIRECT or error.errno not in _REFUSED:
            raise
    # Linux creates the file before the file system refuses the flag, so what was to be new is there now, and empty.
    return os.open(path, flags & ~os.O_EXCL | os.O_CLOEXEC, 0o666)


def _clear_direct(descriptor: int) -> bool:
    """Have transfers go through the page cache from now on; False if they did already."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if not flags & _DIRECT:
        return False
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~_DIRECT)
    return True
