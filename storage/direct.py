"""Bytes to and from the disk past the page cache, where the file system can; through it where it cannot.

A store is written once and is often larger than memory. Through the page cache each byte costs a page to be found, touched and
written back, which on many machines (above all virtual ones, whose memory is given to them page by page) is far slower
than the disk. Direct transfers need whole, aligned blocks: a `BlockWriter` gathers them, a `BlockReader` cuts them out.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

__all__ = ["BLOCK_BYTES", "BlockReader", "BlockWriter", "is_cached"]

BLOCK_BYTES = 4096
"""Alignment of offsets, lengths and memory: what every common device takes."""

_BUFFER_BYTES = 1 << 21
_DIRECT = getattr(os, "O_DIRECT", 0)
_scratch = threading.local()
_REFUSED = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})
"""How a file system says that it does not take this flag."""


class BlockWriter:
    """Write a new file from its beginning to its end; blocks leave in the background while the next ones are gathered.

    Args:
        path: must not exist.
        executor: whose threads write.

    Raises:
        FileExistsError: it does.
    """

    def __init__(self, path: Path, executor: ThreadPoolExecutor) -> None:
        self._executor = executor
        self._descriptor = _open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self._buffers = [mmap.mmap(-1, _BUFFER_BYTES), mmap.mmap(-1, _BUFFER_BYTES)]
        self._filled = 0
        self._flushed = 0
        self._leaving: Future[None] | None = None
        self._closed = False

    @property
    def size(self) -> int:
        """How many bytes were given so far."""
        return self._flushed + self._filled

    def write(self, data: memoryview) -> None:
        """Append bytes. An error of an earlier write shows here, or in `finish`."""
        while data:
            count = min(len(data), _BUFFER_BYTES - self._filled)
            self._buffers[0][self._filled : self._filled + count] = data[:count]
            self._filled += count
            data = data[count:]
            if self._filled == _BUFFER_BYTES:
                self._flush()

    def finish(self) -> None:
        """Write what is left, and have the disk keep all of it."""
        self._wait()
        whole = self._filled - self._filled % BLOCK_BYTES
        self._write_at(self._buffers[0], 0, whole, self._flushed)
        _clear_direct(self._descriptor)
        self._write_at(self._buffers[0], whole, self._filled, self._flushed + whole)
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file, finished or not. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._leaving is not None:
            self._leaving.exception()
        os.close(self._descriptor)

    def _flush(self) -> None:
        self._wait()
        self._leaving = self._executor.submit(self._write_at, self._buffers[0], 0, _BUFFER_BYTES, self._flushed)
        self._flushed += _BUFFER_BYTES
        self._filled = 0
        self._buffers.reverse()

    def _wait(self) -> None:
        if self._leaving is not None:
            leaving, self._leaving = self._leaving, None
            leaving.result()

    def _write_at(self, buffer: mmap.mmap, first: int, last: int, offset: int) -> None:
        """Write buffer[first:last] at a file offset; after a short write, go on through the page cache, at any size."""
        view = memoryview(buffer)
        while first < last:
            try:
                count = os.pwrite(self._descriptor, view[first:last], offset)
            except OSError as error:
                if error.errno != errno.EINVAL or not _clear_direct(self._descriptor):
                    raise
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
        done = 0
        while done < len(target):
            skipped = (offset + done) % BLOCK_BYTES
            blocks = -(-(skipped + len(target) - done) // BLOCK_BYTES)
            view = memoryview(_buffer())[: min(_BUFFER_BYTES, blocks * BLOCK_BYTES)]
            count = min(self._read(view, offset + done - skipped) - skipped, len(target) - done)
            if count <= 0:
                break
            target[done : done + count] = view[skipped : skipped + count]
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
    """Tell whether the page cache holds all of a mapped file (mapped so that it may be written to, privately or not)."""
    try:
        mincore = ctypes.CDLL(None, use_errno=True).mincore
    except (AttributeError, OSError):
        return False
    pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    if mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(mapped)), pages) != 0:
        return False
    return all(page & 1 for page in bytes(pages))


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
