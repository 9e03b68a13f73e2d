"""Shards in an object store: written to a local file first and sent whole, read by ranges or fetched whole through the cache.

One PUT makes a shard, and only creates it. Where an object lies that no record counts (its writer died, or lost its lease),
exactly the object that was seen is replaced, after it was made sure that our lease still holds and no record counts it: a
writer that was taken over cannot overwrite what came after it. Rows are compared with the checksum behind them whenever they
come from the cache or the network.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from storage.backends import ShardSpec
from storage.canonical import digest
from storage.direct import BlockPool
from storage.errors import AlreadyPublishedError, DamagedError, LeaseLostError, ObjectChangedError
from storage.object_cache import ObjectCache
from storage.object_client import ObjectClient
from storage.publish import explained_disk_errors
from storage.shard_rows import CHECKSUM_BYTES, ShardFileSummary, ShardRows, checksum
from storage.shards import ShardFile, ShardFileWriter

__all__ = ["ObjectShard", "ObjectShardWriter", "entry_name", "fetched"]

T = TypeVar("T")
Array = np.ndarray[Any, np.dtype[Any]]

_ATTEMPTS = 5
_NAME_DIGITS = 40


def entry_name(key: str, summary: ShardFileSummary) -> str:
    """Name a shard's entry in the cache: by its place and all its checksums."""
    return digest([key, summary.as_json()], _NAME_DIGITS)


