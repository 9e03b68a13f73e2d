"""Commands that run an experiment, whole or up to a stage, through its flow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.config import load_experiment
from cli.context import JsonOption, WorkspaceOption, command, emit, quiet_prefect
from cli.embedded import EmbeddedServer, configure_prefect

__all__ = ["config_and_overrides", "register_experiments", "run_embedded"]

ConfigArgument = Annotated[
    Path | None, typer.Argument(help="Experiment file (YAML); without one, the defaults: generated figures.")
]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(help="Overrides, key.path=value: head.hidden=64 train.epochs=3.")
]

_STAGES = {
    "extract": ("extract_features", "Compute and store what the experiment's feature store lacks."),
    "sample": ("sample_pixels", "Draw sparse labelled pixels into a sample set."),
    "pretrain": ("pretrain_classifier", "Train the small classifier on the sample set."),
    "train": ("train_dense", "Train the converted classifier on every labelled pixel."),
    "evaluate": ("evaluate_model", "Score the model and its baselines."),
    "report": ("write_report", "Write the experiment's report."),
}


def register_experiments(app: typer.Typer) -> None:
    """Add `demo`, `run`, `plan` and a command for every stage."""
    app.command("demo")(_demo)
    app.command("run")(_run)
    for name, (flow, text) in _STAGES.items():
        app.command(name, help=f"{text} What earlier stages made is found by its key, or made first.")(_stage_command(flow))
    app.command("plan")(_plan)


@command
def _demo(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Run the whole job on generated figures, offline, in minutes: the quickest way to see a report."""
    _run_flow("run_experiment", Path(__file__).with_name("demo.yaml"), [], workspace, as_json)


@command
def _run(
    config: Annotated[Path, typer.Argument(help="Experiment file (YAML).")],
    overrides: OverridesArgument = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run an experiment: extract, sample, pretrain, convert, train densely, evaluate, report."""
    _run_flow("run_experiment", config, overrides or [], workspace, as_json)


def _stage_command(flow: str) -> Any:
    @command
    def stage(
        config: ConfigArgument = None,
        overrides: OverridesArgument = None,
        workspace: WorkspaceOption = None,
        as_json: JsonOption = False,
    ) -> None:
        _run_flow(flow, config, overrides or [], workspace, as_json)

    return stage


@command
def _plan(
    config: ConfigArgument = None,
    overrides: OverridesArgument = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what extraction would cost, whether it fits the disk, and from when storing pays; computes a few images only."""
    from storage.workspace import resolve_workspace
    from tasks.jobs import Job
    from tasks.plan import plan_extraction
    from tasks.prepare import prepare_dataset

    spec = load_experiment(*config_and_overrides(config, overrides))
    job = Job(spec=spec, workspace=resolve_workspace(workspace))
    planned = plan_extraction(job, prepare_dataset(job))
    lines = [
        f"images and views   {planned.images}, of which {planned.missing} are to be computed",
        f"store              {planned.bytes_per_image / 1e6:.2f} MB an image, {planned.bytes_needed / 1e9:.3f} GB to write",
        f"disk               {planned.bytes_free / 1e9:.1f} GB free: {'it fits' if planned.fits else 'IT DOES NOT FIT'}",
    ]
    if planned.eta_seconds is not None and planned.extract_seconds_per_image is not None:
        rate = planned.extract_seconds_per_image * 1000
        lines.append(f"time               about {planned.eta_seconds:.0f} s ({rate:.1f} ms an image, measured)")
    lines.append(f"advice             {planned.advice}")
    emit(planned.model_dump(mode="json"), as_json, "\n".join(lines))
    if not planned.fits:
        raise typer.Exit(1)


def config_and_overrides(config: Path | None, overrides: list[str] | None) -> tuple[Path | None, list[str]]:
    """Take a first argument that is an override for one: a config file may be left out."""
    found = list(overrides or [])
    if config is not None and "=" in str(config) and not config.exists():
        return None, [str(config), *found]
    return config, found


def _run_flow(flow: str, config: Path | None, overrides: list[str], workspace: Path | None, as_json: bool) -> None:
    spec = load_experiment(*config_and_overrides(config, overrides))
    value = run_embedded(flow, workspace, config=spec)
    emit(value, as_json, _summary(value))


def run_embedded(flow: str, workspace: Path | None, **parameters: Any) -> dict[str, Any]:
    """Run a flow of the module of its name in this process, on the user's Prefect server or an embedded one.

    Args:
        flow: Name of the flow's function, and of its module in `flows`.
        workspace: The workspace that was asked for.
        **parameters: What the flow is told besides.

    Returns:
        What it hands back, as plain JSON values.
    """
    from storage.workspace import Workspace, resolve_workspace

    root = resolve_workspace(workspace)
    server = EmbeddedServer() if configure_prefect(Workspace(root).prefect_home) else None
    from importlib import import_module

    run = getattr(import_module(f"flows.{flow}"), flow)
    if server is not None:
        server.wait()
    with quiet_prefect():
        result = run(workspace=root, **parameters)
    value: dict[str, Any] = result.model_dump(mode="json")
    return value


def _summary(value: dict[str, Any]) -> str:
    lines = []
    if metrics := value["metrics"]:
        interval = metrics.get("intervals", {}).get("mean_iu")
        sure = f"  [{interval[0] * 100:.1f}, {interval[1] * 100:.1f}]" if interval else ""
        lines.append(f"mean IU {metrics['mean_iu'] * 100:.1f} %{sure}, pixel accuracy {metrics['pixel_accuracy'] * 100:.1f} %")
        for name, scores in sorted((value["baselines"] or {}).items(), key=lambda item: -item[1]["mean_iu"]):
            lines.append(
                f"  {name:26s} mean IU {scores['mean_iu'] * 100:5.1f} %, pixel accuracy {scores['pixel_accuracy'] * 100:5.1f} %"
            )
    if cache := value["cache"]:
        hits, misses = (sum(layer[kind] for layer in cache.values()) for kind in ("hits", "misses"))
        lines.append(f"feature store: {hits} maps found, {misses} computed")
    lines.append("seconds: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in value["timings"].items()))
    lines.append(f"run {value['run_id']}")
    if value["report"]:
        lines.append(f"report {value['report']}")
    return "\n".join(lines)
