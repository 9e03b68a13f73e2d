"""Which files an annotation means: names that stay inside their folder, found there, and files that are files."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from hypercolumns.datasets.listing import IMAGE_SUFFIXES, FolderIndex, index_folder
from hypercolumns.errors import DatasetError

__all__ = ["FileFinder", "check_file", "checked_name"]


def check_file(path: Path, kind: str, most_bytes: int) -> None:
    """Refuse what is no regular file (a pipe would be waited for, a device may not end), or too large a one.

    Args:
        path: The file.
        kind: What is expected, with its article, for the message.
        most_bytes: The most bytes it may have.

    Raises:
        DatasetError: there is no such file, it may not be read, it is none, or it is too large.
    """
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            path.open("rb").close()
    except OSError as error:
        raise DatasetError(f"{path}: expected {kind}, got {error.strerror or error}. Remedy: check the path") from error
    if not stat.S_ISREG(status.st_mode):
        raise DatasetError(f"{path}: expected {kind}, got no regular file. Remedy: put the file itself there")
    if status.st_size > most_bytes:
        raise DatasetError(
            f"{path}: expected {kind} of at most {most_bytes} bytes, got {status.st_size}. Remedy: check the file"
        )


def checked_name(name: str) -> str:
    """Return a relative path that stays inside its folder.

    Raises:
        DatasetError: it does not.
    """
    path = PurePosixPath(name)
    if not path.name or path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name:
        raise DatasetError(f"expected a relative path inside the folder, got {name[:200]!r}")
    return name


class FileFinder:
    """Finds files by name, and looks into each folder once.

    Args:
        root: The data set's folder, outside which nothing is read.
        folder: The folder in it that names start from.

    Raises:
        DatasetError: the folder leads out of the root.
    """

    def __init__(self, root: Path, folder: str, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> None:
        self._root = root
        self._suffixes = suffixes
        self.folder = root / checked_name(folder)
        self._indices: dict[Path, FolderIndex | None] = {self.folder: self._index(self.folder)}

    def find(self, name: str) -> Path | None:
        """Find the file of a name without suffix; None when there is none.

        Raises:
            DatasetError: the name leads out of the folder, two files have it, or its file is a link out of the root.
        """
        inner = PurePosixPath(checked_name(name))
        folder = self.folder / inner.parent
        if folder not in self._indices:
            self._indices[folder] = self._index(folder)
        index = self._indices[folder]
        return None if index is None else index.find(inner.name)

    def _index(self, folder: Path) -> FolderIndex | None:
        # Not pathlib's, which raises for a name that is too long.
        return index_folder(self._root, folder, self._suffixes) if os.path.isdir(folder) else None  # noqa: PTH112

    def require(self, name: str, file_name: str | None = None) -> Path:
        """Find the file of a name without suffix.

        Args:
            name: The name.
            file_name: The file's full name, where the annotation says it.

        Raises:
            DatasetError: as `find`, or there is no such file.
        """
        found = self.find(name)
        if found is None or (file_name is not None and found.name != PurePosixPath(file_name).name):
            raise DatasetError(f"expected the file {self.folder / (file_name or name)}, found none")
        return found
