"""Publishing files: whole or not at all, durable before it is visible, and never over what is already there.

The order is the point: write `NAME.OWNER.partial`, flush the data to disk, give it its name with link(2) (which fails if
the name is taken: the loser discards), then flush the folder. After a power loss a name is either absent or complete.
"""

from __future__ import annotations

import contextlib
import os
import resource
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from storage.errors import AlreadyPublishedError, DiskSpaceError

__all__ = [
    "PARTIAL_SUFFIX",
    "ensure_folder",
    "explained_disk_errors",
    "flush_file",
    "flush_folder",
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
_TOO_LARGE = frozenset({27})
"""EFBIG: a limit on the size of files."""

_flushed: set[Path] = set()
"""Folders whose own names this process has flushed, so that it does so once."""


def ensure_folder(folder: Path) -> None:
    """Create a folder and its parents, flushing the parent of each.

    A folder that is there already may have been made by somebody who was killed before the flush, or has not come to it yet:
    what is published in it would be lost with its name. So its parent is flushed too, at its first use by this process.
    """
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    if folder not in _flushed:
        # Whoever may not open the folder above did not make this one.
        with contextlib.suppress(PermissionError):
            flush_folder(folder.parent)
        _flushed.add(folder)
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        flush_folder(new.parent)
        _flushed.add(new)


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
    flush_folder(path.parent)


@contextlib.contextmanager
def writing(path: Path, owner: str | None = None, needed: int | None = None) -> Iterator[BinaryIO]:
    """Open a partial file for writing; publish it when the block ends, remove it when the block raises.

    Args:
        path: final name of the file.
        owner: keeps two writers apart.
        needed: how many bytes are going to be written, where that is known: for the error of a full disk.

    Raises:
        AlreadyPublishedError: the name is taken.
        DiskSpaceError: the disk is full.
    """
    partial = partial_path(path, owner)
    try:
        with explained_disk_errors(path, needed):
            ensure_folder(path.parent)
            with partial.open("xb") as file:
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
    with writing(path, needed=len(data)) as file:
        file.write(data)


def replace_bytes(path: Path, data: bytes) -> None:
    """Replace a small *derived* file atomically (pointers, indexes). Readers see the old bytes or the new ones."""
    partial = partial_path(path)
    try:
        with explained_disk_errors(path, len(data)):
            ensure_folder(path.parent)
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fdatasync(file.fileno())
            partial.replace(path)
            flush_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def explained_disk_errors(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn "no space left" and "file too large" into an error that says what was needed, what is there and what to do.

    Args:
        path: what was being written.
        needed: how many bytes were to be written, where that is known.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE | _TOO_LARGE:
            raise
        folder = path.parent
        while not folder.exists():
            folder = folder.parent
        status = os.statvfs(folder)
        wanted = "" if needed is None else f"{_megabytes(needed)} were to be written, "
        there = f"{wanted}{_megabytes(status.f_bavail * status.f_frsize)} free"
        what = f"the disk is full ({there})"
        if error.errno in _TOO_LARGE:
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            what = f"no file may be larger than {_megabytes(limit)} here ({there}); see `ulimit -f`"
        raise DiskSpaceError(
            f"{path}: {what}. What was committed is safe; free some space and run the same command again: it resumes"
        ) from error


def _megabytes(count: int) -> str:
    return "an unknown size" if count < 0 else f"{count / 1e6:.3g} MB"


def flush_file(path: Path) -> None:
    """Have the disk keep the bytes of a file that is there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Have the disk keep the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
