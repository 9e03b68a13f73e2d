"""Publishing a folder of several files: complete under its name, or absent.

Files are written into `NAME.OWNER.partial/`, each flushed, then the folder itself, then it takes its name with rename(2),
which refuses a name that a folder with content holds; then the parent is flushed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from storage.errors import AlreadyPublishedError, StorageError
from storage.publish import ensure_folder, explained_disk_errors, partial_path
from storage.unfinished import held, remove_abandoned

__all__ = ["checked_name", "publishing_folder"]

_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,199}")


def checked_name(name: str, what: str) -> str:
    """Return `name` if it is safe as one folder's name.

    Raises:
        StorageError: it is empty, too long, or holds a separator, a space, a control sign or a leading dot.
    """
    if not _NAME.fullmatch(name) or name.endswith(".partial"):
        raise StorageError(f"expected {what} of letters, digits, '.', '_' and '-' (at most 200), got {name!r}")
    return name


@contextlib.contextmanager
def publishing_folder(path: Path) -> Iterator[Path]:
    """Yield an unfinished folder to write files into; publish it when the block ends, remove it when the block raises.

    Raises:
        AlreadyPublishedError: the name is taken; what stands there is left alone.
        DiskSpaceError: the disk is full.
    """
    partial = partial_path(path)
    try:
        with explained_disk_errors(path):
            ensure_folder(path.parent)
            remove_abandoned(path)
            with held(partial, partial.mkdir):
                yield partial
                for file in sorted(partial.iterdir()):
                    _flush(file)
                _flush(partial)
                _rename(partial, path)
            _flush(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rename(partial: Path, path: Path) -> None:
    try:
        partial.rename(path)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise
        raise AlreadyPublishedError(f"{path}: already published by somebody else; theirs stands") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
