"""The workspace: where stores, samples, models, runs and the rest live, and how it is found.

Records keep paths relative to it, so that a workspace can be moved or mounted elsewhere. May not know what is in the folders.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import platformdirs

from storage.errors import StorageError
from storage.places import MIRRORS, mirror_of, stores_url
from storage.publish import ensure_folder

__all__ = ["ENVIRONMENT_VARIABLE", "Workspace", "resolve_workspace"]

ENVIRONMENT_VARIABLE = "HYPERCOLUMNS_HOME"


class Workspace:
    """One workspace; its folders are made when they are first asked for.

    Args:
        root: the workspace's own folder; need not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).expanduser().resolve()

    def __repr__(self) -> str:
        return f"Workspace({str(self.root)!r})"

    @property
    def stores(self) -> Path:
        """Feature stores, one Zarr group per key; where these lie in an object store, the folder that stands for it."""
        url = stores_url(self.root)
        return self._folder("stores") if url is None else mirror_of(self._folder(MIRRORS), url)

    @property
    def samples(self) -> Path:
        """Sample sets, one HDF5 file per key."""
        return self._folder("samples")

    @property
    def models(self) -> Path:
        """Models, one folder per key."""
        return self._folder("models")

    @property
    def evaluations(self) -> Path:
        """Evaluations, one folder per key: scores, confusion matrices, shown predictions."""
        return self._folder("evaluations")

    @property
    def runs(self) -> Path:
        """Run records, one folder per run."""
        return self._folder("runs")

    @property
    def datasets(self) -> Path:
        """Data sets made here (generated figures)."""
        return self._folder("datasets")

    @property
    def checkpoints(self) -> Path:
        """Checkpoints, one folder per training key."""
        return self._folder("checkpoints")

    @property
    def prefect_home(self) -> Path:
        """Home of the embedded Prefect server."""
        return self._folder("prefect")

    def relative(self, path: Path) -> str:
        """Spell a path inside the workspace relative to it, with forward slashes, as records keep it.

        Raises:
            StorageError: the path, links followed, is not inside.
        """
        resolved = (self.root / path).resolve()
        if not resolved.is_relative_to(self.root):
            raise StorageError(f"{path}: expected a path inside the workspace {self.root}, got one outside")
        return resolved.relative_to(self.root).as_posix()

    def absolute(self, relative: str) -> Path:
        """Return the path that a record keeps as `relative`.

        Raises:
            StorageError: it is absolute, or leads out of the workspace ('..', a symbolic link).
        """
        if Path(relative).is_absolute():
            raise StorageError(f"{relative}: expected a path relative to the workspace, got an absolute one")
        return self.root / self.relative(self.root / relative)

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        try:
            ensure_folder(folder)
        except OSError as error:
            raise _unusable(self.root, str(error)) from error
        return folder


def resolve_workspace(option: Path | None = None) -> Path:
    """Find the workspace's folder: the option, else the environment's HYPERCOLUMNS_HOME, else the user's data folder.

    Raises:
        StorageError: it is a file, or cannot be made or written to.
    """
    named = option or os.environ.get(ENVIRONMENT_VARIABLE) or platformdirs.user_data_path("hypercolumns", appauthor=False)
    root = Path(named).expanduser().resolve()
    if root.exists() and not root.is_dir():
        raise _unusable(root, "it is a file")
    try:
        ensure_folder(root)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise _unusable(root, str(error)) from error
    return root


def _unusable(root: Path, reason: str) -> StorageError:
    return StorageError(
        f"{root}: expected a folder for the workspace that can be written to ({reason}). "
        f"Remedy: give another with --workspace DIR or {ENVIRONMENT_VARIABLE}"
    )
