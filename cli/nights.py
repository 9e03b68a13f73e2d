"""`hypercolumns nightly` and `notify`: a night by hand, and telling the server what it cannot see for itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.config import load_night
from cli.context import JsonOption, WorkspaceOption, command, emit
from cli.embedded import configured_server
from cli.experiments import OverridesArgument, run_embedded

__all__ = ["register_nights"]


def register_nights(app: typer.Typer) -> None:
    """Add `nightly` and `notify`."""
    app.command("nightly")(_nightly)
    notify = typer.Typer(help="Tell the Prefect server of what happened elsewhere; automations follow.", no_args_is_help=True)
    notify.callback()(lambda: None)
    notify.command("data-arrived")(_data_arrived)
    app.add_typer(notify, name="notify")


@command
def _nightly(
    config: Annotated[Path, typer.Argument(help="Experiment file (YAML); its section `nightly` says what a night is told.")],
    overrides: OverridesArgument = None,
    line: Annotated[str, typer.Option(help="Task line whose champion is challenged; by default the experiment's name.")] = "",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Retrain on what is new, and promote the new model only when it is surely better than the champion."""
    spec, night = load_night(config, overrides or [])
    value = run_embedded(
        "nightly_retrain",
        workspace,
        config=spec,
        promotion=night.promotion,
        checks=night.checks,
        retention=night.retention,
        warm_start=night.warm_start,
        from_scratch=night.from_scratch,
        line=line,
    )
    emit(value, as_json, _summary(value))


@command
def _data_arrived(
    line: Annotated[str, typer.Argument(help="Task line that the data are for.")],
    images: Annotated[int | None, typer.Option(min=0, help="How many images arrived.")] = None,
    note: Annotated[str, typer.Option(help="What to tell those who look at the event.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Tell the configured Prefect server that data arrived for a task line: event `hypercolumns.data.arrived`."""
    from hypercolumns.errors import SpecError

    server = configured_server()
    if server is None:
        raise SpecError("expected a Prefect server to tell, none is configured; set PREFECT_API_URL, or use a Prefect profile")
    from flows.events import announce_now

    payload: dict[str, Any] = {"note": note} | ({} if images is None else {"images": images})
    event_id = announce_now("data.arrived", line, payload)
    emit({"event": "hypercolumns.data.arrived", "id": event_id, "server": server}, as_json, f"told {server}: {event_id}")


def _summary(value: dict[str, Any]) -> str:
    lines = [value["message"]]
    if value["news"]:
        lines.append(f"new: {value['news']}; {value['images_extracted']} images extracted")
    if value["decision"]:
        lines += [f"  {reason}" for reason in value["decision"]["reasons"]]
    lines.append("seconds: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in value["timings"].items()))
    lines.append(f"run {value['run_id']}")
    if value["report"]:
        lines.append(f"report {value['report']}")
    return "\n".join(lines)
