"""Pretrain: fit the small classifier on the sample set."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from hypercolumns.backbones import LayerInfo
from hypercolumns.columns import Frame, coordinate_columns
from hypercolumns.fitting import fit_pixel_classifier
from hypercolumns.heads import PixelMLP
from hypercolumns.problems import class_weights
from hypercolumns.sampling import held_out
from hypercolumns.sources import select_layers
from hypercolumns.specs import HeadSpec
from hypercolumns.training import History
from storage.canonical import digest
from storage.models import model_exists, read_description
from storage.samples import SampleSet
from tasks.classifiers import ModelCard, save_classifier
from tasks.jobs import Extracted, Job, Prepared, Pretrained, Sampled
from tasks.manifests import Manifest, load_manifest
from tasks.record import note_use
from tasks.stores import experiment_backbone

__all__ = ["fit_samples", "pretrain_classifier"]


def pretrain_classifier(job: Job, prepared: Prepared, extracted: Extracted, sampled: Sampled) -> Pretrained:
    """Train the sparse classifier of the experiment, or find it."""
    manifest = load_manifest(prepared.path)
    layers = experiment_backbone(job.spec).layers
    return fit_samples(job, manifest, sampled, layers, select_layers(layers, job.spec.head.layers), job.spec.head)


def fit_samples(
    job: Job,
    manifest: Manifest,
    sampled: Sampled,
    sampled_layers: Sequence[LayerInfo],
    layers: Sequence[LayerInfo],
    head: HeadSpec,
) -> Pretrained:
    """Train a classifier on a sample set, or find it.

    Args:
        job: The experiment.
        manifest: Its images.
        sampled: The sample set.
        sampled_layers: The layers whose channels are its columns, in order.
        layers: Those of them that the classifier reads; none leaves it the coordinates alone.
        head: The classifier.
    """
    start = time.perf_counter()
    spec = job.spec.pretrain
    names = [layer.name for layer in layers]
    key = digest(
        {
            "samples": sampled.key,
            "layers": names,
            "head": head.model_dump(mode="json", exclude={"layers", "context", "output_stride"}),
            "train": spec.model_dump(mode="json", exclude={"loss_stride"}),
            "groups": manifest.groups(job.spec.dataset.train_split) if spec.patience else None,
        }
    )
    note_use(job, key)
    cached = model_exists(job.places.models, key)
    if not cached:
        model, history = _fit(job, manifest, sampled.path, sampled_layers, layers, head)
        card = ModelCard.describe(job.spec, manifest, model, {"samples": sampled.key}, history.to_json())
        save_classifier(job.places.models, key, model, card)
    path = job.places.models / key
    card = ModelCard.model_validate(read_description(path))
    return Pretrained(key=key, path=path, cached=cached, seconds=time.perf_counter() - start, history=card.history)


def _fit(
    job: Job,
    manifest: Manifest,
    path: Path,
    sampled_layers: Sequence[LayerInfo],
    layers: Sequence[LayerInfo],
    head: HeadSpec,
) -> tuple[PixelMLP, History]:
    spec = job.spec.pretrain
    frame = Frame(job.spec.store.canvas.size_hw, head.alignment)
    with SampleSet.open(path) as samples:
        columns = _columns(samples, sampled_layers, layers, head, frame)
        labels = torch.from_numpy(samples.labels.astype(np.int64))
        out = _held_out(job, manifest, samples.image_row) if spec.patience else np.zeros(len(samples), np.bool_)
    weights = class_weights(manifest.histograms(job.spec.dataset.train_split, job.spec), spec.class_weighting)
    steps = -(-int((~out).sum()) // spec.batch)
    with tqdm(total=spec.epochs * steps, unit="step", desc="pretrain", disable=None) as bar:

        def show(_epoch: int, _step: int, _loss: float) -> None:
            bar.update()

        return fit_pixel_classifier(
            columns, labels, layers, manifest.classes, head, spec, frame, held_out=out, weights=weights, progress=show
        )


def _columns(
    samples: SampleSet, sampled_layers: Sequence[LayerInfo], layers: Sequence[LayerInfo], head: HeadSpec, frame: Frame
) -> torch.Tensor:
    columns = torch.from_numpy(samples.features.read())
    points = torch.from_numpy(samples.points_xy)
    if tuple(layers) != tuple(sampled_layers):
        parts = torch.split(columns, [layer.channels for layer in sampled_layers], dim=1)
        chosen = [part for part, layer in zip(parts, sampled_layers, strict=True) if layer in layers]
        columns = torch.cat(chosen, dim=1) if chosen else columns[:, :0]
    if not head.coordinates:
        return columns
    return torch.cat([columns, coordinate_columns(points, frame.canvas_hw).to(columns.dtype)], dim=1)


def _held_out(job: Job, manifest: Manifest, image_row: np.ndarray) -> np.ndarray:
    entries = manifest.splits[job.spec.dataset.train_split]
    sides = np.array([held_out(entry.image_sha256, job.spec.pretrain.holdout, entry.group) for entry in entries])
    # A data set so small that one side would be empty is trained on whole.
    sides = sides if 0 < sides.sum() < len(sides) else np.zeros(len(sides), bool)
    return np.asarray(sides[image_row])
