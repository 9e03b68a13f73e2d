"""Rows of one published shard, found by the index at its end and compared with what its record says, wherever the bytes lie.

The layout is that of Zarr v3's sharding codec (`storage.shards`). Where bytes come from is decided by who derives from
`ShardRows`: a file of a disk, or an object.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from crc32c import crc32c as extend_crc32c
from numcodecs import zstd  # type: ignore[import-untyped]

from storage.errors import DamagedError

__all__ = ["CHECKSUM_BYTES", "ShardFileSummary", "ShardRows", "checksum", "index_bytes"]

Array = np.ndarray[Any, np.dtype[Any]]

CHECKSUM_BYTES = 4


def checksum(data: Array | bytes, start: int = 0) -> int:
    """Return the crc32c of contiguous bytes, going on from `start`. While there are many, other threads go on."""
    return extend_crc32c(data if isinstance(data, bytes) else data.data, start)


def index_bytes(slot_count: int) -> int:
    """Return the size of a shard's index with its checksum."""
    return 16 * slot_count + CHECKSUM_BYTES


@dataclass(frozen=True)
class ShardFileSummary:
    """What a record says of one file.

    There is no checksum of the whole file, because it would say nothing: rows followed by their own crc32c have the same crc32c
    whatever they hold, so that two swapped files would pass. Row by row and with the index, every byte is covered.

    Args:
        bytes: the file's size.
        index_crc32c: of the index at its end.
        rows_crc32c: of each written row's stored (perhaps compressed) bytes, in slot order.
    """

    bytes: int
    index_crc32c: int
    rows_crc32c: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "rows_crc32c": list(self.rows_crc32c)}


class ShardRows(ABC):
    """Read the rows of one published shard.

    Args:
        name: the shard's, for messages.
        summary: what its record says.
        row_shape: (h, w, C).
        dtype: the stored type.
        compressed: whether rows are zstd frames.
    """

    def __init__(
        self, name: str, summary: ShardFileSummary, row_shape: tuple[int, ...], dtype: np.dtype[Any], *, compressed: bool
    ) -> None:
        self.name, self.compressed = name, compressed
        self._size, self._row_shape, self._dtype = summary.bytes, row_shape, dtype
        self._row_bytes = int(np.prod(row_shape)) * dtype.itemsize
        self._index: Array = np.empty((0, 2), "<u8")

    def payload(self, slot: int, crc32c: int | None = None) -> Array:
        """Return the stored bytes of a row, copied, as uint8; checked if a checksum is given.

        Raises:
            DamagedError: they do not match the checksum, or are not there.
        """
        data = np.empty(self._extent(slot)[1], np.uint8)
        self._row_into(slot, data.data)
        self._compare(slot, data, crc32c)
        return data

    def read_into(self, slot: int, out: Array, crc32c: int | None = None) -> None:
        """Read a row into `out`, contiguous (h, w, C) of the stored type; checked if a checksum is given.

        Raises:
            DamagedError: the bytes do not match the checksum, or are not there.
        """
        if self.compressed:
            data = self.payload(slot, crc32c)
            try:
                np.copyto(out, np.frombuffer(zstd.decompress(data), self._dtype).reshape(self._row_shape))
            except (RuntimeError, ValueError) as error:
                raise DamagedError(f"{self.name}: slot {slot} does not decompress ({error})") from error
            return
        self._row_into(slot, out.reshape(-1).view(np.uint8).data)
        self._compare(slot, out, crc32c)

    @abstractmethod
    def view(self, slot: int, crc32c: int | None = None) -> Array:
        """Return a row of an uncompressed shard, mapped where that can be; checked if a checksum is given.

        Raises:
            DamagedError: the bytes do not match the checksum, or are not there.
        """

    def expect(self, slot: int, offsets: Array, length: int) -> None:  # noqa: B027
        """Have pieces of a row of an uncompressed shard fetched side by side, if that can be: they are going to be read.

        Args:
            slot: the row's.
            offsets: (n,) where each begins, in bytes from the row's beginning.
            length: bytes of each.

        Raises:
            DamagedError: the index gives the row bytes that are not there.
        """

    def is_whole(self, slot: int, crc32c: int) -> bool:
        """Tell whether a row and the checksum behind it, which stock Zarr compares, are those committed."""
        offset, length = self._extent(slot)
        data = np.empty(length + CHECKSUM_BYTES, np.uint8)
        self._read_into(data.data, offset)
        return checksum(data[:-CHECKSUM_BYTES]) == crc32c == int.from_bytes(data[-CHECKSUM_BYTES:].tobytes(), "little")

    @abstractmethod
    def _read_into(self, target: memoryview, offset: int) -> None:
        """Fill `target` with the bytes from `offset` on.

        Raises:
            DamagedError: they are not there.
        """

    def _row_into(self, slot: int, target: memoryview) -> None:
        self._read_into(target, self._extent(slot)[0])

    def _compare(self, slot: int, data: Array, crc32c: int | None) -> None:
        if crc32c is not None and checksum(data) != crc32c:
            raise DamagedError(f"{self.name}: the bytes of slot {slot} do not match their checksum")

    def _extent(self, slot: int) -> tuple[int, int]:
        offset, length = int(self._index[slot, 0]), int(self._index[slot, 1]) - CHECKSUM_BYTES
        if not (0 <= offset <= offset + length <= self._size) or not (self.compressed or length == self._row_bytes):
            raise DamagedError(f"{self.name}: the index gives slot {slot} bytes that are not there")
        return offset, length

    def _read_index(self, slot_count: int, crc32c: int) -> Array:
        data = np.empty(index_bytes(slot_count), np.uint8)
        if self._size < data.size:
            raise DamagedError(f"{self.name}: {self._size} bytes cannot hold an index of {slot_count} slots")
        self._read_into(data.data, self._size - data.size)
        index, trailer = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
        if not checksum(index) == crc32c == int.from_bytes(trailer.tobytes(), "little"):
            raise DamagedError(f"{self.name}: the index at the end is not the one committed")
        return index.view("<u8").reshape(slot_count, 2)
