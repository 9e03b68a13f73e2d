"""Generated figures: the `shapes` data set, and the backbone that is trained on it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from cli.context import JsonOption, command, emit

__all__ = ["register_figures"]


def register_figures(app: typer.Typer) -> None:
    """Add `shapes make` and `pretrain-backbone`."""
    shapes = typer.Typer(help="Generated scenes with masks, instances, parts, keypoints and depth.", no_args_is_help=True)
    shapes.callback()(lambda: None)
    shapes.command("make")(_make)
    app.add_typer(shapes, name="shapes")
    app.command("pretrain-backbone")(_pretrain_backbone)


@command
def _make(
    folder: Annotated[Path, typer.Argument(help="Folder to write; must not hold anything else.")],
    images: Annotated[int, typer.Option("--images", help="Number of scenes.")] = 240,
    size: Annotated[int, typer.Option("--size", help="Side of a scene in pixels, 64 to 512.")] = 128,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same bytes.")] = 0,
    scenery: Annotated[
        str, typer.Option("--scenery", help="varied, or crowded: parts that look alike, classes in groups.")
    ] = "varied",
    as_json: JsonOption = False,
) -> None:
    """Write generated scenes in VOC layout, with instance and part masks, COCO JSON, depth and a second label set."""
    from hypercolumns.datasets.shapes import write_shapes

    summary = write_shapes(folder, images=images, size=size, seed=seed, scenery=scenery)
    emit(dataclasses.asdict(summary), as_json, f"{images} scenes in {folder}")


@command
def _pretrain_backbone(
    out: Annotated[Path, typer.Option("--out", help="The safetensors file to write; a model card goes beside it.")],
    crops: Annotated[int, typer.Option("--crops", help="Pictures to train on.")] = 16_000,
    test_crops: Annotated[int, typer.Option("--test-crops", help="Pictures to test on.")] = 1_600,
    size: Annotated[int, typer.Option("--size", help="Side of the pictures in pixels.")] = 96,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the pictures.")] = 14,
    batch: Annotated[int, typer.Option("--batch", help="Pictures a step.")] = 64,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Peak learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option("--seed", help="Seed of figures, weights and order.")] = 7001,
    as_json: JsonOption = False,
) -> None:
    """Train squeezenet1_1 to classify generated figures, and write its features: the weights called `shapes`."""
    from hypercolumns.pretraining import BackbonePretrainingSpec, model_card, pretrain_backbone, write_backbone
    from hypercolumns.specs import parse_spec

    values = {
        "crops": crops,
        "test_crops": test_crops,
        "size": size,
        "epochs": epochs,
        "batch": batch,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    spec = parse_spec(BackbonePretrainingSpec, values)
    result = pretrain_backbone(spec, report=lambda line: typer.echo(line, err=True))
    write_backbone(out, result)
    out.with_suffix(".md").write_text(model_card(spec, result), encoding="utf-8")
    summary = {"path": str(out), "test_accuracy": result.test_accuracy, "seconds": result.seconds}
    emit(summary, as_json, f"{out}: test accuracy {result.test_accuracy:.3f}, {result.seconds:.0f} s")
