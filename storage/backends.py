"""Where stores lie: on a disk, or in an object store that a local folder, the mirror, stands for.

The rest of the storage layer asks a backend for small files, leases and shards, and uses the paths of a store's layout in
either case. The modules of object stores are imported when a mirror is opened, not before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from storage.direct import BlockPool
from storage.errors import StorageError
from storage.files import Files, LocalFiles
from storage.layout import JOURNAL, StoreLayout
from storage.leases import LeaseBook
from storage.publish import partial_path
from storage.records import RecordLog
from storage.shard_rows import ShardFileSummary, ShardRows
from storage.shards import ShardFile, ShardFileWriter

__all__ = ["PLACE_FILE", "Backend", "LocalBackend", "ShardSpec", "backend_of", "is_remote", "refuse_remote", "store_exists"]

PLACE_FILE = "object-store.json"
"""In a folder of stores: that it is the mirror of an object store, and of which."""


@dataclass(frozen=True)
class ShardSpec:
    """What has to be known of a published shard to read it.

    Args:
        path: its place in the layout.
        summary: what its record says.
        slot_count: how many rows it could hold.
        row_shape: (h, w, C).
        dtype: the stored type.
        compressed: whether rows are zstd frames.
    """

    path: Path
    summary: ShardFileSummary
    slot_count: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    compressed: bool


class Backend(Protocol):
    """One place of stores."""

    remote: bool
    files: Files

    def store_paths(self) -> list[Path]:
        """List the folders of all stores."""
        ...

    def has_store(self, path: Path) -> bool:
        """Tell whether a folder is that of a store."""
        ...

    def leases(
        self, layout: StoreLayout, log: RecordLog, last_number: Callable[[], int], now: Callable[[], float]
    ) -> LeaseBook:
        """Return the leases of a store.

        Args:
            layout: its paths.
            log: its records.
            last_number: tells the number of the last record that is known.
            now: seconds since the epoch.
        """
        ...

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
        """Begin a shard.

        Args:
            path: its place in the layout.
            owner: the name of the lease it is written under.
            slot_count: how many rows it could hold.
            pool: whose buffers and threads are used.
            confirm: renews the lease; told whether something that lies there is going to be overwritten.
            compressed: compress each row with zstd.
            expected: bytes that it will have, if it is not compressed.

        Raises:
            LeaseLostError: by `confirm`: another writer took the shard over.
        """
        ...

    def read_shard(self, spec: ShardSpec, *, keep_cached: bool) -> ShardRows:
        """Open a published shard for reading, from the nearest copy.

        Raises:
            DamagedError: it is missing, has another size or another index.
        """
        ...

    def examine_shard(self, spec: ShardSpec, *, deep: bool) -> ShardRows:
        """Open a published shard where it lies, for verification; with `deep` all rows are going to be read."""
        ...


class LocalBackend:
    """A folder on a disk.

    Args:
        stores_root: the folder of all stores.
    """

    remote = False

    def __init__(self, stores_root: Path) -> None:
        self._root = stores_root
        self.files: Files = LocalFiles()

    def store_paths(self) -> list[Path]:
        """See `Backend.store_paths`."""
        if not self._root.is_dir():
            return []
        return sorted(path for path in self._root.iterdir() if self.has_store(path) and path.name != JOURNAL)

    def has_store(self, path: Path) -> bool:
        """See `Backend.has_store`."""
        return StoreLayout(path).records.is_dir()

    def leases(
        self, layout: StoreLayout, log: RecordLog, last_number: Callable[[], int], now: Callable[[], float]
    ) -> LeaseBook:
        """See `Backend.leases`."""
        return LeaseBook(layout.leases, now)

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
        return ShardFileWriter(partial_path(path, owner), slot_count, pool, compressed=compressed, expected=expected)

    def read_shard(self, spec: ShardSpec, *, keep_cached: bool) -> ShardRows:
        """See `Backend.read_shard`."""
        return ShardFile(
            spec.path,
            spec.summary,
            spec.slot_count,
            spec.row_shape,
            spec.dtype,
            compressed=spec.compressed,
            keep_cached=keep_cached,
        )

    def examine_shard(self, spec: ShardSpec, *, deep: bool) -> ShardRows:
        """See `Backend.examine_shard`."""
        return self.read_shard(spec, keep_cached=False)


def is_remote(stores_root: Path) -> bool:
    """Tell whether a folder of stores is the mirror of an object store."""
    return (stores_root / PLACE_FILE).is_file()


def refuse_remote(stores_root: Path, what: str) -> None:
    """Refuse to do what only stores on a disk let us do.

    Raises:
        StorageError: the stores lie in an object store.
    """
    if is_remote(stores_root):
        url = backend_of(stores_root).files.spell(stores_root)
        raise StorageError(
            f"{url}: expected stores on a disk: nothing is {what} an object store, which others may use and where nobody can "
            "tell that nobody does. Remedy: the object store's own tools and rules, when nothing runs"
        )


def backend_of(stores_root: Path) -> Backend:
    """Return the place that a folder of stores is, or stands for.

    Raises:
        ObjectStoreError: it stands for an object store that cannot be used as it is configured.
    """
    if not is_remote(stores_root):
        return LocalBackend(stores_root)
    from storage.object_backend import ObjectBackend

    return ObjectBackend.of_mirror(stores_root)


def store_exists(path: Path) -> bool:
    """Tell whether there is a feature store in a folder, or in the place it stands for."""
    return backend_of(path.parent).has_store(path)
