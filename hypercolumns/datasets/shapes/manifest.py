"""The manifest of a generated set: who made it, from what arguments, and the digest of every file.

It decides whether a folder already holds a set, and puts a new one in its place whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypercolumns.errors import DatasetError

GENERATOR_VERSION = "1"
"""Changes whenever the same arguments would give other labels or pictures."""

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What a folder was made to hold.

    Args:
        generator_version: The version that made it.
        arguments: Of the generator.
        files: SHA-256 of every file but the manifest, by path relative to the folder, with forward slashes.
        digest: SHA-256 over `files`.
    """

    generator_version: str
    arguments: dict[str, Any]
    files: dict[str, str]
    digest: str

    @classmethod
    def of(cls, folder: Path, arguments: dict[str, Any]) -> Manifest:
        """Take stock of a folder."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME)
        files = {path.relative_to(folder).as_posix(): _sha256(path) for path in paths}
        return cls(GENERATOR_VERSION, arguments, files, _digest(files))

    def publish(self, partial: Path, root: Path) -> bool:
        """Write the manifest and move the folder to its place.

        Returns:
            False when another process has put the same set there first.

        Raises:
            DatasetError: Something else has come to be there.
        """
        text = json.dumps(
            {
                "generator_version": self.generator_version,
                "arguments": self.arguments,
                "digest": self.digest,
                "files": self.files,
            },
            indent=1,
        )
        (partial / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8", newline="\n")
        try:
            if root.is_dir() and not any(root.iterdir()):
                root.rmdir()
            partial.rename(root)
        except OSError as error:
            if settle(root, self.arguments) is None:
                raise DatasetError(
                    f"{root}: the finished set could not be moved there: {error}. Remedy: check the folder's permissions"
                ) from error
            return False
        return True


def settle(root: Path, arguments: dict[str, Any]) -> Manifest | None:
    """Find out whether a folder holds the set these arguments make.

    Files that the manifest does not name are left out of account.

    Returns:
        Its manifest, or None when there is nothing at `root` (or an empty folder).

    Raises:
        DatasetError: There is something else, or a file of the set is changed or missing.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    manifest = _read(root)
    expected = {"generator_version": GENERATOR_VERSION, "arguments": arguments}
    received = {"generator_version": manifest.generator_version, "arguments": manifest.arguments}
    if received != expected:
        raise _occupied(root, f"expected shapes made by {expected}, received shapes made by {received}")
    for name, digest in manifest.files.items():
        path = root / name
        if not path.is_file() or _sha256(path) != digest:
            raise _occupied(root, f"{name} is {'changed' if path.is_file() else 'missing'}")
    return manifest


def _read(root: Path) -> Manifest:
    path = root / MANIFEST_NAME
    if not path.is_file():
        raise _occupied(root, "expected shapes or nothing, received something without a manifest")
    try:
        manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
        intact = manifest.digest == _digest(manifest.files)
    except (ValueError, TypeError, AttributeError) as error:
        raise _occupied(root, f"its {MANIFEST_NAME} is damaged: {error}") from error
    if not intact:
        raise _occupied(root, f"its {MANIFEST_NAME} is damaged: the digest does not fit the files it lists")
    return manifest


def _occupied(root: Path, reason: str) -> DatasetError:
    return DatasetError(f"{root}: {reason}. Remedy: delete the folder, or choose another one")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(files: dict[str, str]) -> str:
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in sorted(files.items())).encode()).hexdigest()
