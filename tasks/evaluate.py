"""Evaluate: score the model, its sparse stage and the trivial baselines on one protocol, and keep what the report shows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from hypercolumns.canvas import restore_logits
from hypercolumns.geometry import place
from hypercolumns.heads import PixelConv, convert
from hypercolumns.metrics.bootstrap import bootstrap_intervals
from hypercolumns.metrics.segmentation import confusion_matrix, expected_prior_matrix, majority_matrix, score
from hypercolumns.prediction import canvas_scores
from hypercolumns.problems import mean_iu
from hypercolumns.sources import MapSource
from hypercolumns.specs import ExperimentSpec
from storage.canonical import digest
from storage.errors import AlreadyPublishedError
from storage.models import load_model, model_exists, read_description, save_model
from tasks.baselines import trained_baselines
from tasks.classifiers import load_classifier, load_sparse, torch_dtype
from tasks.jobs import Evaluated, Extracted, Job, Prepared, Pretrained, Sampled, Trained
from tasks.manifests import Entry, Manifest, load_manifest
from tasks.priors import prior_offset
from tasks.stores import open_source

__all__ = ["evaluate_model", "load_evaluation", "protocol_line"]

_COUNTED = ("majority", "prior")
"""Baselines that follow from the labels alone: nothing is trained."""


def evaluate_model(
    job: Job,
    prepared: Prepared,
    extracted: Extracted,
    sampled: Sampled,
    pretrained: Pretrained,
    trained: Trained,
) -> Evaluated:
    """Score everything on the val split, or find the scores."""
    start = time.perf_counter()
    manifest = load_manifest(prepared.path)
    spec = job.spec
    key = digest(
        {
            "model": trained.key,
            "sparse": pretrained.key,
            "images": manifest.content_key(spec.dataset.val_split, labels=True),
            "evaluate": spec.evaluate.model_dump(mode="json"),
            "precision": spec.train.precision,
        }
    )
    cached = model_exists(job.places.evaluations, key)
    if not cached:
        judge = _Judge(job, manifest)
        matrices = _score_all(judge, extracted, sampled, pretrained, trained)
        description = _describe(spec, manifest, matrices)
        tensors: dict[str, NDArray[Any]] = {f"matrices.{name}": values for name, values in matrices.items()}
        tensors |= {f"prediction.{index}": judge.predictions[index] for index in _panel_images(spec, matrices["model"])}
        with contextlib.suppress(AlreadyPublishedError):
            save_model(job.places.evaluations, key, tensors, description)
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


class _Judge:
    """Scores classifiers on the val split, image by image."""

    def __init__(self, job: Job, manifest: Manifest) -> None:
        self.job, self.manifest = job, manifest
        self.entries = manifest.splits[job.spec.dataset.val_split]
        self.predictions: dict[int, NDArray[np.uint8]] = {}

    def matrices(self, name: str, model: PixelConv, source: MapSource, *, keep: bool = False) -> NDArray[np.int64]:
        """Return one confusion matrix an image (n, C, C); `keep` the predictions for the panels."""
        found = []
        reader = source.select([layer.name for layer in model.layers])
        for index, entry in enumerate(tqdm(self.entries, unit="img", desc=f"evaluate {name}", disable=None)):
            truth, predicted = self._compare(model, reader, index, entry)
            found.append(confusion_matrix(truth, predicted, self.manifest.classes))
            if keep:
                self.predictions[index] = predicted
        return np.stack(found)

    def _compare(
        self, model: PixelConv, source: MapSource, index: int, entry: Entry
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        spec = self.job.spec
        scores = canvas_scores(model, source, index, flip=spec.evaluate.flip)
        placement = place(entry.image_hw, spec.store.canvas)
        if spec.evaluate.protocol == "notebook":
            truth = self.manifest.canvas_mask(entry, spec)
            placement = place(spec.store.canvas.size_hw, spec.store.canvas)
        else:
            truth = self.manifest.mask(entry)
        return truth, restore_logits(scores, placement).argmax(dim=0).to(torch.uint8).numpy()

    def counted(self, name: str, train_histogram: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the matrices of a baseline that follows from label counts alone."""
        truths = self.manifest.histograms(self.job.spec.dataset.val_split, self.job.spec)
        if name == "majority":
            return np.stack([majority_matrix(truth, int(train_histogram.argmax())) for truth in truths])
        prior = train_histogram / train_histogram.sum()
        return np.stack([expected_prior_matrix(truth, prior) for truth in truths])


def _score_all(
    judge: _Judge, extracted: Extracted, sampled: Sampled, pretrained: Pretrained, trained: Trained
) -> dict[str, NDArray[np.int64]]:
    job, manifest = judge.job, judge.manifest
    spec = job.spec
    source = open_source(job, manifest, spec.dataset.val_split)
    dtype = torch_dtype(spec.train.precision)
    model, _ = load_classifier(PixelConv, trained.path, dtype=dtype)
    found = {"model": judge.matrices("model", model, source, keep=True)}
    mlp, _ = load_sparse(pretrained.path, spec.head)
    train_pixels = manifest.histograms(spec.dataset.train_split, spec).sum(axis=0)
    offset = prior_offset(spec, manifest, sampled.path)
    sparse = convert(mlp, dtype).eval()
    found["sparse, sample priors"] = judge.matrices("sparse", sparse, source)
    sparse.logit_offset.copy_(offset)
    found["sparse, priors restored"] = judge.matrices("sparse", sparse, source)
    for counted in (name for name in spec.evaluate.baselines if name in _COUNTED):
        found[counted] = judge.counted(counted, train_pixels)
    for name, classifier, maps in trained_baselines(job, manifest, sampled, source):
        classifier.logit_offset.copy_(offset)
        found[name] = judge.matrices(name, classifier, maps)
    return found


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
