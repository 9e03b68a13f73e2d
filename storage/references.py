"""What runs use: said in their records before it is looked for, so that nothing of it is removed under them.

A run names the key of a store, sample set, model ... and only then looks whether it is there. Naming takes a shared lock, the
sweeper an exclusive one while it reads the records and takes away what none of them names. So whatever a run finds after it
named it stays; and what was taken away before, it does not find, and makes anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from storage.lock_waiting import flock_patiently
from storage.publish import ensure_folder
from storage.runs import RunView, append, read_run

__all__ = ["USES", "named_keys", "naming", "note_use", "sweeping"]

USES = "uses"
"""The kind of line that names something a run is about to use: its data hold `key`."""
_LOCK = "references.lock"


def note_use(run_folder: Path, key: str) -> None:
    """Name something that a run is about to look for, durably; once is enough, more does no harm.

    Args:
        run_folder: the run's folder.
        key: of a store, sample set, model, manifest or evaluation.

    Raises:
        StorageError: there is no such run.
        FormatError: its record was changed.
    """
    with naming(run_folder.parent):
        if key not in named_keys(read_run(run_folder)):
            append(run_folder, USES, {"key": key})


def named_keys(view: RunView) -> frozenset[str]:
    """Return every key that a run's record names, in any line."""
    named = {str(entry.data["key"]) for entry in view.entries if entry.kind == USES and "key" in entry.data}
    return frozenset(named.union(*(map(str, entry.data.get("keys", {}).values()) for entry in view.entries)))


@contextlib.contextmanager
def naming(runs_root: Path) -> Iterator[None]:
    """Keep sweepers out for the length of a block."""
    with _locked(runs_root, fcntl.LOCK_SH):
        yield


@contextlib.contextmanager
def sweeping(runs_root: Path) -> Iterator[None]:
    """Keep runs from naming anything, and other sweepers out, for the length of a block: moments only."""
    with _locked(runs_root, fcntl.LOCK_EX):
        yield


@contextlib.contextmanager
def _locked(runs_root: Path, operation: int) -> Iterator[None]:
    ensure_folder(runs_root)
    descriptor = os.open(runs_root / _LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        flock_patiently(descriptor, operation, runs_root / _LOCK)
        yield
    finally:
        os.close(descriptor)
