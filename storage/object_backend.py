"""Stores in an object store, behind the local folder that mirrors them.

The mirror holds only what can be lost: the index of rows, locks among the processes of this machine, unfinished shards, and the
cache. What counts is in the objects alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from storage.backends import PLACE_FILE, ShardSpec
from storage.canonical import is_key, read_json
from storage.direct import BlockPool
from storage.errors import FormatError
from storage.files import Files
from storage.layout import StoreLayout
from storage.object_cache import ObjectCache
from storage.object_client import ObjectClient
from storage.object_files import ObjectFiles
from storage.object_leases import ObjectLeaseBook
from storage.object_shards import ObjectShard, ObjectShardWriter, fetched, local_shard
from storage.publish import ensure_folder, partial_path
from storage.records import RecordLog
from storage.shard_rows import ShardRows
from storage.shards import ShardFileWriter

__all__ = ["ObjectBackend"]

_CACHE = "cache"


class ObjectBackend:
    """See `storage.backends.Backend`.

    Args:
        client: requests to the URL.
        mirror: the local folder that stands for it, resolved.
    """

    remote = True

    def __init__(self, client: ObjectClient, mirror: Path) -> None:
        self._client, self._mirror = client, mirror
        self._objects = ObjectFiles(client, mirror)
        self._cache = ObjectCache(mirror / _CACHE)
        self.files: Files = self._objects

    @classmethod
    def of_mirror(cls, stores_root: Path) -> ObjectBackend:
        """Return the backend of a mirror, one per process.

        Raises:
            ObjectStoreError: its object store is away, or not configured.
            FormatError: the mirror does not say of what it is one.
        """
        return _backend(stores_root.resolve(), os.getpid())

    def store_paths(self) -> list[Path]:
        """See `Backend.store_paths`."""
        return [self._mirror / name for name in self._client.folders() if is_key(name) and self.has_store(self._mirror / name)]

    def has_store(self, path: Path) -> bool:
        """See `Backend.has_store`; prepares the mirror of a store that is there."""
        records = StoreLayout(path).records
        there = next(self._client.listed(self._objects.key(records)), None) is not None
        if there:
            ensure_folder(records)
        return there

    def leases(
        self, layout: StoreLayout, log: RecordLog, last_number: Callable[[], int], now: Callable[[], float]
    ) -> ObjectLeaseBook:
        """See `Backend.leases`."""
        return ObjectLeaseBook(self._client, self._objects.key(layout.leases), log, last_number, now)

    def write_shard(
        self,
        path: Path,
        owner: str,
        slot_count: int,
        pool: BlockPool,
        confirm: Callable[[bool], None],
        *,
        compressed: bool,
        expected: int,
    ) -> ShardFileWriter:
        """See `Backend.write_shard`."""
        return ObjectShardWriter(
            partial_path(path, owner),
            self._objects.key(path),
            self._client,
            self._cache,
            confirm,
            slot_count,
            pool,
            compressed=compressed,
            expected=expected,
        )

    def read_shard(self, spec: ShardSpec, *, keep_cached: bool) -> ShardRows:
        """See `Backend.read_shard`; whoever wants rows kept reads them often: the shard is fetched whole."""
        key = self._objects.key(spec.path)
        return ObjectShard(spec, key, self._client, self._cache, whole=keep_cached, keep_cached=keep_cached)

    def examine_shard(self, spec: ShardSpec, *, deep: bool) -> ShardRows:
        """See `Backend.examine_shard`: the object itself, past the cache."""
        key = self._objects.key(spec.path)
        if not deep:
            return ObjectShard(spec, key, self._client, None, whole=False, keep_cached=False)
        file = fetched(self._client, key, spec, self._cache)
        try:
            # The descriptor keeps the bytes; the name is not needed any more.
            return local_shard(file, spec, keep_cached=True)
        finally:
            file.unlink(missing_ok=True)


@lru_cache(maxsize=8)
def _backend(mirror: Path, process: int) -> ObjectBackend:
    """Open an object store once per process (which is only named so that a fork opens it anew)."""
    url = read_json(mirror / PLACE_FILE).get("url")
    if not isinstance(url, str):
        raise FormatError(f"{mirror / PLACE_FILE}: expected the URL of an object store, got {url!r:.100}")
    client = ObjectClient(url)
    client.check()
    return ObjectBackend(client, mirror)
