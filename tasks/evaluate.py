"""Evaluate: score the model, its sparse stage and the trivial baselines on one protocol, and keep what the report shows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from hypercolumns.canvas import best_labels, restore_logits
from hypercolumns.geometry import Placement, place
from hypercolumns.heads import PixelConv, convert
from hypercolumns.metrics.bootstrap import bootstrap_intervals
from hypercolumns.metrics.segmentation import confusion_matrix, expected_prior_matrix, majority_matrix, score
from hypercolumns.prediction import average_views, read_views, view_logits
from hypercolumns.problems import mean_iu
from hypercolumns.read_ahead import read_ahead
from hypercolumns.sources import MapSource
from hypercolumns.specs import ExperimentSpec
from storage.canonical import digest
from storage.errors import AlreadyPublishedError
from storage.models import load_model, model_exists, read_description, save_model
from tasks.baselines import trained_baselines
from tasks.classifiers import load_classifier, load_sparse, torch_dtype
from tasks.jobs import Evaluated, Extracted, Job, Prepared, Pretrained, Sampled, Trained
from tasks.manifests import Manifest, load_manifest
from tasks.priors import prior_offset
from tasks.record import note_use
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
    note_use(job, key)
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

    def matrices(
        self, offsets: Mapping[str, Tensor | None], model: PixelConv, source: MapSource, *, keep: bool = False
    ) -> dict[str, NDArray[np.int64]]:
        """Score one classifier, perhaps under several priors: its maps are read and classified once for all of them.

        Args:
            offsets: by name, what is added to the model's logits (C,); None adds nothing.
            model: the classifier.
            source: the maps of the val split.
            keep: keep the predictions under the first offset for the panels.

        Returns:
            By name, one confusion matrix an image (n, C, C).
        """
        found: dict[str, list[NDArray[np.int64]]] = {name: [] for name in offsets}
        reader = source.select([layer.name for layer in model.layers])
        first = next(iter(offsets))
        flip = self.job.spec.evaluate.flip
        inputs = read_ahead(range(len(self.entries)), lambda index: (read_views(reader, index, flip=flip), self._truth(index)))
        for index, (maps, (truth, placement)) in enumerate(
            tqdm(inputs, total=len(self.entries), unit="img", desc=f"evaluate {first}", disable=None)
        ):
            views = view_logits(model, maps)
            for name, offset in offsets.items():
                scores = average_views(views if offset is None else [view + offset[:, None, None] for view in views])
                predicted = best_labels(restore_logits(scores, placement))
                found[name].append(confusion_matrix(truth, predicted, self.manifest.classes))
                if keep and name == first:
                    self.predictions[index] = predicted
        return {name: np.stack(matrices) for name, matrices in found.items()}

    def _truth(self, index: int) -> tuple[NDArray[np.uint8], Placement]:
        """Return an image's labels, and where on the canvas they lie."""
        entry, spec = self.entries[index], self.job.spec
        if spec.evaluate.protocol == "notebook":
            return self.manifest.canvas_mask(entry, spec), place(spec.store.canvas.size_hw, spec.store.canvas)
        return self.manifest.mask(entry), place(entry.image_hw, spec.store.canvas)

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
    source = open_source(job, manifest, spec.dataset.val_split, passes=1)
    dtype = torch_dtype(spec.train.precision)
    model, _ = load_classifier(PixelConv, trained.path, dtype=dtype)
    offset = prior_offset(spec, manifest, sampled.path)
    if spec.train.epochs:
        found = judge.matrices({"model": None}, model, source, keep=True)
        mlp, _ = load_sparse(pretrained.path, spec.head)
        sparse = convert(mlp, dtype).eval()
        found |= judge.matrices({"sparse, sample priors": None, "sparse, priors restored": offset}, sparse, source)
    else:
        # The model is the sparse stage, with the priors restored.
        found = judge.matrices({"model": None, "sparse, sample priors": -offset}, model, source, keep=True)
        found["sparse, priors restored"] = found["model"]
    train_pixels = manifest.histograms(spec.dataset.train_split, spec).sum(axis=0)
    for counted in (name for name in spec.evaluate.baselines if name in _COUNTED):
        found[counted] = judge.counted(counted, train_pixels)
    for name, classifier, maps in trained_baselines(job, manifest, sampled, source):
        classifier.logit_offset.copy_(offset)
        found |= judge.matrices({name: None}, classifier, maps)
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
