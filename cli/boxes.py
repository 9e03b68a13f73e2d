"""Commands for what is predicted inside boxes: masks, keypoints, parts, and the comparison of heads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.config import load_box_experiment, load_comparison
from cli.context import JsonOption, WorkspaceOption, command, emit
from cli.experiments import ConfigArgument, OverridesArgument, config_and_overrides, run_embedded

__all__ = ["register_boxes"]

_TASKS = {
    "segment": ("segment_instances", "segment", "Predict the mask of the object in each box, score it, and report."),
    "keypoints": ("predict_keypoints", "keypoints", "Predict the keypoints of the object in each box, score them, and report."),
    "parts": ("label_parts", "parts", "Label the parts of the object in each box, score them, and report."),
}


def register_boxes(app: typer.Typer) -> None:
    """Add `segment`, `keypoints`, `parts`, `compare-heads` and `predict-boxes`."""
    for name, (flow, task, text) in _TASKS.items():
        app.command(name, help=f"{text} What earlier runs made is found by its key.")(_task_command(flow, task))
    app.command("compare-heads")(_compare)
    app.command("predict-boxes")(_predict)


def _task_command(flow: str, task: str) -> Any:
    @command
    def run(
        config: ConfigArgument = None,
        overrides: OverridesArgument = None,
        workspace: WorkspaceOption = None,
        as_json: JsonOption = False,
    ) -> None:
        value = run_embedded(flow, workspace, config=load_box_experiment(*config_and_overrides(config, overrides), task))
        emit(value, as_json, _summary(value))

    return run


@command
def _compare(
    config: ConfigArgument = None,
    overrides: OverridesArgument = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train heads on fewer layers and with fewer classifiers from one store, and say what each is worth."""
    value = run_embedded("compare_heads", workspace, config=load_comparison(*config_and_overrides(config, overrides)))
    lines = [*value["table"], "", *value["claims"], f"run {value['run_id']}", f"report {value['report']}"]
    emit(value, as_json, "\n".join(lines))


@command
def _predict(
    run: Annotated[str, typer.Argument(help="Run whose head is used; `latest` for the newest one.")],
    images: Annotated[list[str], typer.Argument(help="Image files, folders or globs.")],
    boxes: Annotated[
        Path, typer.Option("--boxes", help="COCO results JSON of the boxes; image_id is the image's file name, stem or number.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for results.json and pictures.")],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict masks, keypoints or parts in boxes of images, with the head of a run: COCO results, PNGs and overlays."""
    from storage.workspace import resolve_workspace
    from tasks.boxes.predict import predict_boxes
    from tasks.predict import find_images, find_model

    model = find_model(resolve_workspace(workspace), run, "train-head")
    result = predict_boxes(model, find_images(images), boxes, out)
    rate = f", {result.seconds_per_box * 1000:.0f} ms each" if result.seconds_per_box is not None else ""
    lines = [
        f"{result.boxes} boxes ({result.task}){rate}",
        f"results {result.results}",
        f"{len(result.pictures)} pictures in {out}",
    ]
    emit(result.model_dump(mode="json"), as_json, "\n".join(lines))


def _summary(value: dict[str, Any]) -> str:
    """Spell a run's scores, model first, each with its interval, and what they mean."""
    lines = []
    if value["metrics"]:
        for name, scores in {"model": value["metrics"], **(value["baselines"] or {})}.items():
            lines.append(f"{name}")
            for score, number in scores.items():
                if not isinstance(number, float):
                    continue
                bounds = scores["intervals"].get(score)
                sure = f"  [{bounds[0] * 100:.1f}, {bounds[1] * 100:.1f}]" if bounds else ""
                lines.append(f"  {score:24s} {number * 100:5.1f} %{sure}")
            if mistakes := scores.get("mistakes"):
                counts = ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in mistakes["all"].items())
                lines.append(f"  detections at overlap {mistakes['threshold']:g}: {counts}")
        lines.append(f"protocol: {value['protocol']}")
    if cache := value["cache"]:
        hits, misses = (sum(layer[kind] for layer in cache.values()) for kind in ("hits", "misses"))
        lines.append(f"feature store: {hits} maps found, {misses} computed")
    lines.append("seconds: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in value["timings"].items()))
    lines.append(f"run {value['run_id']}")
    if value["report"]:
        lines.append(f"report {value['report']}")
    return "\n".join(lines)
