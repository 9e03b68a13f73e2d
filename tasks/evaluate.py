"""Evaluate: score the model, its sparse stage and the trivial baselines on one protocol, and keep what the report shows."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypercolumns.metrics.bootstrap import bootstrap_intervals
from hypercolumns.metrics.segmentation import expected_prior_matrix, majority_matrix, score
from hypercolumns.problems import mean_iu
from hypercolumns.specs import ExperimentSpec
from storage.canonical import digest
from storage.errors import AlreadyPublishedError
from storage.models import load_model, model_exists, read_description, save_model
from tasks.cluster import Fleet
from tasks.jobs import Evaluated, Extracted, Job, Prepared, Pretrained, Sampled, Trained
from tasks.manifests import Manifest, load_manifest
from tasks.record import note_use
from tasks.score_together import score_together
from tasks.scoring import predict_images, score_classifiers

__all__ = ["evaluate_model", "load_evaluation", "protocol_line"]


def evaluate_model(
    job: Job,
    prepared: Prepared,
    extracted: Extracted,
    sampled: Sampled,
    pretrained: Pretrained,
    trained: Trained,
    *,
    fleet: Fleet | None = None,
) -> Evaluated:
    """Score everything on the val split, or find the scores.

    Raises:
        ClusterError: the fleet that was to score the images was lost; what it scored is kept for the next run.
    """
    start = time.perf_counter()
    manifest = load_manifest(prepared.path)
    key = _evaluation_key(job, manifest, pretrained, trained)
    note_use(job, key)
    cached = model_exists(job.places.evaluations, key)
    if not cached:
        if fleet is None:
            scored = score_classifiers(job, manifest, sampled, pretrained, trained)
        else:
            scored = score_together(job, prepared, sampled, pretrained, trained, key, fleet)
        matrices = _counted_matrices(job, manifest) | scored.matrices
        shown = _panel_images(job.spec, matrices["model"])
        unseen = [index for index in shown if index not in scored.predictions]
        predictions = scored.predictions | predict_images(job, manifest, trained, unseen)
        description = _describe(job.spec, manifest, matrices)
        tensors: dict[str, NDArray[Any]] = {f"matrices.{name}": values for name, values in matrices.items()}
        tensors |= {f"prediction.{index}": predictions[index] for index in shown}
        with contextlib.suppress(AlreadyPublishedError):
            save_model(job.places.evaluations, key, tensors, description)
        # What a fleet left of its parts serves nobody any more.
        shutil.rmtree(job.places.checkpoints / key, ignore_errors=True)
    path = job.places.evaluations / key
    scores = read_description(path)["scores"]
    return Evaluated(
        key=key,
        path=path,
        cached=cached,
        seconds=time.perf_counter() - start,
        metrics=scores["model"],
        baselines={name: values for name, values in scores.items() if name != "model"},
    )


def _evaluation_key(job: Job, manifest: Manifest, pretrained: Pretrained, trained: Trained) -> str:
    return digest(
        {
            "model": trained.key,
            "sparse": pretrained.key,
            "images": manifest.content_key(job.spec.dataset.val_split, labels=True),
            "evaluate": job.spec.evaluate.model_dump(mode="json"),
            "precision": job.spec.train.precision,
        }
    )


def load_evaluation(path: Path) -> tuple[dict[str, NDArray[np.int64]], dict[int, NDArray[np.uint8]], dict[str, Any]]:
    """Read an evaluation: confusion matrices (images, C, C) by name, predictions of the shown images, and the scores."""
    tensors, description = load_model(path)
    matrices = {name.removeprefix("matrices."): value for name, value in tensors.items() if name.startswith("matrices.")}
    shown = {int(name.split(".")[1]): value for name, value in tensors.items() if name.startswith("prediction.")}
    return matrices, shown, description


def protocol_line(spec: ExperimentSpec) -> str:
    """Say in one line what the scores mean: it stands beside every number."""
    if spec.evaluate.protocol == "notebook":
        return f"notebook protocol: {spec.store.canvas.size_hw} canvas, void counted as background, one confusion matrix"
    flips = "; averaged with the mirror image" if spec.evaluate.flip else ""
    return f"label resolution, void ignored, one confusion matrix over the split, absent classes excluded{flips}"


def _counted_matrices(job: Job, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Return the matrices of the baselines that follow from label counts alone, one an image (n, C, C)."""
    spec = job.spec
    truths = manifest.histograms(spec.dataset.val_split, spec)
    train_pixels = manifest.histograms(spec.dataset.train_split, spec).sum(axis=0)
    prior = train_pixels / train_pixels.sum()
    makers: dict[str, Callable[[NDArray[np.int64]], NDArray[Any]]] = {
        "majority": lambda truth: majority_matrix(truth, int(train_pixels.argmax())),
        "prior": lambda truth: expected_prior_matrix(truth, prior),
    }
    return {name: np.stack([makers[name](truth) for truth in truths]) for name in spec.evaluate.baselines if name in makers}


def _describe(spec: ExperimentSpec, manifest: Manifest, matrices: Mapping[str, NDArray[np.int64]]) -> dict[str, Any]:
    scores = {}
    for name, values in matrices.items():
        scores[name] = score(values, manifest.class_names).to_json()
        if spec.evaluate.bootstrap:
            intervals = bootstrap_intervals(
                values, manifest.class_names, resamples=spec.evaluate.bootstrap, confidence=spec.evaluate.confidence, seed=0
            )
            scores[name]["intervals"] = {metric: list(interval) for metric, interval in intervals.items()}
    return {"protocol": protocol_line(spec), "scores": scores, "images": len(next(iter(matrices.values())))}


def _panel_images(spec: ExperimentSpec, matrices: NDArray[np.int64]) -> list[int]:
    """Choose the images to show: those of best, median and worst mean IU."""
    order = sorted(range(len(matrices)), key=lambda index: mean_iu(matrices[index]), reverse=True)
    count, middle = spec.evaluate.panels, len(order) // 2
    half = count // 2
    chosen = order[:count] + order[max(0, middle - half) : middle - half + count] + (order[-count:] if count else [])
    return list(dict.fromkeys(chosen))
