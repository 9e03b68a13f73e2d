"""Wait for a lock that another process holds: say so when it takes long, name who holds it, and not for ever.

The system releases a dead process's locks; one that is suspended (SIGSTOP, a frozen container, a laptop's sleep on a shared
disk) keeps them. Such a lock cannot be broken safely, because its holder goes on in the middle of what it did. So whoever waits
is told whom to wake or to end, and in the end gets an error, with nothing half done.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from storage.errors import LockedError

__all__ = ["PATIENCE_SECONDS", "flock_patiently", "wait_for_lock"]

_logger = logging.getLogger("hypercolumns.storage")

PATIENCE_SECONDS = 120.0
"""How long a lock is waited for whose holder is suspended; the work done under one takes moments."""

_LONGEST_SECONDS = 1200.0
"""How long any other holder is waited for: it may have a store of 10⁶ rows to go through."""

_NOTICE_SECONDS = 10.0


def wait_for_lock(path: Path, attempt: Callable[[float], bool], patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Try to get a lock until it is got, telling the log whom we wait for.

    Args:
        path: the lock's file.
        attempt: tries for about as many seconds as it is told; says whether the lock is held now.
        patience_seconds: how long a suspended holder is waited for.

    Raises:
        LockedError: the holder did not let go in that time; names it and what to do.
    """
    began = time.monotonic()
    slice_seconds = min(_NOTICE_SECONDS, patience_seconds)
    while not attempt(slice_seconds):
        waited = time.monotonic() - began
        holders = _holders(path)
        suspended = any(state in "Tt" for _, state in holders)
        told = _told(holders)
        if waited >= (patience_seconds if suspended else _LONGEST_SECONDS):
            raise LockedError(
                f"{path}: expected the lock within {waited:.0f} s, it is still held by {told}. Nothing of this step was done; "
                "what was committed is safe. Wake the holder (kill -CONT) or end it, and run the same command again: it resumes"
            )
        _logger.warning("%s: waiting for the lock for %.0f s, held by %s", path, waited, told)


def flock_patiently(descriptor: int, operation: int, path: Path, patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Take a flock(2), shared or exclusive, on an open file, as `wait_for_lock` does.

    Raises:
        LockedError: the holder did not let go in time.
        OSError: the file system knows no such locks.
    """
    wait_for_lock(path, lambda seconds: _flock_within(descriptor, operation, seconds), patience_seconds)


def _flock_within(descriptor: int, operation: int, seconds: float) -> bool:
    deadline, pause = time.monotonic() + seconds, 0.001
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        else:
            return True


def _holders(path: Path) -> list[tuple[int, str]]:
    """Return number and state (R, S, D, T, ...) of this machine's processes that hold a lock on a file, where that is told."""
    try:
        status = path.stat()
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    found = []
    for fields in map(str.split, lines):
        # Lines of those who wait have an arrow for their second field.
        if len(fields) >= 6 and fields[1] != "->" and fields[5] == file and fields[4].isdigit():
            found.append((int(fields[4]), _state(int(fields[4]))))
    return [(pid, state) for pid, state in found if state]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _told(holders: list[tuple[int, str]]) -> str:
    if not holders:
        return "a process that cannot be named (of another machine, container or user?)"
    return ", ".join(f"process {pid} ({'suspended' if state in 'Tt' else f'state {state}'})" for pid, state in holders)
