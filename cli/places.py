"""`hypercolumns store at`: where the workspace's feature stores lie."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.context import JsonOption, WorkspaceOption, command, emit

__all__ = ["register_places"]


def register_places(stores: typer.Typer) -> None:
    """Add `store at`."""
    stores.command("at")(_at)


@command
def _at(
    place: Annotated[
        str | None, typer.Argument(help="s3://BUCKET/PREFIX, or `local`; without, only say where the stores lie.")
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say, or choose, where this workspace's feature stores lie; samples, models and runs stay in the workspace.

    HYPERCOLUMNS_STORES, where it is set, decides instead. Credentials and endpoint come from the AWS_* variables. Stores that
    lie elsewhere stay there, and count again when their place is chosen again.
    """
    from storage.backends import backend_of
    from storage.places import LOCAL, MIRRORS, STORES_VARIABLE, checked_url, choose_stores, mirror_of, stores_url
    from storage.workspace import Workspace, resolve_workspace

    root = resolve_workspace(workspace)
    if place is not None:
        if place != LOCAL:
            # Here rather than in the middle of a run it is noticed that the place cannot be used.
            backend_of(mirror_of(root / MIRRORS, checked_url(place)))
        choose_stores(root, place)
    folder, url = Workspace(root).stores, stores_url(root)
    lines = [f"feature stores lie at {url or folder}"]
    if url is not None:
        lines.append(f"cache and index: {folder}, which may be removed when nothing runs")
    if place is not None and place.rstrip("/") != (url or "local"):
        lines.append(f"{STORES_VARIABLE} is set, and decides instead of what was chosen")
    emit({"url": url, "folder": str(folder)}, as_json, "\n".join(lines))
