"""What a store of bytes costs in accuracy: heads trained from it and from half precision, on the same photographs and seeds."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring import Figure, scratch
from cli.config import load_experiment
from hypercolumns.metrics.bootstrap import paired_bootstrap
from hypercolumns.metrics.segmentation import score
from tasks.evaluate import evaluate_model, load_evaluation
from tasks.extract import extract_features
from tasks.jobs import Job
from tasks.manifests import load_manifest
from tasks.prepare import prepare_dataset
from tasks.pretrain import pretrain_classifier
from tasks.sample import sample_pixels
from tasks.train import train_dense

__all__ = ["quantised_accuracy"]

SEEDS = (0, 1, 2)
UNSEEN = 0.002
"""A difference in mean IU that nobody would see, however sure it is."""

_STUDENT_T = 4.302653
"""97.5th percentile of Student's t with two degrees of freedom, those of three seeds."""

_CONFIG = Path(__file__).parent.parent / "configs" / "camvid.yaml"
_SHORT = (
    "store.canvas.size_hw=[180,240]",
    "store.views=[identity]",
    "pretrain.epochs=2",
    "train.epochs=1",
    "evaluate.baselines=[]",
    "evaluate.panels=0",
    "evaluate.bootstrap=0",
)
"""Half the size and a single dense epoch: nine trainings are to end within minutes."""


def quantised_accuracy() -> list[Figure]:
    """Compare val mean IU after the sparse stage and a dense epoch; without the real photographs there is no such row.

    Single precision, of which half is the rounded form, is compared as well: whatever it differs by is what other last digits
    make of a training, and says nothing about the store.
    """
    if "HYPERCOLUMNS_REAL_DATA" not in os.environ:
        return []
    with scratch() as folder:
        halves = [_trained(folder, "float16", seed) for seed in SEEDS]
        return [
            _compared(dtype, [_trained(folder, dtype, seed) for seed in SEEDS], halves, target)
            for dtype, target in (("uint8", UNSEEN), ("float32", None))
        ]


def _compared(dtype: str, ours: list[dict[str, Any]], halves: list[dict[str, Any]], target: float | None) -> Figure:
    """Say what a type's heads score less or more than those of half precision, seed by seed and image by image."""
    names = halves[0]["class_names"]
    matrices, half_matrices = ([one["matrices"] for one in found] for found in (ours, halves))
    seeds = [paired_bootstrap(one, half, names) for one, half in zip(matrices, half_matrices, strict=True)]
    # The pixels that an image has under all seeds are added up before images are drawn.
    pooled = paired_bootstrap(np.sum(matrices, axis=0), np.sum(half_matrices, axis=0), names)
    difference = pooled["difference"]
    # Zero lies in the interval when the difference is not larger than the way to the end that is nearer to zero.
    reach = difference - pooled["low"] if difference > 0 else pooled["high"] - difference
    details = {
        "interval": [pooled["low"], pooled["high"]],
        "difference": difference,
        "differences_by_seed": [one["difference"] for one in seeds],
        "interval_over_seeds": _interval_of_mean([one["difference"] for one in seeds]),
        "intervals_by_seed": [[one["low"], one["high"]] for one in seeds],
        f"{dtype}_mean_iu": [score(one, names).mean_iu for one in matrices],
        "float16_mean_iu": [score(one, names).mean_iu for one in half_matrices],
        "seconds": [one["seconds"] for one in (*halves, *ours)],
    }
    return Figure(
        f"{dtype} store: val mean IU at 240x180, difference from float16, three seeds",
        abs(difference),
        None if target is None else max(target, reach),
        "",
        at_most=True,
        details=details,
    )


def _interval_of_mean(differences: list[float]) -> list[float]:
    """Say where the mean over all seeds may lie: the images' interval knows only the three that were tried."""
    mean, error = np.mean(differences), np.std(differences, ddof=1) / np.sqrt(len(differences))
    return [float(mean - _STUDENT_T * error), float(mean + _STUDENT_T * error)]


def _trained(workspace: Path, dtype: str, seed: int) -> dict[str, Any]:
    """Train and score; whoever comes first for a type extracts its store."""
    start = time.perf_counter()
    seeded = [f"{section}.seed={seed}" for section in ("sample", "pretrain", "train")]
    job = Job(spec=load_experiment(_CONFIG, [*_SHORT, f"store.dtype={dtype}", *seeded]), workspace=workspace)
    prepared = prepare_dataset(job)
    extracted = extract_features(job, prepared)
    sampled = sample_pixels(job, prepared, extracted)
    pretrained = pretrain_classifier(job, prepared, extracted, sampled)
    trained = train_dense(job, prepared, pretrained)
    evaluated = evaluate_model(job, prepared, extracted, sampled, pretrained, trained)
    matrices: NDArray[np.int64] = load_evaluation(evaluated.path)[0]["model"]
    stages = (prepared, extracted, sampled, pretrained, trained, evaluated)
    return {
        "matrices": matrices,
        "class_names": load_manifest(prepared.path).class_names,
        "seconds": {type(stage).__name__.lower(): stage.seconds for stage in stages} | {"all": time.perf_counter() - start},
    }