class ObjectShardWriter(ShardFileWriter):
    """Stream rows into a local file; `finish` sends it, `publish` hands the file over to the cache.

    Args:
        partial: the local file; must not exist.
        key: of the object.
        client: requests to the object store.
        cache: keeps what was written for those who read it next.
        confirm: renews the lease; told whether something that lies there is going to be overwritten.
        slot_count: how many rows the shard could hold.
        pool: whose buffers and threads bring it to the local disk.
        compressed: compress each row with zstd.
        expected: bytes of the whole file, if it is not compressed.
    """

    def __init__(
        self,
        partial: Path,
        key: str,
        client: ObjectClient,
        cache: ObjectCache,
        confirm: Callable[[bool], None],
        slot_count: int,
        pool: BlockPool,
        *,
        compressed: bool,
        expected: int,
    ) -> None:
        super().__init__(partial, slot_count, pool, compressed=compressed, expected=expected)
        self._key, self._client, self._cache, self._confirm = key, client, cache, confirm
        self._name = ""

    def finish(self) -> ShardFileSummary:
        """Write the index, send the shard and return what the record must say.

        Raises:
            LeaseLostError: by `confirm`.
            ObjectStoreError: it could not be sent.
        """
        summary = super().finish()
        self._name = entry_name(self._key, summary)
        with self.partial.open("rb") as file:
            self._send(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return summary

    def publish(self, path: Path) -> None:
        """Keep the local file in the cache: the object is there already."""
        self._file.close()
        with explained_disk_errors(self.partial):
            self._cache.adopt(self._name, self.partial)

    def _send(self, data: mmap.mmap) -> None:
        self._confirm(False)
        try:
            self._client.create(self._key, data)
            return
        except AlreadyPublishedError:
            pass
        for _ in range(_ATTEMPTS):
            seen = self._client.head(self._key)
            # After the look: whoever takes us over and writes does so after a record that this would meet.
            self._confirm(True)
            try:
                if seen is None:
                    self._client.create(self._key, data)
                else:
                    self._client.update(self._key, data, seen.tag)
                return
            except (AlreadyPublishedError, ObjectChangedError):
                continue
        raise LeaseLostError(
            f"{self._client.spell(self._key)}: others keep writing to it; nothing was committed here. Run again"
        )


class ObjectShard(ShardRows):
    """Read one published shard: from the local copy if there is one, else by ranges, each of which is kept.

    Args:
        spec: what its record says.
        key: of the object.
        client: requests to the object store.
        cache: None reads past it.
        whole: fetch the whole shard at the first touch, for those who read all of it, again and again.
        keep_cached: leave what is read from the local disk in the page cache.

    Raises:
        DamagedError: it is missing, has another size or another index.
    """

    def __init__(
        self, spec: ShardSpec, key: str, client: ObjectClient, cache: ObjectCache | None, *, whole: bool, keep_cached: bool
    ) -> None:
        super().__init__(client.spell(key), spec.summary, spec.row_shape, spec.dtype, compressed=spec.compressed)
        self._spec, self._key, self._client, self._cache = spec, key, client, cache
        self._entry, self._keep_cached = entry_name(key, spec.summary), keep_cached
        self._copy = self._opened_copy(fetch=whole)
        if self._copy is None:
            self._index = self._read_index(spec.slot_count, spec.summary.index_crc32c)

    def payload(self, slot: int, crc32c: int | None = None) -> Array:
        """See `ShardRows.payload`."""
        return self._sound(lambda copy: copy.payload(slot, crc32c), lambda: super(ObjectShard, self).payload(slot, crc32c))

    def read_into(self, slot: int, out: Array, crc32c: int | None = None) -> None:
        """See `ShardRows.read_into`."""
        self._sound(
            lambda copy: copy.read_into(slot, out, crc32c),
            lambda: super(ObjectShard, self).read_into(slot, out, crc32c),
        )

    def view(self, slot: int, crc32c: int | None = None) -> Array:
        """See `ShardRows.view`: mapped if there is a local copy, else read."""
        return self._sound(lambda copy: copy.view(slot, crc32c), lambda: self._read_row(slot, crc32c))

    def _read_row(self, slot: int, crc32c: int | None) -> Array:
        row = np.empty(self._row_shape, self._dtype)
        super().read_into(slot, row, crc32c)
        return row

    def _sound(self, from_copy: Callable[[ShardFile], T], from_object: Callable[[], T]) -> T:
        """Read from the local copy; if that is damaged or gone, forget it and read the object."""
        copy = self._copy
        if copy is not None:
            try:
                return from_copy(copy)
            except DamagedError:
                self._forget()
        return from_object()

    def _read_index(self, slot_count: int, crc32c: int) -> Array:
        try:
            return super()._read_index(slot_count, crc32c)
        except DamagedError:
            if self._cache is None:
                raise
        # Perhaps the cache had it wrong.
        self._cache.drop(self._entry)
        return super()._read_index(slot_count, crc32c)

    def _forget(self) -> None:
        self._copy = None
        if self._cache is not None:
            self._cache.drop(self._entry)
        if not len(self._index):
            self._index = self._read_index(self._spec.slot_count, self._spec.summary.index_crc32c)

    def _opened_copy(self, *, fetch: bool) -> ShardFile | None:
        if self._cache is None:
            return None
        with self._cache.one_at_a_time(self._entry):
            path = self._cache.find(self._entry)
            if path is None and fetch and self._cache.takes(self._size):
                self._cache.adopt(self._entry, fetched(self._client, self._key, self._spec, self._cache))
                path = self._cache.find(self._entry)
        if path is None:
            return None
        try:
            return local_shard(path, self._spec, keep_cached=self._keep_cached)
        except DamagedError:
            self._cache.drop(self._entry)
            return None

    def _row_into(self, slot: int, target: memoryview) -> None:
        """Read a row with the checksum behind it, and compare; what the cache had wrong is fetched again."""
        offset, length = self._extent(slot)
        name = f"{self._entry}.{offset}"
        for _ in range(2):
            data = self._piece(name, offset, length + CHECKSUM_BYTES)
            if len(data) == length + CHECKSUM_BYTES and checksum(data[:length]) == int.from_bytes(data[length:], "little"):
                target[:] = data[:length]
                return
            if self._cache is not None:
                self._cache.drop(name)
        raise DamagedError(f"{self.name}: the bytes of slot {slot} do not match the checksum behind them")

    def _read_into(self, target: memoryview, offset: int) -> None:
        data = self._piece(f"{self._entry}.{offset}", offset, len(target))
        if len(data) != len(target):
            raise DamagedError(f"{self.name}: the object ends at byte {offset + len(data)}, expected {self._size}")
        target[:] = data

    def _piece(self, name: str, offset: int, length: int) -> bytes:
        kept = None if self._cache is None else self._cache.read(name)
        if kept is not None and len(kept) == length:
            return kept
        try:
            data, size = self._client.get_range(self._key, offset, length)
        except FileNotFoundError as error:
            raise DamagedError(f"{self.name}: the object is gone") from error
        if size != self._size:
            raise DamagedError(f"{self.name}: {size} bytes, expected {self._size}")
        if self._cache is not None:
            self._cache.add(name, data)
        return data


def local_shard(path: Path, spec: ShardSpec, *, keep_cached: bool) -> ShardFile:
    """Open a local copy of a shard."""
    return ShardFile(
        path, spec.summary, spec.slot_count, spec.row_shape, spec.dtype, compressed=spec.compressed, keep_cached=keep_cached
    )


def fetched(client: ObjectClient, key: str, spec: ShardSpec, cache: ObjectCache) -> Path:
    """Fetch a whole object into a file of the cache's folder, which the caller adopts or removes.

    Raises:
        DamagedError: it is gone, or has another size than committed.
    """
    target = cache.new_file()
    try:
        with explained_disk_errors(target, spec.summary.bytes), target.open("xb") as file:
            size = client.download(key, spec.summary.bytes, file.write)
        if size != spec.summary.bytes:
            raise DamagedError(f"{client.spell(key)}: {size} bytes, expected {spec.summary.bytes}")
    except FileNotFoundError as error:
        target.unlink(missing_ok=True)
        raise DamagedError(f"{client.spell(key)}: the object is gone") from error
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target
