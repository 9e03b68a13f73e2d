"""Removing what is large: taken away by one rename, which is durable before the first of its files is deleted.

What is taken away lies in a folder `trash` beside it, on the same disk. Whoever opens its name afterwards finds nothing and
makes it anew; a removal that was interrupted is finished by the next sweep. Decides nothing.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from storage.publish import ensure_folder, flush_folder

__all__ = ["TRASH", "Removal", "bytes_below", "delete", "sized_files"]

TRASH = "trash"


class Removal:
    """Files and folders that are taken away together, each at once, and deleted afterwards."""

    def __init__(self) -> None:
        self._taken: list[Path] = []

    def take_away(self, path: Path) -> Path:
        """Rename a file or folder into the trash beside it, and return where it lies now."""
        trash = path.parent / TRASH
        ensure_folder(trash)
        # With a name of its own, since the next one of this name may be taken away before this one is deleted.
        target = trash / f"{path.name}.{uuid.uuid4().hex[:12]}"
        path.rename(target)
        self._taken.append(target)
        return target

    def finish(self) -> None:
        """Delete what was taken away."""
        # Else a power loss might bring a name back after some of its files are gone.
        for folder in {folder for target in self._taken for folder in (target.parent, target.parent.parent)}:
            flush_folder(folder)
        for target in self._taken:
            delete(target)
        self._taken.clear()


def delete(path: Path) -> None:
    """Delete a file or folder; what cannot be deleted is left where it is, and found again by the next sweep."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def bytes_below(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder; links are not followed."""
    return sum(size for _, size in sized_files(path))


def sized_files(path: Path) -> Iterator[tuple[Path, int]]:
    """Yield a file, or all files below a folder, with their sizes; what is removed meanwhile is passed over."""
    for entry in [path, *(path.rglob("*") if path.is_dir() else ())]:
        with contextlib.suppress(FileNotFoundError):
            if entry.is_file():
                yield entry, entry.lstat().st_size
