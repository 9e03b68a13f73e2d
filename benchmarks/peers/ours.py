"""This project beside its peers: its own command from photographs to a trained model, in runs of different length.

The sparse stage alone comes first, then as many dense epochs as end before each time at which the score is asked for: what an
epoch takes here is known from the run before. Each run starts from nothing but a workspace whose embedded Prefect server is set
up: no manifest, features, samples or models. Its time is that of `hypercolumns train`, from the start of the process to its
end. The masks are those that `hypercolumns predict` writes; that command, like every peer's prediction for the chart, is not on
the clock.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measuring import forget
from benchmarks.peers.ledger import MARKS, Ledger, begin, prediction_milliseconds
from benchmarks.peers.scene import Scene
from hypercolumns.allocator import keep_freed_memory
from hypercolumns.arithmetic import multiplies_bfloat16
from hypercolumns.backbones import build_backbone
from hypercolumns.canvas import fit_image
from hypercolumns.datasets.decoding import decode_image
from hypercolumns.geometry import place
from hypercolumns.heads import PixelConv
from hypercolumns.prediction import segment
from hypercolumns.sources import BackboneSource
from tasks.classifiers import load_classifier, torch_dtype
from tasks.predict import find_model

__all__ = ["SPARSE", "Spent", "dense_epochs"]

_ROOT = Path(__file__).parents[2]
_CONFIG = _ROOT / "configs" / "camvid.yaml"
_NO_FLIPS = "store.views=[identity]"
_FAST = ("store.precision=bfloat16", "store.dtype=bfloat16") if multiplies_bfloat16() else ()
"""The arithmetic of every peer that can (`gradients.fast_dtype`)."""


SPARSE: dict[str, tuple[float, tuple[str, ...]]] = {
    "sparse stage alone, at half the size": (
        30,
        ("train.epochs=0", _NO_FLIPS, "store.canvas.size_hw=[180,240]", "pretrain.epochs=2"),
    ),
    "sparse stage alone": (60, ("train.epochs=0", _NO_FLIPS)),
}
"""What is changed in the configuration, and the least budget in seconds for which it is run."""

_UNITS = "head.hidden=128"
"""Half of those configured, in all dense runs: with all of them a photograph takes more than the 25 ms it may."""

_FIRST_DENSE = ("train.epochs=1", _NO_FLIPS, _UNITS, "pretrain.epochs=2")
"""It also tells what an epoch takes on this machine."""

_FLIPS_FROM_EPOCHS = 8
"""Mirror images double what is extracted and sampled: they pay when every image is seen several times."""

_MOST_EPOCHS = 30
_DENSE_FROM_SECONDS = 60
_MARGIN = 0.9
"""Of the time until a score is asked for, what a run is planned to take."""

_NOTHING_TO_SCORE = "dataset.limit_val=1"
"""Peers do not read the val photographs to train either; one has to be there."""

_MADE = ("stores", "samples", "models", "runs", "evaluations", "datasets", "manifests", "checkpoints")


def _call(*arguments: str) -> dict[str, Any]:
    """Run a command of ours and return its JSON, with the seconds of the whole process."""
    command = [str(Path(sys.executable).with_name("hypercolumns")), *arguments, "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=_ROOT)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**result, "wall_seconds": time.perf_counter() - start}


@dataclass(frozen=True)
class Spent:
    """What a run took, in seconds."""

    extract_sample: float
    train: float
    rest: float


def dense_epochs(limit: float, spent: Spent, epoch: float) -> tuple[int, bool]:
    """Say how many dense epochs end in time, and whether mirror images are worth their extraction.

    Args:
        limit: seconds until the score is asked for.
        spent: what a run without mirror images took.
        epoch: seconds of an epoch.
    """
    left = _MARGIN * limit - spent.rest - spent.extract_sample
    mirrored = min(_MOST_EPOCHS, int((left - spent.extract_sample) / epoch))
    if mirrored >= _FLIPS_FROM_EPOCHS:
        return mirrored, True
    return max(0, min(_MOST_EPOCHS, int(left / epoch))), False


def _train(name: str, overrides: tuple[str, ...], workspace: Path, scene: Scene, ledger: Ledger) -> Spent:
    for made in _MADE:
        shutil.rmtree(workspace / made, ignore_errors=True)
    forget(scene.train_images[0].parents[2])
    place_of_work = ("--workspace", str(workspace))
    overrides = (_NOTHING_TO_SCORE, *_FAST, *overrides)
    trained = _call("train", str(_CONFIG), *overrides, *place_of_work)
    timings = trained["timings"]
    ledger.note(**{f"timings, {name}": timings})
    if _NO_FLIPS in overrides:
        again = _call("extract", str(_CONFIG), *overrides, *place_of_work)
        rate = len(scene.train_images) / timings["extract"]
        ledger.note(extraction_images_a_second=rate, rerun_seconds=again["timings"]["extract"])
    masks = workspace / "masks"
    shutil.rmtree(masks, ignore_errors=True)
    _call("predict", "latest", str(scene.val_images[0].parent), "--out", str(masks), *place_of_work)
    ledger.mark(_masks(masks, scene), seconds=trained["wall_seconds"], name=name)
    made = timings["extract"] + timings["sample"]
    return Spent(made, timings.get("train", 0.0), trained["wall_seconds"] - made - timings.get("train", 0.0))


def _train_densely(workspace: Path, scene: Scene, ledger: Ledger) -> None:
    """Train for as long as there is until each time at which the score is asked for, wherever an epoch ends before it."""
    spent = _train("1 dense epoch, shorter sparse stage, no flips", _FIRST_DENSE, workspace, scene, ledger)
    epoch = spent.train
    for limit in (share * ledger.budget_seconds for share in MARKS):
        tried = 0
        # Again where an epoch took so much less time than was thought that half as many more end in time.
        while (plan := dense_epochs(limit, spent, epoch))[0] >= max(1, 1.5 * tried):
            tried, mirrored = plan
            name = f"{tried} dense epochs" + ("" if mirrored else ", no flips")
            overrides = (f"train.epochs={tried}", _UNITS, *([] if mirrored else [_NO_FLIPS]))
            found = _train(name, overrides, workspace, scene, ledger)
            epoch = found.train / tried
            spent = spent if mirrored else found


def _masks(folder: Path, scene: Scene) -> Iterator[NDArray[np.uint8]]:
    for path in scene.val_images:
        with Image.open(folder / f"{path.stem}.png") as mask:
            yield np.array(mask)


def _predictor(workspace: Path) -> Callable[[Path], NDArray[np.uint8]]:
    """Return a function from an image file to its mask, by the newest model: what `tasks.predict` does for every image."""
    model, card = load_classifier(PixelConv, find_model(workspace, "latest"))
    model.dtype = torch_dtype(card.head_precision)
    backbone = build_backbone(card.backbone, card.canvas.size_hw, precision=card.precision)
    current: list[NDArray[np.uint8]] = []
    source = BackboneSource(backbone, lambda _: current[0], [layer.name for layer in card.layers])

    def predict(path: Path) -> NDArray[np.uint8]:
        image = decode_image(path)
        current[:] = [fit_image(image, card.canvas, fill_rgb=card.backbone.mean_rgb)[0]]
        return segment(model, source, 0, place((image.shape[0], image.shape[1]), card.canvas), flip=card.flip)

    return predict


def main() -> int:
    """Train in every way that the budget allows, and time prediction by the last."""
    keep_freed_memory()
    ledger, scene, _ = begin(__doc__)
    workspace = ledger.folder / "workspace"
    tiny = ("dataset.shapes.images=4", "dataset.shapes.size=64", "store.canvas.size_hw=[64,64]", "store.views=[identity]")
    set_up = _call("extract", *tiny, "--workspace", str(workspace))
    ledger.note(set_up_seconds=set_up["wall_seconds"])
    shortest = min(seconds for seconds, _ in SPARSE.values())
    for name, (seconds, overrides) in SPARSE.items():
        if seconds <= max(ledger.budget_seconds, shortest):
            _train(name, overrides, workspace, scene, ledger)
    if ledger.budget_seconds >= _DENSE_FROM_SECONDS:
        _train_densely(workspace, scene, ledger)
    ledger.note(prediction_ms=prediction_milliseconds(_predictor(workspace), scene.val_images))
    shutil.rmtree(workspace)
    return 0


if __name__ == "__main__":
    sys.exit(main())
