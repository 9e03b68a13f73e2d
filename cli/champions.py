"""`hypercolumns champion`: which model of a task line is promoted and why, and having it otherwise."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.context import JsonOption, WorkspaceOption, command, emit

if TYPE_CHECKING:
    from storage.champions import LineView
    from storage.record_log import LogEntry
    from storage.workspace import Workspace

__all__ = ["register_champions"]

LineArgument = Annotated[str, typer.Argument(help="Name of the task line: by default that of the experiment.")]
WhyOption = Annotated[str, typer.Option("--why", help="The reason, for those who read the history.")]


def register_champions(app: typer.Typer) -> None:
    """Add `champion show`, `history`, `report`, `rollback` and `pin`."""
    champions = typer.Typer(
        help="Which model is promoted, since when and why; go back, or hold on to one.", no_args_is_help=True
    )
    champions.command("show")(_show)
    champions.command("history")(_history)
    champions.command("report")(_report)
    champions.command("rollback")(_rollback)
    champions.command("pin")(_pin)
    app.add_typer(champions, name="champion")


@command
def _show(
    line: Annotated[str | None, typer.Argument(help="Name of the task line; all lines by default.")] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the champion of a task line, or of every line."""
    from storage.champions import list_lines
    from tasks.champions import existing_line

    places = _places(workspace)
    views = [existing_line(places, name) for name in ([line] if line else list_lines(places))]
    emit(
        [_as_json(view) for view in views], as_json, "\n".join(map(_spelled, views)) or "no champions yet: hypercolumns nightly"
    )


@command
def _history(
    line: LineArgument,
    limit: Annotated[int, typer.Option(min=1, help="Show so many decisions, the latest ones.")] = 20,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what was decided about a task line, the latest first: by whom, by which interval, for which reasons."""
    from tasks.champions import existing_line

    view = existing_line(_places(workspace), line)
    entries = [entry for entry in reversed(view.entries) if entry.kind not in {"begun", "recovered"}][:limit]
    rows = [{"time": entry.time.isoformat(), "kind": entry.kind, **entry.data} for entry in entries]
    emit(rows, as_json, "\n".join(map(_line, entries)) or f"nothing was decided about {line} yet")


@command
def _report(
    line: LineArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder for history.html and history.md.")],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the history as one HTML page: scores over time, classes, promotions and refusals, data, cost of each night."""
    from tasks.champions import existing_line
    from tasks.history import write_history_files

    places = _places(workspace)
    html, markdown = write_history_files(places, existing_line(places, line).line, out)
    emit({"html": str(html), "markdown": str(markdown)}, as_json, str(html))


@command
def _rollback(
    line: LineArgument,
    steps: Annotated[int, typer.Option(min=1, help="How many champions to go back.")] = 1,
    why: WhyOption = "",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a former champion the champion again; nights never promote the withdrawn model again, but may promote another."""
    from storage.champions import rollback
    from tasks.champions import existing_line

    places = _places(workspace)
    before = existing_line(places, line)
    view = rollback(places, line, who=_person(), why=why or "rolled back by hand", expected=before.model, steps=steps)
    emit(_as_json(view), as_json, _spelled(view))


@command
def _pin(
    line: LineArgument,
    run: Annotated[
        str | None, typer.Argument(help="Run whose model becomes champion; by default the present champion.")
    ] = None,
    lift: Annotated[bool, typer.Option("--release", help="Let nights replace the champion again.")] = False,
    why: WhyOption = "",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a run's model (or the present one) the champion and keep it, whatever nights find; --release ends that."""
    from hypercolumns.errors import SpecError
    from storage.champions import pin, read_line, release
    from tasks.champions import champion_of_run, existing_line

    places = _places(workspace)
    if lift and run is not None:
        raise SpecError(f"expected a run to pin, or --release, got both ({run!r})")
    before = read_line(places, line) if run is not None else existing_line(places, line)
    if lift:
        view = release(places, line, who=_person(), why=why or "released by hand", expected=before.model)
    else:
        champion = None if run is None else champion_of_run(places, run)
        view = pin(places, line, champion, who=_person(), why=why or "pinned by hand", expected=before.model)
    emit(_as_json(view), as_json, _spelled(view))


def _places(workspace: Path | None) -> Workspace:
    from storage.workspace import Workspace, resolve_workspace

    return Workspace(resolve_workspace(workspace))


def _person() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user need not have a name.
        return "somebody without a user name"


def _as_json(view: LineView) -> dict[str, Any]:
    return {
        "line": view.line,
        "champion": None if view.champion is None else view.champion.as_json(),
        "since": None if view.since is None else view.since.isoformat(),
        "pinned": view.pinned,
        "former": [champion.as_json() for champion in view.former],
        "withdrawn": sorted(view.withdrawn),
    }


def _spelled(view: LineView) -> str:
    if view.champion is None or view.since is None:
        return f"{view.line}: no champion yet"
    score = view.champion.facts.get("mean_iu")
    scored = "" if score is None else f", mean IU {score * 100:.1f} % when it was promoted"
    lines = [f"{view.line}: model {view.champion.model} of run {view.champion.run_id}{scored}"]
    lines.append(f"  since {view.since:%Y-%m-%d %H:%M} UTC{', pinned' if view.pinned else ''}")
    reasons = view.last("promoted", "pinned", "rolled_back")
    lines += [f"  {reason}" for reason in _reasons(reasons)] if reasons else []
    lines.append(f"  a rollback can go back {len(view.former)} steps")
    return "\n".join(lines)


def _line(entry: LogEntry) -> str:
    champion = entry.data.get("champion") or entry.data.get("challenger") or {}
    about = f" {champion['model']} of run {champion['run_id']}" if "model" in champion else ""
    by = f" by {entry.data['who']}" if "who" in entry.data else ""
    reasons = "".join(f"\n    {reason}" for reason in _reasons(entry))
    return f"{entry.time:%Y-%m-%d %H:%M} UTC  {entry.kind.replace('_', ' ')}{about}{by}{reasons}"


def _reasons(entry: LogEntry) -> list[str]:
    return [str(reason) for reason in entry.data.get("decision", entry.data).get("reasons", [])]
