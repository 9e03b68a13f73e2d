"""`hypercolumns runs`: what was run, and what came of it."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from cli.context import JsonOption, WorkspaceOption, command, emit

__all__ = ["register_runs"]


def register_runs(app: typer.Typer) -> None:
    """Add `runs ls` and `runs show`."""
    runs = typer.Typer(help="Look at runs: what was asked for, what was done, how it scored.", no_args_is_help=True)
    runs.command("ls")(_list)
    runs.command("show")(_show)
    app.add_typer(runs, name="runs")


@command
def _list(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List runs, the newest first."""
    from storage.runs import list_runs
    from storage.workspace import Workspace, resolve_workspace

    views = list_runs(Workspace(resolve_workspace(workspace)).runs)
    rows: list[dict[str, Any]] = [
        {"run_id": v.run_id, "status": v.status, "reason": v.reason, "mean_iu": v.metrics.get("mean_iu"), "timings": v.timings}
        for v in views
    ]
    lines = []
    for row in rows:
        score = "" if row["mean_iu"] is None else f"mean IU {row['mean_iu'] * 100:5.1f} %"
        lines.append(f"{row['run_id']:44s} {row['status']:9s} {score} {row['reason']}".rstrip())
    emit(rows, as_json, "\n".join(lines) or "no runs yet: hypercolumns demo")


@command
def _show(
    run: Annotated[str, typer.Argument(help="The run's id.")], workspace: WorkspaceOption = None, as_json: JsonOption = False
) -> None:
    """Show all that a run's record says."""
    import json

    from hypercolumns.errors import SpecError
    from storage.runs import list_runs
    from storage.workspace import Workspace, resolve_workspace

    root = Workspace(resolve_workspace(workspace)).runs
    found = {view.run_id: view for view in list_runs(root)}
    if run not in found:
        raise SpecError(f"expected a run in {root}, got {run!r}; the newest: {', '.join(list(found)[:5]) or 'none'}")
    view = dataclasses.asdict(found[run])
    shown: dict[str, Any] = {name: value for name, value in view.items() if name != "entries"}
    emit(view, as_json, json.dumps(shown, indent=2, default=str))
