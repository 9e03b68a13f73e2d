"""`hypercolumns predict`: masks and overlays for images, with the model of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.context import JsonOption, WorkspaceOption, command, emit

__all__ = ["register_predictions"]


def register_predictions(app: typer.Typer) -> None:
    """Add `predict`."""
    app.command("predict")(_predict)


@command
def _predict(
    run: Annotated[str, typer.Argument(help="Run whose model labels the images; `latest` for the newest one.")],
    images: Annotated[list[str], typer.Argument(help="Image files, folders or globs.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for masks (NAME.png) and overlays (NAME.overlay.jpg).")],
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on past images that cannot be read, and list them.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Label images with a trained model: palette PNG masks at each image's own size, and overlays."""
    from storage.workspace import resolve_workspace
    from tasks.predict import find_images, find_model, predict_images

    model = find_model(resolve_workspace(workspace), run)
    result = predict_images(model, find_images(images), out, skip_bad=skip_bad)
    rate = f", {result.seconds_per_image * 1000:.0f} ms each" if result.seconds_per_image is not None else ""
    lines = [f"{len(result.masks)} masks in {out}{rate}"]
    lines += [f"left out {path}: {reason}" for path, reason in result.rejected.items()]
    emit(result.model_dump(mode="json"), as_json, "\n".join(lines))
