"""`hypercolumns store gc`: giving disk space back. What deletes says what it would delete, and deletes with `--yes` alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import JsonOption, WorkspaceOption, command, emit
from cli.quantities import parse_seconds, spell_bytes

if TYPE_CHECKING:
    from storage.garbage import Sweep

__all__ = ["register_upkeep"]

YesOption = Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be done.")]


def register_upkeep(stores: typer.Typer) -> None:
    """Add `store gc`."""
    stores.command("gc")(_gc)


@command
def _gc(
    yes: YesOption = False,
    older_than: Annotated[
        str, typer.Option(help="What was used or made since then stays, though no run names it: 12h, 1d, 2w, 0.")
    ] = "1d",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove what no run's record names, and what writers that died left: stores, sample sets, models, evaluations, manifests.

    What a run names stays for as long as its folder in `runs` does. Nothing that a process has open is removed.
    """
    from storage.garbage import sweep
    from storage.workspace import Workspace, resolve_workspace

    swept = sweep(Workspace(resolve_workspace(workspace)), parse_seconds(older_than), remove=yes)
    emit(swept.as_json(), as_json, _swept(swept))
    if swept.blocked:
        raise typer.Exit(1)


def _swept(swept: Sweep) -> str:
    lines = [f"{item.kind:12s} {spell_bytes(item.bytes):>10s}  {item.path}: {item.why}" for item in swept.garbage]
    lines += [f"{item.kind:12s} {'stays':>10s}  {item.path}: {item.why}" for item in swept.kept]
    lines += [f"cannot be read: {reason}" for reason in swept.blocked]
    if swept.blocked:
        lines.append(
            "what runs use cannot be known, so nothing that they might use is removed; restore the record, or remove the run's "
            "folder: what it named goes with it"
        )
    count = f"{len(swept.garbage)} things, {spell_bytes(swept.bytes)}"
    lines.append(f"removed: {count}" if swept.removed else f"would be removed with --yes: {count}")
    return "\n".join(lines)
