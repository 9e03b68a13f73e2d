"""The small files of a store, wherever it lies: records and what is derived from them, read, published and listed by path.

The seam between a store and its place. Paths are those of the store's layout; on a disk they are the files themselves, in an
object store (`storage.object_files`) their places in the local mirror stand for objects. Knows nothing of what is in a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from storage.publish import ensure_folder, explained_disk_errors, flush_folder, partial_path, publish_bytes
from storage.removal import sized_files

__all__ = ["Files", "LocalFiles"]


class Files(Protocol):
    """What a place of stores must be able to do with small files."""

    def read(self, path: Path) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: there is none.
        """
        ...

    def exists(self, path: Path) -> bool:
        """Tell whether there is such a file."""
        ...

    def exists_any(self, paths: Sequence[Path]) -> bool:
        """Tell whether any of some files in one folder, in the order of their names, is there."""
        ...

    def names(self, folder: Path) -> list[str]:
        """List the names of the files that lie right in a folder, rising; none if there is no folder."""
        ...

    def sizes(self, root: Path) -> Iterator[tuple[Path, int]]:
        """Yield all files below a folder with their sizes."""
        ...

    def publish(self, path: Path, data: bytes) -> None:
        """Publish a file, durably.

        Raises:
            AlreadyPublishedError: the name is taken.
        """
        ...

    def replace(self, path: Path, data: bytes) -> None:
        """Replace a derived file whole; readers see the old bytes or the new ones."""
        ...

    def set_aside(self, path: Path, target: Path) -> None:
        """Keep what lies at a path under another name, so that the path may be written anew."""
        ...

    def clear(self, path: Path) -> None:
        """Free a path whose file was set aside, or is not to be kept."""
        ...

    def settle(self, folder: Path) -> None:
        """Make sure that the names in a folder are kept, whoever gave them."""
        ...

    def expect(self, path: Path) -> None:
        """Prepare for the reading of all files of a folder that come after this one by name, in order."""
        ...

    def spell(self, path: Path) -> str:
        """Name a path for people."""
        ...


class LocalFiles:
    """Files on a disk."""

    def read(self, path: Path) -> bytes:
        """See `Files.read`."""
        return path.read_bytes()

    def exists(self, path: Path) -> bool:
        """See `Files.exists`."""
        return path.exists()

    def exists_any(self, paths: Sequence[Path]) -> bool:
        """See `Files.exists_any`."""
        return any(path.exists() for path in paths)

    def names(self, folder: Path) -> list[str]:
        """See `Files.names`."""
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def sizes(self, root: Path) -> Iterator[tuple[Path, int]]:
        """See `Files.sizes`."""
        return sized_files(root)

    def publish(self, path: Path, data: bytes) -> None:
        """See `Files.publish`."""
        publish_bytes(path, data)

    def replace(self, path: Path, data: bytes) -> None:
        """See `Files.replace`; not flushed."""
        partial = partial_path(path)
        try:
            with explained_disk_errors(path, len(data)):
                ensure_folder(path.parent)
                partial.write_bytes(data)
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def set_aside(self, path: Path, target: Path) -> None:
        """See `Files.set_aside`: the file is moved."""
        path.replace(target)
        # From now on it waits for somebody to look at it.
        os.utime(target)

    def clear(self, path: Path) -> None:
        """See `Files.clear`."""
        path.unlink(missing_ok=True)

    def settle(self, folder: Path) -> None:
        """See `Files.settle`."""
        flush_folder(folder)

    def expect(self, path: Path) -> None:
        """See `Files.expect`: a disk needs no preparation."""

    def spell(self, path: Path) -> str:
        """See `Files.spell`."""
        return str(path)
