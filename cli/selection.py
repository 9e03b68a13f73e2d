"""Which stores a command is about: all of the workspace, or the one whose key begins so."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["KeyArgument", "store_paths"]

KeyArgument = Annotated[str | None, typer.Argument(help="The store's key, or its beginning; all stores by default.")]


def store_paths(workspace: Path | None, key: str | None) -> list[Path]:
    """Return the folders of the stores whose key begins so; of all stores if None.

    Raises:
        SpecError: none fits, or several.
    """
    from hypercolumns.errors import SpecError
    from storage.inspection import list_stores
    from storage.workspace import Workspace, resolve_workspace

    root = Workspace(resolve_workspace(workspace)).stores
    paths = list_stores(root)
    if key is None:
        return paths
    chosen = [path for path in paths if path.name.startswith(key)]
    if len(chosen) != 1:
        names = ", ".join(path.name for path in paths) or "none"
        raise SpecError(f"expected the key of one store in {root}, got {key!r}, which fits {len(chosen)}; there are: {names}")
    return chosen
