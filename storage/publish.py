"""Publishing files: whole or not at all, durable before it is visible, and never over what is already there.

The order is the point: write `NAME.OWNER.partial`, flush the data to disk, give it its name with link(2) (which fails if
the name is taken: the loser discards), then flush the folder. After a power loss a name is either absent or complete.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from storage.errors import AlreadyPublishedError, DiskSpaceError

__all__ = [
    "PARTIAL_SUFFIX",
    "ensure_folder",
    "explained_disk_errors",
    "partial_path",
    "publish_bytes",
    "publish_durable",
    "publish_partial",
    "replace_bytes",
    "writing",
]

PARTIAL_SUFFIX = ".partial"
_NO_SPACE = frozenset({28, 122})
"""ENOSPC and EDQUOT."""


def ensure_folder(folder: Path) -> None:
    """Create a folder and its parents, flushing the parent of each one that is new."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        _sync_folder(new.parent)


def partial_path(path: Path, owner: str | None = None) -> Path:
    """Name the unfinished file of `path`, in the same folder; `owner` keeps two writers apart."""
    return path.with_name(f"{path.name}.{owner or uuid.uuid4().hex[:12]}{PARTIAL_SUFFIX}")


def publish_partial(file: BinaryIO, partial: Path, path: Path) -> None:
    """Flush an open, fully written partial file and give it its final name.

    Raises:
        AlreadyPublishedError: the name is taken; the partial file is removed and what stands there is left alone.
    """
    file.flush()
    os.fdatasync(file.fileno())
    publish_durable(partial, path)


def publish_durable(partial: Path, path: Path) -> None:
    """Give a partial file, whose bytes the disk keeps already, its final name.

    Raises:
        AlreadyPublishedError: the name is taken; the partial file is removed and what stands there is left alone.
    """
    try:
        os.link(partial, path)
    except FileExistsError as error:
        raise AlreadyPublishedError(f"{path}: already published by somebody else; theirs stands") from error
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextlib.contextmanager
def writing(path: Path, owner: str | None = None) -> Iterator[BinaryIO]:
    """Open a partial file for writing; publish it when the block ends, remove it when the block raises.

    Raises:
        AlreadyPublishedError: the name is taken.
        DiskSpaceError: the disk is full.
    """
    ensure_folder(path.parent)
    partial = partial_path(path, owner)
    try:
        with explained_disk_errors(path), partial.open("xb") as file:
            yield file
            publish_partial(file, partial, path)
    finally:
        partial.unlink(missing_ok=True)


def publish_bytes(path: Path, data: bytes) -> None:
    """Publish a small file.

    Raises:
        AlreadyPublishedError: the name is taken.
        DiskSpaceError: the disk is full.
    """
    with writing(path) as file:
        file.write(data)


def replace_bytes(path: Path, data: bytes) -> None:
    """Replace a small *derived* file atomically (pointers, indexes). Readers see the old bytes or the new ones."""
    ensure_folder(path.parent)
    partial = partial_path(path)
    try:
        with explained_disk_errors(path), partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fdatasync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextlib.contextmanager
def explained_disk_errors(path: Path) -> Iterator[None]:
    """Turn "no space left" into an error that says how much is left and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        status = os.statvfs(path.parent)
        free_mb = status.f_bavail * status.f_frsize / 1e6
        raise DiskSpaceError(
            f"{path}: the disk is full ({free_mb:.1f} MB free). What was committed is safe; free some space and run "
            "the same command again: it resumes"
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
