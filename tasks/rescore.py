"""Score: a trained model on the val images as they are now, though it was trained on others, long ago, with other classes.

Its maps come from the experiment's store where the model reads what is kept there, and from its own backbone where not. Classes
are matched by name: what the model never learned it never predicts; what it predicts beside the data set's classes is wrong.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hypercolumns.backbones import build_backbone
from hypercolumns.canvas import label_pixels
from hypercolumns.errors import MetricError
from hypercolumns.geometry import place
from hypercolumns.heads import PixelConv
from hypercolumns.metrics.bootstrap import bootstrap_intervals
from hypercolumns.metrics.segmentation import confusion_matrix, score
from hypercolumns.prediction import average_views, read_views, view_logits
from hypercolumns.read_ahead import read_ahead
from hypercolumns.sources import BackboneSource, MapSource
from storage.canonical import digest
from storage.errors import AlreadyPublishedError
from storage.models import load_model, model_exists, read_description, save_model
from tasks.classifiers import ModelCard, load_classifier, torch_dtype
from tasks.device import compute_device
from tasks.evaluate import protocol_line
from tasks.jobs import Job, Prepared, Stage
from tasks.manifests import Manifest, load_manifest
from tasks.record import note_use
from tasks.stores import canvas_loader, experiment_backbone, open_source

__all__ = ["Scored", "load_scored", "score_model", "with_classes"]


class Scored(Stage):
    """A model's scores on the val split: matrices are in the folder."""

    class_names: tuple[str, ...]
    metrics: dict[str, Any]
    protocol: str


def score_model(job: Job, prepared: Prepared, model_key: str, *, stored: bool = True) -> Scored:
    """Score a model of the workspace on the experiment's val split by the experiment's protocol, or find its scores.

    Args:
        job: The experiment: its val split, its protocol, its store.
        prepared: Its checked data set.
        model_key: The model, trained by whichever experiment.
        stored: Whether the val images were extracted; if not, their maps are computed on the fly and not kept.

    Raises:
        FormatError: the model was tampered with.
        MetricError: the protocol scores canvases, and the model's is another one.
    """
    start = time.perf_counter()
    manifest = load_manifest(prepared.path)
    key = digest(
        {
            "scored": model_key,
            "images": manifest.content_key(job.spec.dataset.val_split, labels=True),
            "evaluate": job.spec.evaluate.model_dump(mode="json", exclude={"baselines", "panels", "restore_priors"}),
            "canvas": job.spec.store.canvas.model_dump(mode="json") if job.spec.evaluate.protocol == "notebook" else None,
        }
    )
    note_use(job, key)
    note_use(job, model_key)
    cached = model_exists(job.places.evaluations, key)
    if not cached:
        model, card = load_classifier(PixelConv, job.places.models / model_key)
        model.dtype = torch_dtype(card.head_precision)
        names = with_classes(manifest.class_names, card.class_names)
        matrices = _matrices(job, manifest, model, card, names, stored=stored)
        with contextlib.suppress(AlreadyPublishedError):
            save_model(job.places.evaluations, key, {"matrices.model": matrices}, _describe(job, matrices, names))
    path = job.places.evaluations / key
    kept = read_description(path)
    return Scored(
        key=key,
        path=path,
        cached=cached,
        seconds=time.perf_counter() - start,
        class_names=tuple(kept["class_names"]),
        metrics=kept["scores"]["model"],
        protocol=kept["protocol"],
    )


def load_scored(scored: Scored) -> NDArray[np.int64]:
    """Read a scored model's confusion matrices (images, classes, classes)."""
    return load_model(scored.path)[0]["matrices.model"]


def with_classes(class_names: Sequence[str], more: Sequence[str]) -> tuple[str, ...]:
    """Return the classes of a data set, followed by those of a model that it does not have."""
    return (*class_names, *(name for name in more if name not in class_names))


def _matrices(
    job: Job, manifest: Manifest, model: PixelConv, card: ModelCard, names: Sequence[str], *, stored: bool
) -> NDArray[np.int64]:
    spec = job.spec
    if spec.evaluate.protocol == "notebook" and card.canvas != spec.store.canvas:
        raise MetricError(
            f"expected a model of canvas {spec.store.canvas.size_hw}, on which the notebook protocol counts, got one of "
            f"{card.canvas.size_hw}; use evaluate.protocol=strict"
        )
    entries = manifest.splits[spec.dataset.val_split]
    source = _source(job, manifest, card, stored=stored)
    labels = np.array([names.index(name) for name in card.class_names], np.uint8)
    inputs = read_ahead(range(len(entries)), lambda index: read_views(source, index, flip=spec.evaluate.flip))
    found = []
    for entry, maps in zip(entries, tqdm(inputs, total=len(entries), unit="img", desc="score", disable=None), strict=True):
        notebook = spec.evaluate.protocol == "notebook"
        truth = manifest.canvas_mask(entry, spec) if notebook else manifest.mask(entry)
        placement = place(card.canvas.size_hw if notebook else entry.image_hw, card.canvas)
        predicted = label_pixels(average_views(view_logits(model, maps)), placement)
        found.append(confusion_matrix(truth, labels[predicted], len(names)))
    return np.stack(found)


def _source(job: Job, manifest: Manifest, card: ModelCard, *, stored: bool) -> MapSource:
    """Open the maps that a model reads of the val split."""
    spec, names = job.spec, [layer.name for layer in card.layers]
    same = card.backbone.model_copy(update={"layers": spec.backbone.layers}) == spec.backbone
    if stored and same and card.canvas == spec.store.canvas and card.precision == spec.store.precision:
        kept = experiment_backbone(spec).layers
        if {layer.name for layer in kept} >= set(names):
            return open_source(job, manifest, spec.dataset.val_split, passes=1).select(names)
    entries = manifest.splits[spec.dataset.val_split]
    own = spec.model_copy(update={"backbone": card.backbone, "store": spec.store.model_copy(update={"canvas": card.canvas})})
    backbone = build_backbone(card.backbone, card.canvas.size_hw, precision=card.precision).to(compute_device())
    return BackboneSource(backbone, canvas_loader(manifest, entries, own), names)


def _describe(job: Job, matrices: NDArray[np.int64], names: Sequence[str]) -> dict[str, object]:
    spec = job.spec.evaluate
    scores = score(matrices, names).to_json()
    if spec.bootstrap:
        intervals = bootstrap_intervals(matrices, names, resamples=spec.bootstrap, confidence=spec.confidence, seed=0)
        scores["intervals"] = {metric: list(interval) for metric, interval in intervals.items()}
    return {
        "protocol": protocol_line(job.spec),
        "scores": {"model": scores},
        "images": len(matrices),
        "class_names": list(names),
    }
