"""The small files of stores in an object store: each path of the local mirror stands for an object.

An object is published by a PUT that only creates; there are no folders, no partial objects and nothing to flush. Files that
were set aside are copied, never moved: whoever writes next replaces exactly the object it has seen (`storage.object_shards`),
so nothing that somebody else has just written is ever deleted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from storage.object_client import ObjectClient

__all__ = ["ObjectFiles"]

_AT_ONCE = 16
_FEW = 2


class ObjectFiles:
    """See `storage.files.Files`.

    Args:
        client: requests to the store's URL.
        mirror: the local folder that stands for the URL, resolved.
    """

    def __init__(self, client: ObjectClient, mirror: Path) -> None:
        self._client = client
        self._mirror = mirror
        self._expected: dict[str, bytes] = {}

    def key(self, path: Path) -> str:
        """Return the key of the object that a path stands for."""
        inside = path if path.is_relative_to(self._mirror) else path.resolve()
        return inside.relative_to(self._mirror).as_posix().removeprefix(".")

    def read(self, path: Path) -> bytes:
        """See `Files.read`."""
        key = self.key(path)
        expected = self._expected.pop(key, None)
        return self._client.get(key) if expected is None else expected

    def exists(self, path: Path) -> bool:
        """See `Files.exists`."""
        return self._client.head(self.key(path)) is not None

    def exists_any(self, paths: Sequence[Path]) -> bool:
        """See `Files.exists_any`: one request."""
        folder, first = self.key(paths[0].parent), self.key(paths[0])
        wanted = {self.key(path) for path in paths}
        # What comes after the first key without its last sign is the first key itself, or what follows it.
        return any(seen.key in wanted for seen in self._client.listed(folder, after=first[:-1]))

    def names(self, folder: Path) -> list[str]:
        """See `Files.names`."""
        inside = self.key(folder)
        names = (seen.key.removeprefix(f"{inside}/") for seen in self._client.listed(inside))
        return sorted(name for name in names if "/" not in name)

    def sizes(self, root: Path) -> Iterator[tuple[Path, int]]:
        """See `Files.sizes`."""
        for seen in self._client.listed(self.key(root)):
            yield self._mirror / seen.key, seen.size

    def publish(self, path: Path, data: bytes) -> None:
        """See `Files.publish`."""
        self._client.create(self.key(path), data)

    def replace(self, path: Path, data: bytes) -> None:
        """See `Files.replace`."""
        self._client.replace(self.key(path), data)

    def set_aside(self, path: Path, target: Path) -> None:
        """See `Files.set_aside`: the object is copied, and stays until it is written anew."""
        self._client.copy(self.key(path), self.key(target))

    def clear(self, path: Path) -> None:
        """See `Files.clear`."""
        self._client.delete(self.key(path))

    def settle(self, folder: Path) -> None:
        """See `Files.settle`: what an object store has accepted, it keeps."""

    def expect(self, path: Path) -> None:
        """See `Files.expect`: fetch many small objects side by side."""
        self._expected.clear()
        keys = [seen.key for seen in self._client.listed(self.key(path.parent), after=self.key(path))]
        if len(keys) > _FEW:
            with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="records") as executor:
                self._expected.update(zip(keys, executor.map(self._client.get, keys), strict=True))

    def spell(self, path: Path) -> str:
        """See `Files.spell`."""
        return self._client.spell(self.key(path))
