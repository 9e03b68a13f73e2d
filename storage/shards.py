"""One shard file: the bytes of Zarr v3's sharding codec, streamed out and read back without Zarr.

Rows lie one after the other, each followed by its crc32c; after the last one comes the index (offset and length per slot, all
ones for an empty slot) and its crc32c. Knows nothing of layers, leases or records.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import zstd  # type: ignore[import-untyped]

from storage.direct import BlockPool, BlockReader, BlockWriter, is_cached
from storage.errors import DamagedError
from storage.publish import explained_disk_errors, publish_durable
from storage.shard_rows import CHECKSUM_BYTES, ShardFileSummary, ShardRows, checksum, index_bytes

__all__ = ["CHECKSUM_BYTES", "ShardFile", "ShardFileSummary", "ShardFileWriter", "checksum", "index_bytes"]

Array = np.ndarray[Any, np.dtype[Any]]

_ZSTD_LEVEL = 1
_PIECE = 1 << 18
"""Numbers that are encoded at a time: they stay in the cache until their checksum is taken."""
_FETCHED_WHOLE = 1 << 20
"""Bytes of a file up to which it takes the disk hardly longer than one of its rows."""
_FETCHED_AT_ONCE = 1 << 17
"""Some systems take no more of such advice at a time."""
_EMPTY = np.uint64(2**64 - 1)


class ShardFileWriter:
    """Stream rows into a partial file; `finish`, then `publish` it, or `abandon` it.

    Args:
        partial: the unfinished file; must not exist.
        slot_count: how many rows the shard could hold.
        pool: whose buffers and threads bring it to the disk.
        compressed: compress each row with zstd.
        expected: bytes of the whole file, where they are known before (`storage.shapes.shard_bytes`).
    """

    def __init__(
        self, partial: Path, slot_count: int, pool: BlockPool, *, compressed: bool, expected: int | None = None
    ) -> None:
        self.partial = partial
        self._index = np.full((slot_count, 2), _EMPTY, dtype="<u8")
        self._compressed = compressed
        self._rows_crc32c: list[int] = []
        size = None if compressed else expected
        with explained_disk_errors(partial, size):
            self._file = BlockWriter(partial, pool, size)

    def append(self, slot: int, row: Array) -> None:
        """Write the next row as it is, contiguous. Slots rise."""
        self.append_payload(slot, zstd.compress(row, _ZSTD_LEVEL) if self._compressed else row.reshape(-1).view(np.uint8))

    def append_payload(self, slot: int, payload: Array | bytes) -> None:
        """Write the next row as `ShardFile.payload` gives it. Slots rise."""
        start = self._file.size
        self._write(payload)
        self._end_row(slot, start, checksum(payload))

    def append_encoded(self, slot: int, numbers: Array, dtype: np.dtype[Any], encode: Callable[[Array, Array], bool]) -> bool:
        """Write the next row, encoding it on the way, a piece at a time, so that it crosses the memory bus once.

        Args:
            slot: above the last one's.
            numbers: (n,) of the row, of any type that `encode` takes.
            dtype: of what is written.
            encode: brings some of the numbers into an array of `dtype`, and tells whether they fit.

        Returns:
            False if numbers did not fit: the file is then worthless.
        """
        if self._compressed:
            row = np.empty(numbers.shape, dtype)
            fits = encode(numbers, row)
            self.append(slot, row)
            return fits
        start, row_crc32c, done = self._file.size, 0, 0
        while done < len(numbers):
            # Rows and checksums are whole numbers long, and so is the room behind them.
            room = np.frombuffer(self._file.room(), dtype)[: min(_PIECE, len(numbers) - done)]
            if not encode(numbers[done : done + len(room)], room):
                return False
            row_crc32c = checksum(room, row_crc32c)
            with explained_disk_errors(self.partial):
                self._file.advance(room.nbytes)
            done += len(room)
        self._end_row(slot, start, row_crc32c)
        return True

    def _end_row(self, slot: int, start: int, row_crc32c: int) -> None:
        self._index[slot] = (start, self._file.size - start + CHECKSUM_BYTES)
        self._write(row_crc32c.to_bytes(CHECKSUM_BYTES, "little"))
        self._rows_crc32c.append(row_crc32c)

    def finish(self) -> ShardFileSummary:
        """Write the index, flush everything to the disk and return what the record must say."""
        index = self._index.tobytes()
        index_crc32c = checksum(index)
        self._write(index)
        self._write(index_crc32c.to_bytes(CHECKSUM_BYTES, "little"))
        with explained_disk_errors(self.partial, self._file.size):
            self._file.finish()
        return ShardFileSummary(self._file.size, index_crc32c, tuple(self._rows_crc32c))

    def publish(self, path: Path) -> None:
        """Give the finished file its name.

        Raises:
            AlreadyPublishedError: the name is taken.
        """
        self._file.close()
        with explained_disk_errors(path):
            publish_durable(self.partial, path)

    def abandon(self) -> None:
        """Close and remove the partial file."""
        self._file.close()
        self.partial.unlink(missing_ok=True)

    def _write(self, data: Array | bytes) -> None:
        with explained_disk_errors(self.partial, len(data) if isinstance(data, bytes) else data.nbytes):
            self._file.write(data.data if isinstance(data, np.ndarray) else memoryview(data))


class ShardFile(ShardRows):
    """Read one published shard file. Closed when nobody refers to it any more, so that an eviction cannot pull it away.

    Args:
        path: the file.
        summary: what its record says.
        slot_count: how many rows the shard could hold.
        row_shape: (h, w, C).
        dtype: the stored type.
        compressed: whether rows are zstd frames.
        keep_cached: leave what is read from the disk in the page cache, for those who read it again. A file that lies there
            already is read from there in any case.

    Raises:
        DamagedError: the file is missing, has another size or another index.
    """

    def __init__(
        self,
        path: Path,
        summary: ShardFileSummary,
        slot_count: int,
        row_shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        compressed: bool,
        keep_cached: bool = True,
    ) -> None:
        super().__init__(str(path), summary, row_shape, dtype, compressed=compressed)
        self.path = path
        self._keep_cached = True
        self._blocks: BlockReader | None = None
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise DamagedError(f"{path}: the file is gone") from error
        weakref.finalize(self, os.close, self._descriptor)
        self._check_size()
        if keep_cached and self._size <= _FETCHED_WHOLE:
            self._fetch()
        self._map: mmap.mmap | None = None
        self._index = self._read_index(slot_count, summary.index_crc32c)
        self._keep_cached = keep_cached or self._lies_in_cache()

    def view(self, slot: int, crc32c: int | None = None) -> Array:
        """Return a row of an uncompressed shard as a view of the mapped file; checked if a checksum is given.

        Writes to it, if any, stay private to the process: a read-only array would make torch warn.

        Raises:
            DamagedError: the bytes do not match the checksum, or are not there.
        """
        self._check_size()
        offset, length = self._extent(slot)
        mapped = self._mapped()
        if crc32c is not None:
            # The first touch reads the whole row: one request to the disk instead of one per page.
            mapped.madvise(mmap.MADV_WILLNEED, offset - offset % mmap.PAGESIZE, length + offset % mmap.PAGESIZE)
        row = np.frombuffer(mapped, self._dtype, length // self._dtype.itemsize, offset).reshape(self._row_shape)
        self._compare(slot, row, crc32c)
        return row

    def expect(self, slot: int, offsets: Array, length: int) -> None:
        """Have pieces of a row of an uncompressed shard fetched side by side; see `ShardRows.expect`.

        Touched one after the other, each page that is not in the page cache would wait for the disk by itself.
        """
        self._check_size()
        mapped, begin = self._mapped(), self._extent(slot)[0]
        for first in np.unique((begin + offsets) // mmap.PAGESIZE * mmap.PAGESIZE).tolist():
            mapped.madvise(mmap.MADV_WILLNEED, first, min(length + mmap.PAGESIZE, self._size - first))

    def _fetch(self) -> None:
        """Have all of the file fetched: row by row, in any order, each of its pages would wait for the disk by itself."""
        # Advice that no system has to take; some take little of it at a time.
        with contextlib.suppress(OSError, AttributeError):
            for first in range(0, self._size, _FETCHED_AT_ONCE):
                os.posix_fadvise(self._descriptor, first, _FETCHED_AT_ONCE, os.POSIX_FADV_WILLNEED)

    def _lies_in_cache(self) -> bool:
        # Mapped for the question alone: 256 files kept mapped would be gigabytes against a limit on memory.
        with mmap.mmap(self._descriptor, self._size, access=mmap.ACCESS_READ) as mapped:
            return is_cached(mapped)

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            self._map = mmap.mmap(self._descriptor, self._size, access=mmap.ACCESS_COPY)
        return self._map

    def _read_into(self, target: memoryview, offset: int) -> None:
        count = self._fill(target, offset) if self._keep_cached else self._pass_by(target, offset)
        if count < len(target):
            raise DamagedError(f"{self.path}: the file ends at byte {offset + count}, expected {self._size}")

    def _fill(self, target: memoryview, offset: int) -> int:
        """Read through the page cache; return how many bytes there were."""
        done = 0
        while done < len(target) and (count := os.preadv(self._descriptor, [target[done:]], offset + done)):
            done += count
        return done

    def _pass_by(self, target: memoryview, offset: int) -> int:
        """Read past the page cache; return how many bytes there were."""
        if self._blocks is None:
            try:
                self._blocks = BlockReader(self.path, like=self._descriptor)
            except FileNotFoundError as error:
                raise DamagedError(f"{self.path}: the file is gone") from error
        return self._blocks.read_into(target, offset)

    def _check_size(self) -> None:
        # Mapped bytes beyond the end of a file kill the process, so the size is asked before each view.
        size = os.fstat(self._descriptor).st_size
        if size != self._size:
            raise DamagedError(f"{self.path}: {size} bytes, expected {self._size}")
