"""A local cache of what was read from, or written to, an object store: bounded, shared by processes, never believed unchecked.

Entries are files named by a digest of what a record says of the shard (its place and all its checksums), so that another
content has another name and nothing ever has to be invalidated; pieces of a shard add their place in it. An entry appears
whole (rename) and is removed while others may have it open. Least recently used go first. Losing the folder loses nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakValueDictionary

from storage.errors import StorageError

__all__ = ["BYTES_VARIABLE", "ObjectCache"]

BYTES_VARIABLE = "HYPERCOLUMNS_CACHE_BYTES"
"""How much each cache may hold."""
_BYTES = 20 * 10**9
_SHARE = 16
"""A process looks for what has to go after every sixteenth of the bound that it added."""
_ROOM = 0.9
"""How much of the bound may stay when something has to go."""
_UNFINISHED = ".partial"
_SILENT_SECONDS = 3600.0


class ObjectCache:
    """Files in one folder. Safe among threads and processes.

    Args:
        folder: made when it is first written to.
        max_bytes: the bound; each process may exceed it by an eighth. By default the environment's, or 20 GB.

    Raises:
        StorageError: the environment's bound is not a number.
    """

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self._folder = folder
        self._max_bytes = _configured_bytes() if max_bytes is None else max_bytes
        # A new process looks early: the folder may be over a smaller bound than before.
        self._added = self._max_bytes // _SHARE
        self._guard = threading.Lock()
        self._fetching: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()

    def find(self, name: str) -> Path | None:
        """Return an entry's file, and note that it is used; None if there is none."""
        path = self._folder / name
        try:
            os.utime(path)
        except OSError:
            return None
        return path

    def read(self, name: str) -> bytes | None:
        """Return an entry's bytes; None if there is none."""
        path = self.find(name)
        with contextlib.suppress(FileNotFoundError):
            return None if path is None else path.read_bytes()
        return None

    def one_at_a_time(self, name: str) -> threading.Lock:
        """Return the lock of an entry, for the threads of this process that would all fetch the same."""
        with self._guard:
            return self._fetching.setdefault(name, threading.Lock())

    def takes(self, size: int) -> bool:
        """Tell whether an entry of so many bytes would be kept at all."""
        return size <= self._max_bytes

    def add(self, name: str, data: bytes) -> None:
        """Keep some bytes; without a word where the disk does not take them: it is only a cache."""
        if not self.takes(len(data)):
            return
        partial = self.new_file()
        try:
            with contextlib.suppress(OSError):
                partial.write_bytes(data)
                partial.replace(self._folder / name)
        finally:
            partial.unlink(missing_ok=True)
        self._make_room(len(data))

    def adopt(self, name: str, file: Path) -> None:
        """Take over a finished file, which is gone from its place then."""
        size = file.stat().st_size
        if not self.takes(size):
            file.unlink()
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        file.replace(self._folder / name)
        self._make_room(size)

    def drop(self, name: str) -> None:
        """Forget an entry and all pieces of it."""
        for path in self._folder.glob(f"{name}*"):
            path.unlink(missing_ok=True)

    def new_file(self) -> Path:
        """Return the path of an unfinished file of one's own, in the cache's folder."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"{uuid.uuid4().hex}{_UNFINISHED}"

    def _make_room(self, added: int) -> None:
        share = self._max_bytes // _SHARE
        with self._guard:
            self._added += added
            waiting, self._added = self._added, 0 if self._added >= share else self._added
        if waiting < share:
            return
        # Whoever makes room at this moment may not have seen what was added since; it is waited for only when that is much.
        with self._alone(wait=waiting >= 2 * share) as alone:
            if alone:
                self._trim()
                return
        with self._guard:
            self._added += waiting

    def _trim(self) -> None:
        entries = sorted(self._entries(), key=lambda entry: entry[1])
        total = sum(size for _, _, size in entries)
        if total <= self._max_bytes:
            return
        for path, _, size in entries:
            path.unlink(missing_ok=True)
            total -= size
            if total <= self._max_bytes * _ROOM:
                return

    def _entries(self) -> Iterator[tuple[Path, float, int]]:
        """Yield each entry with its last use and its size; remove what writers that died left."""
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if not path.name.endswith(_UNFINISHED):
                    yield path, status.st_mtime, status.st_size
                elif status.st_mtime < time.time() - _SILENT_SECONDS:
                    path.unlink()

    @contextlib.contextmanager
    def _alone(self, *, wait: bool) -> Iterator[bool]:
        """Keep other processes from removing at the same time; they need not wait for a moment's work."""
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield True
        except BlockingIOError:
            yield False
        finally:
            os.close(descriptor)


def _configured_bytes() -> int:
    text = os.environ.get(BYTES_VARIABLE, "")
    if text and not text.isdecimal():
        raise StorageError(f"{BYTES_VARIABLE}: expected a number of bytes, got {text!r}")
    return int(text) if text else _BYTES
