"""Which files a data set has: folder contents by stem, lists of names, class lists; all of them inside the data set's root.

Names are compared in Unicode's composed form (NFC), because file systems disagree on it. Nothing here decodes an image.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hypercolumns.errors import DatasetError

__all__ = [
    "IMAGE_SUFFIXES",
    "MASK_SUFFIXES",
    "FolderIndex",
    "index_folder",
    "read_class_names",
    "read_list",
    "resolve_root",
    "subfolders",
]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
MASK_SUFFIXES = frozenset({".png"})
_MOST_LIST_BYTES = 1 << 28
_MOST_CLASS_LIST_BYTES = 1 << 20


@dataclass(frozen=True)
class FolderIndex:
    """The files of one folder, by stem.

    Attributes:
        root: The data set's root, outside which nothing is read.
        folder: The folder.
        names: File names by NFC stem; more than one when stems collide.
        links: The names among them that are symbolic links.
    """

    root: Path
    folder: Path
    names: dict[str, tuple[str, ...]]
    links: frozenset[str]

    def files(self) -> list[tuple[str, Path]]:
        """List every stem with its file, sorted by code point.

        Raises:
            DatasetError: as `find`, or a name is not valid Unicode.
        """
        for name in (name for names in self.names.values() for name in names):
            if not _is_unicode(name):
                raise DatasetError(f"{self.folder}: the file name {name!r} is not valid UTF-8. Remedy: rename the file")
        return [(stem, self._checked(stem, names)) for stem, names in sorted(self.names.items())]

    def find(self, stem: str) -> Path | None:
        """Find the file of a stem; None when there is none.

        Raises:
            DatasetError: two files have the stem, or the file is a link to somewhere outside the root.
        """
        names = self.names.get(_composed(stem))
        return None if names is None else self._checked(stem, names)

    def _checked(self, stem: str, names: tuple[str, ...]) -> Path:
        if len(names) > 1:
            raise DatasetError(
                f"{self.folder}: {len(names)} files are named {stem!r}: {', '.join(map(repr, sorted(names)))}. "
                "Remedy: keep one of them"
            )
        path = self.folder / names[0]
        if names[0] in self.links:
            _check_inside(path, self.root)
        return path


def index_folder(root: Path, folder: Path, suffixes: frozenset[str]) -> FolderIndex:
    """List the files of a folder that have one of the suffixes (in either case); hidden files are left out.

    Raises:
        DatasetError: the folder is missing, or lies outside the root.
    """
    _check_inside(folder, root)
    names: dict[str, tuple[str, ...]] = {}
    links = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = PurePosixPath(entry.name)
                if path.suffix.lower() in suffixes and not entry.name.startswith("."):
                    stem = _composed(path.stem)
                    names[stem] = (*names.get(stem, ()), entry.name)
                    if entry.is_symlink():
                        links.add(entry.name)
    except OSError as error:
        raise _no_folder(folder, error) from error
    return FolderIndex(root, folder, names, frozenset(links))


def subfolders(folder: Path) -> tuple[str, ...]:
    """List the names of the folders in a folder, sorted, without hidden ones.

    Raises:
        DatasetError: the folder is missing or cannot be listed.
    """
    try:
        names = os.listdir(folder)  # noqa: PTH208
        return tuple(sorted(name for name in names if os.path.isdir(folder / name) and not name.startswith(".")))  # noqa: PTH112
    except OSError as error:
        raise _no_folder(folder, error) from error


def _no_folder(folder: Path, error: OSError) -> DatasetError:
    found = "none" if isinstance(error, FileNotFoundError | NotADirectoryError) else error.strerror or str(error)
    return DatasetError(f"{folder}: expected a folder, found {found}. Remedy: check dataset.root and the layout")


def read_list(path: Path) -> list[str]:
    """Read the image names of an ImageSets file: one a line, without suffix, blank lines skipped.

    Raises:
        DatasetError: the list is empty or no UTF-8 text, names an image twice, or leads out of the image folder.
    """
    entries = [line.strip() for line in _read_text(path, _MOST_LIST_BYTES).split("\n")]
    entries = [_composed(entry) for entry in entries if entry]
    if not entries:
        raise DatasetError(f"{path}: expected at least one image name, got an empty list")
    seen = set()
    for number, entry in enumerate(entries, start=1):
        if PurePosixPath(entry).is_absolute() or ".." in PurePosixPath(entry).parts or "\0" in entry:
            raise DatasetError(
                f"{path}: the {number}. name, {entry!r}, leads out of the image folder. Remedy: list names inside it"
            )
        if entry in seen:
            raise DatasetError(f"{path}: {entry!r} is listed twice. Remedy: list every image once")
        seen.add(entry)
    return entries


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read a class list: the name of label k in line k, counted from 0.

    Raises:
        DatasetError: the file is missing or no UTF-8 text, or has a blank line between names.
    """
    lines = [line.strip() for line in _read_text(path, _MOST_CLASS_LIST_BYTES).rstrip().split("\n")]
    if "" in lines:
        raise DatasetError(
            f"{path}: line {lines.index('') + 1} is blank, so the labels after it would shift. Remedy: name every label"
        )
    return tuple(lines)


def resolve_root(root: str | Path) -> Path:
    """Expand ~ and $VARIABLES in a data set's root and check that the folder is there.

    Raises:
        DatasetError: there is no such folder.
    """
    # Not pathlib's: these pass over a home that does not exist, and over names that no file system could hold.
    path = Path(os.path.expandvars(os.path.expanduser(root))).absolute()  # noqa: PTH111
    if not os.path.isdir(path):  # noqa: PTH112
        unset = "; a variable in it is not set" if "$" in str(path) else ""
        raise DatasetError(f"{path}: expected the data set's folder, found none{unset}. Remedy: check dataset.root ({root})")
    return path


def _check_inside(path: Path, root: Path) -> None:
    # Not `Path.resolve`, which gives up on a link that leads to itself: whoever reads it will say so.
    target = Path(os.path.realpath(path))
    if not target.is_relative_to(os.path.realpath(root)):
        raise DatasetError(
            f"{path}: leads to {target}, outside the data set's folder {root}. "
            "Remedy: put the files themselves there, or set dataset.root to a folder that holds both"
        )


def _read_text(path: Path, most_bytes: int) -> str:
    try:
        status = path.stat()
        # A pipe would be waited for, and a device may never end.
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(f"{path}: expected a text file, found none. Remedy: put the list itself there")
        if status.st_size > most_bytes:
            raise DatasetError(
                f"{path}: expected a text file of at most {most_bytes} bytes, got {status.st_size}. Remedy: check the file"
            )
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: expected a text file, found none") from error
    except OSError as error:
        raise DatasetError(f"{path}: expected a text file that can be read, got {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#04x}") from error


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _is_unicode(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
