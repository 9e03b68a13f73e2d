"""Unfinished files and folders of writers that died, told from those of the living by a lock that dies with its process.

A sample set or a model that was killed in the writing leaves gigabytes under a name that nobody will ever use. Whoever writes
the same thing next removes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from storage.publish import PARTIAL_SUFFIX, flush_folder

__all__ = ["held", "remove_abandoned", "was_published"]


def was_published(path: Path) -> bool:
    """Tell whether a file or folder is there to be counted on.

    Its writer may have been killed between giving it its name and the two steps after that: they are made up for here, so that
    no power loss takes what somebody was told is there.
    """
    if not path.exists():
        return False
    remove_abandoned(path)
    flush_folder(path.parent)
    return True


@contextlib.contextmanager
def held(partial: Path, create: Callable[[], object]) -> Iterator[None]:
    """Create an unfinished file or folder, and hold its lock until the block is left.

    Args:
        partial: its path.
        create: makes it; must fail if it is there.
    """
    descriptor = _created(partial, create)
    try:
        yield
    finally:
        os.close(descriptor)


def remove_abandoned(path: Path) -> None:
    """Remove the unfinished files and folders of `path` whose writers have died."""
    for partial in sorted(path.parent.glob(f"{glob.escape(path.name)}.*{PARTIAL_SUFFIX}")):
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _lock(descriptor):
                    shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
            finally:
                os.close(descriptor)


def _created(partial: Path, create: Callable[[], object]) -> int:
    while True:
        create()
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
            _lock(descriptor)
            # Between the two lines above somebody may have taken it for abandoned.
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Take the lock without waiting; False where somebody has it, or where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
