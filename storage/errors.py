"""The storage layer's exceptions: each says what was expected, what came, and the remedy.

StorageError
├── AlreadyPublishedError  somebody else published under this name first
├── ChampionChangedError   the champion is another one than the decision was made about
├── FormatError            metadata or a record that is not ours, or is torn
│   └── VersionError       whole, and of a format version we do not read
├── KeyMismatchError       what is stored under a key was not made from the fields that now claim it
├── LayerMismatchError     a layer exists with another shape, or does not exist at all
├── RowsMissingError       rows were asked for that no commit record holds
├── NonFiniteError         a value is not finite after the cast to the store's type
├── DamagedError           bytes on disk are not the bytes that were committed
├── LockedError            a suspended process holds a lock and does not let go
├── LeaseLostError         another writer took the shard over after our lease expired
├── DiskSpaceError         the disk would not, or did not, hold what is to be written
└── ObjectStoreError       an object store is away, refuses us, or is not configured
    └── ObjectChangedError what was to be replaced has been replaced by somebody else
"""

from __future__ import annotations

__all__ = [
    "AlreadyPublishedError",
    "ChampionChangedError",
    "DamagedError",
    "DiskSpaceError",
    "FormatError",
    "KeyMismatchError",
    "LayerMismatchError",
    "LeaseLostError",
    "LockedError",
    "NonFiniteError",
    "ObjectChangedError",
    "ObjectStoreError",
    "RowsMissingError",
    "StorageError",
    "VersionError",
]


class StorageError(Exception):
    """Base of every error the storage layer raises on purpose."""


class AlreadyPublishedError(StorageError):
    """Somebody else published under this name first; their bytes stand, ours were discarded."""


class ChampionChangedError(StorageError):
    """The champion is another one than the decision was made about, or it was pinned meanwhile; nothing was changed."""


class FormatError(StorageError):
    """Metadata or a record that is not ours, is torn, or has a version this code does not read."""


class VersionError(FormatError):
    """Whole, and of a format version this code does not read: nothing is damaged, and nothing must be repaired."""


class KeyMismatchError(StorageError):
    """What is stored under a key was not made from the fields that now claim it."""


class LayerMismatchError(StorageError):
    """A layer exists with another shape, or does not exist."""


class LockedError(StorageError):
    """A process that is suspended, or cannot be seen, holds a lock and did not let go in time."""


class RowsMissingError(StorageError):
    """Rows were asked for that no commit record holds."""


class NonFiniteError(StorageError):
    """A value is not finite after the cast to the store's type."""


class DamagedError(StorageError):
    """Bytes on disk are not the bytes that were committed."""


class LeaseLostError(StorageError):
    """Another writer took the shard over after our lease expired."""


class DiskSpaceError(StorageError):
    """The disk would not, or did not, hold what is to be written."""


class ObjectStoreError(StorageError):
    """An object store is away, refuses us, or is not configured as it must be."""


class ObjectChangedError(ObjectStoreError):
    """An object that was to be replaced has been replaced or removed by somebody else meanwhile."""
