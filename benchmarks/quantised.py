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
"""Half the size and a single dense epoch: six trainings are to end within minutes."""


def quantised_accuracy() -> list[Figure]:
    """Compare val mean IU after the sparse stage and a dense epoch; without the real photographs there is no such row."""
    if "HYPERCOLUMNS_REAL_DATA" not in os.environ:
        return []
    with scratch() as folder:
        found = {(dtype, seed): _trained(folder, dtype, seed) for dtype in ("float16", "uint8") for seed in SEEDS}
    names = found["float16", SEEDS[0]]["class_names"]
    halves, bytes_ = ([found[dtype, seed]["matrices"] for seed in SEEDS] for dtype in ("float16", "uint8"))
    seeds = [paired_bootstrap(ours, theirs, names) for ours, theirs in zip(bytes_, halves, strict=True)]
    # The pixels that an image has under all seeds are added up before images are drawn.
    pooled = paired_bootstrap(np.sum(bytes_, axis=0), np.sum(halves, axis=0), names)
    difference = pooled["difference"]
    # Zero lies in the interval when the difference is not larger than the way to the end that is nearer to zero.
    reach = difference - pooled["low"] if difference > 0 else pooled["high"] - difference
    details = {
        "interval": [pooled["low"], pooled["high"]],
        "difference": difference,
        "differences_by_seed": [one["difference"] for one in seeds],
        "interval_over_seeds": _interval_of_mean([one["difference"] for one in seeds]),
        "intervals_by_seed": [[one["low"], one["high"]] for one in seeds],
        "uint8_mean_iu": [score(matrices, names).mean_iu for matrices in bytes_],
        "float16_mean_iu": [score(matrices, names).mean_iu for matrices in halves],
        "seconds": [found[dtype, seed]["seconds"] for dtype in ("float16", "uint8") for seed in SEEDS],
    }
    return [
        Figure(
            "uint8 store: val mean IU at 240x180, difference from float16, three seeds",
            abs(difference),
            max(UNSEEN, reach),
            "",
            at_most=True,
            details=details,
        )
    ]


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
