"""Who has a store open, and when it was last used: what has to be known before its folder may be taken away.

Everybody who opens a store holds a shared flock(2) on one file in its journal for as long as any of its objects lives; the
system lets go of it when the process dies, however it dies. Whoever wants to take the folder away needs the lock alone. The
file's own time of change, set each time the store is opened for writing or its maps are read, is the stamp of last use. Knows
neither records nor maps.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import weakref
from collections.abc import Callable, Iterator

from storage.errors import FormatError, StorageError
from storage.layout import StoreLayout
from storage.lock_waiting import flock_patiently
from storage.publish import ensure_folder

__all__ = ["Occupancy", "alone_in", "last_used"]

_NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS})


class Occupancy:
    """The knowledge of the system that this process has a store open; ends when nobody refers to it any more.

    Children made by fork(2) hold it too. Where nothing may be written, or the file system knows no locks, there is none: then
    `alone_in` never succeeds either.

    Args:
        layout: the store's paths.
        create: make the store's journal if it is not there.

    Raises:
        FormatError: there is no store, and it is not to be created.
    """

    def __init__(self, layout: StoreLayout, *, create: bool) -> None:
        self._path = layout.occupancy
        self._close: Callable[[], object] | None = None
        descriptor = None
        while descriptor is None:
            if create:
                _ensure_journal(layout)
            try:
                descriptor = _locked(layout, fcntl.LOCK_SH)
            except OSError as error:
                if error.errno not in _NOT_WRITABLE | _NO_LOCKS:
                    raise
                return
            if descriptor is None and not create and not layout.journal.is_dir():
                raise FormatError(f"{layout.root}: expected the folder of a feature store, found no records in it")
        self._close = weakref.finalize(self, os.close, descriptor)

    def leave(self) -> None:
        """End it now."""
        if self._close is not None:
            self._close()

    def stamp(self) -> None:
        """Note that the store is used now."""
        # Only the order of stamps matters, to what is evicted first: a store on a read-only medium is never evicted.
        with contextlib.suppress(OSError):
            os.utime(self._path)


@contextlib.contextmanager
def alone_in(layout: StoreLayout) -> Iterator[bool]:
    """Keep everybody from opening a store for the length of a block, if nobody has it open; tell whether that succeeded.

    Those who want to open it meanwhile wait for the end of the block.

    Raises:
        StorageError: the file system knows no locks, or does not let us, so that nobody can tell.
    """
    try:
        descriptor = _locked(layout, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    except OSError as error:
        raise StorageError(
            f"{layout.occupancy}: whether somebody has the store open cannot be known here ({error}). Remedy: remove its "
            "folder by hand when nothing runs"
        ) from error
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def last_used(layout: StoreLayout) -> float:
    """Return when a store was last opened for writing or its maps were read, in seconds since the epoch.

    A store that was made before stamps were kept was last used when its last record was written.
    """
    for path in (layout.occupancy, layout.records, layout.root):
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_mtime
    return 0.0


def _ensure_journal(layout: StoreLayout) -> None:
    # The folder may be taken away while it is being made; then it is made again.
    with contextlib.suppress(FileNotFoundError):
        ensure_folder(layout.journal)


def _locked(layout: StoreLayout, operation: int) -> int | None:
    """Lock the file; None if the store's folder is gone, or was taken away while we waited."""
    try:
        descriptor = _opened(layout)
    except FileNotFoundError:
        return None
    try:
        if operation & fcntl.LOCK_NB:
            fcntl.flock(descriptor, operation)
        else:
            flock_patiently(descriptor, operation, layout.occupancy)
        with contextlib.suppress(FileNotFoundError):
            now, ours = layout.occupancy.stat(), os.fstat(descriptor)
            if (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino):
                return descriptor
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _opened(layout: StoreLayout) -> int:
    """Open the file; make it where there is none, without claiming that the store is used now."""
    with contextlib.suppress(FileNotFoundError):
        return os.open(layout.occupancy, os.O_RDONLY | os.O_CLOEXEC)
    used = last_used(layout)
    descriptor = os.open(layout.occupancy, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    os.utime(descriptor, (used, used))
    return descriptor
