"""What every part of a feature store shares: its paths, its lock, its records, its index and its leases.

Changes of the store go through here: a record is appended under the lock, the index reads it, the derived files follow.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from filelock import FileLock, Timeout

from storage.backends import backend_of
from storage.canonical import digest
from storage.claims import Work, conflicts
from storage.direct import BlockPool
from storage.encoding import DTYPES
from storage.errors import AlreadyPublishedError, FormatError, KeyMismatchError
from storage.index_lines import StoreState
from storage.layout import FORMAT_VERSION, StoreLayout
from storage.leases import Lease
from storage.lock_waiting import PATIENCE_SECONDS, wait_for_lock
from storage.occupancy import Occupancy
from storage.publish import explained_disk_errors
from storage.record_fields import check_fields
from storage.records import REPAIR_HINT, RecordLog
from storage.rows_index import RowsIndex
from storage.zarr_metadata import write_derived

__all__ = ["StoreCore", "store_key"]

_DERIVE_SECONDS = 20.0
"""How long documents in an object store may lag behind its records while somebody writes."""


def store_key(key_fields: Mapping[str, Any], dtype: str) -> str:
    """Return the key of the store that holds what `key_fields` decide, in `dtype`."""
    return digest({**key_fields, "dtype": dtype, "format": FORMAT_VERSION})


class StoreCore:
    """The shared parts of one store.

    Args:
        layout: its paths.
        lease_seconds: how long a writer may be silent before its shard is taken over.
        clock: seconds since the epoch.
    """

    def __init__(self, layout: StoreLayout, lease_seconds: float, clock: Callable[[], float] = time.time) -> None:
        self.layout = layout
        self.lease_seconds = lease_seconds
        self.clock = clock
        self.backend = backend_of(layout.root.parent)
        self.files = self.backend.files
        self.log = RecordLog(layout.records, self.files)
        self.index = RowsIndex(layout.index, self.log)
        self.leases = self.backend.leases(layout, self.log, lambda: self.state.number, clock)
        self.occupancy: Occupancy | None = None
        self._lock = FileLock(str(layout.lock))
        self._derived: tuple[int, float] | None = None

    @cached_property
    def blocks(self) -> BlockPool:
        """Buffers and threads of this store's writers in this process."""
        return BlockPool()

    @property
    def key(self) -> str:
        """The store's key, which is its folder's name."""
        return self.layout.root.name

    @property
    def place(self) -> str:
        """Where the store lies, for people: its folder or its URL."""
        return self.files.spell(self.layout.root)

    @property
    def state(self) -> StoreState:
        """What the records read so far say of the store as a whole."""
        return self.index.state

    @property
    def dtype(self) -> str:
        """The store's type."""
        return str((self.state.create or {})["dtype"])

    @property
    def compressed(self) -> bool:
        """Whether rows are compressed."""
        return bool((self.state.create or {})["compression"] == "zstd")

    def occupy(self, *, create: bool) -> None:
        """Keep the store from being taken away for as long as anything of it is referred to (`storage.occupancy`).

        Raises:
            FormatError: there is no store, and it is not to be created.
        """
        self.occupancy = Occupancy(self.layout, create=create)

    def leave(self) -> None:
        """Let go of the store: it may be taken away now, and must not be asked anything more."""
        if self.occupancy is not None:
            self.occupancy.leave()

    def stamp_use(self) -> None:
        """Note that the store is used now."""
        if self.occupancy is not None:
            self.occupancy.stamp()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store's lock. Re-entrant within a thread; held for moments only, never while data are written.

        Raises:
            LockedError: a process that is suspended holds it, and did not let go in the time of a lease.
        """
        wait_for_lock(self.layout.lock, self._try_lock, min(PATIENCE_SECONDS, self.lease_seconds))
        try:
            yield
        finally:
            self._lock.release()

    def _try_lock(self, seconds: float) -> bool:
        try:
            self._lock.acquire(timeout=seconds)
        except Timeout:
            return False
        return True

    def refresh(self) -> StoreState:
        """Read the new records and make sure that this is the store its folder's name says.

        Raises:
            FormatError: the records are not ours, or broken.
            KeyMismatchError: the store was made from other fields than its key.
        """
        state = self.index.refresh()
        create = state.create
        if create is None or create.get("dtype") not in DTYPES:
            raise FormatError(f"{self.place}: expected a feature store, found no record that creates one; {REPAIR_HINT}")
        made_from = store_key(create["key_fields"], create["dtype"])
        if made_from != self.key:
            raise KeyMismatchError(
                f"{self.place}: the store says it was made from {create['key_fields']!r}, whose key is {made_from}, not "
                f"{self.key}; was the folder renamed or replaced?"
            )
        return state

    def counts(self, work: Work | Lease) -> bool:
        """Tell whether the records, read anew, count something of what is to be written, or give its slots to other images."""
        truth = RowsIndex(None, self.log)
        truth.refresh()
        counted = conflicts(truth, work)
        truth.close()
        return counted

    def append(self, body: Mapping[str, Any], before: Callable[[], None] = lambda: None) -> None:
        """Append a record, durable when this returns, and have index and derived files follow. The caller holds the lock.

        Args:
            body: the record.
            before: called once all records before this one are known: the record is appended right after those, or, where
                somebody else was first, `before` is called again. Whatever it raises, nothing is written then.

        Raises:
            FormatError: no reader would take such a record; nothing was written.
        """
        while True:
            state = self.index.refresh()
            before()
            try:
                check_fields(body, state)
            except ValueError as error:
                raise FormatError(f"expected a record that can be read again, got {body!r:.200} ({error})") from error
            try:
                self.log.append(body, state.number, state.link)
            except AlreadyPublishedError:
                # Where the lock does not exclude others (some network file systems), the record's name does.
                continue
            break
        self.refresh()
        self.derive(soon=True)

    def derive(self, *, soon: bool = False) -> None:
        """Bring index and derived files in step with the records. The caller holds the lock.

        Args:
            soon: it need not be now: in an object store, where each document is a request, it is put off for a while.
        """
        if self.backend.remote and soon and self._is_derived_lately():
            return
        number = -1
        # Where the lock does not keep others from appending, they may have written over what they had told of.
        while number != self.state.number and (self.backend.remote or number < 0):
            number = self.state.number
            with explained_disk_errors(self.layout.lock):
                write_derived(self.files, self.layout, self.key, self.index)
            if self.backend.remote:
                self.index.refresh()
        self._derived = (number, time.monotonic())

    def _is_derived_lately(self) -> bool:
        if self._derived is None:
            return False
        number, when = self._derived
        return number == self.state.number or time.monotonic() - when < _DERIVE_SECONDS
