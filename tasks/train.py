"""Train: convert the sparse classifier to convolutions and train it on every labelled pixel of every image."""

from __future__ import annotations

import shutil
import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hypercolumns.certificate import certify
from hypercolumns.heads import PixelConv, convert
from hypercolumns.problems import DenseProblem, class_weights
from hypercolumns.sampling import held_out
from hypercolumns.sources import MapSource
from hypercolumns.training import History, fit
from storage.canonical import digest
from storage.models import model_exists, read_description
from tasks.classifiers import FolderCheckpoints, ModelCard, load_sparse, save_classifier, start_from, torch_dtype
from tasks.jobs import Job, Prepared, Pretrained, Trained
from tasks.manifests import Entry, Manifest, load_manifest
from tasks.priors import prior_offset
from tasks.record import note_use
from tasks.stores import open_source

__all__ = ["train_dense"]

_CACHED_LABEL_BYTES = 512e6


def train_dense(job: Job, prepared: Prepared, pretrained: Pretrained, warm_key: str | None = None) -> Trained:
    """Train the dense classifier of the experiment, resume it, or find it.

    Args:
        job: The experiment.
        prepared: Its checked data set.
        pretrained: The sparse classifier, which is converted.
        warm_key: A dense model whose weights are trained on from, in place of the converted ones.

    Raises:
        DivergedError: the loss is no longer finite; says at which image.
        TrainingError: the model to train on from is of another form; says in what.
    """
    start = time.perf_counter()
    manifest = load_manifest(prepared.path)
    split = job.spec.dataset.train_split
    warm = {} if warm_key is None else {"warm": warm_key}
    key = digest(
        {
            **warm,
            "sparse": pretrained.key,
            "head": job.spec.head.model_dump(mode="json"),
            "train": job.spec.train.model_dump(mode="json"),
            # A dense classifier learns the true priors itself.
            "restore_priors": None if job.spec.train.epochs else job.spec.evaluate.restore_priors,
            "views": list(job.spec.store.views),
            "images": manifest.content_key(split, labels=True),
            "groups": manifest.groups(split) if job.spec.train.patience else None,
        }
    )
    note_use(job, key)
    cached = model_exists(job.places.models, key)
    if not cached:
        mlp, sparse_card = load_sparse(pretrained.path, job.spec.head)
        source = open_source(job, manifest, split, passes=job.spec.train.epochs).select([layer.name for layer in mlp.layers])
        certificate = certify(mlp, source, [(0, "identity")]).to_json()
        model = convert(mlp, torch_dtype(job.spec.train.precision))
        if warm_key is not None:
            note_use(job, warm_key)
            start_from(model, manifest.class_names, job.places.models / warm_key)
        if job.spec.train.epochs == 0:
            samples = job.places.samples / f"{sparse_card.keys['samples']}.h5"
            model.logit_offset.copy_(prior_offset(job.spec, manifest, samples))
        history = _fit(job, manifest, model, source, key)
        keys = {**sparse_card.keys, "sparse": pretrained.key, **warm}
        card = ModelCard.describe(job.spec, manifest, model, keys, history.to_json(), certificate)
        save_classifier(job.places.models, key, model, card)
        shutil.rmtree(job.places.checkpoints / key, ignore_errors=True)
    path = job.places.models / key
    kept = ModelCard.model_validate(read_description(path))
    return Trained(
        key=key,
        path=path,
        cached=cached,
        seconds=time.perf_counter() - start,
        certificate=kept.certificate or {},
        history=kept.history,
    )


def _fit(job: Job, manifest: Manifest, model: PixelConv, source: MapSource, key: str) -> History:
    spec = job.spec.train
    if spec.epochs == 0:
        return History()
    split = job.spec.dataset.train_split
    entries = manifest.splits[split]
    kept_out = [bool(spec.patience) and held_out(e.image_sha256, spec.holdout, e.group) for e in entries]
    if all(kept_out):
        kept_out = [False] * len(entries)
    problem = DenseProblem(
        source,
        [i for i, out in enumerate(kept_out) if not out],
        [i for i, out in enumerate(kept_out) if out],
        _label_loader(job, manifest, entries),
        job.spec.store.views,
        class_weights(manifest.histograms(split, job.spec), spec.class_weighting),
        spec,
        [entry.image_id for entry in entries],
    )
    checkpoints = FolderCheckpoints(job.places.checkpoints / key)
    with tqdm(total=spec.epochs * problem.steps, unit="step", desc="train", disable=None) as bar:

        def show(epoch: int, step: int, loss: float) -> None:
            bar.update((epoch - 1) * problem.steps + step - bar.n)
            bar.set_postfix(epoch=epoch, loss=f"{loss:.3f}", refresh=False)

        return fit(model, problem, spec, checkpoints=checkpoints, progress=show)


def _label_loader(job: Job, manifest: Manifest, entries: tuple[Entry, ...]) -> Callable[[int], NDArray[np.uint8]]:
    """Return a function that decodes an image's label canvas, keeping the most recent ones within a fixed memory."""
    kept: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
    lock = Lock()
    height, width = job.spec.store.canvas.size_hw
    capacity = max(1, int(_CACHED_LABEL_BYTES / (height * width)))

    def load(index: int) -> NDArray[np.uint8]:
        with lock:
            if index in kept:
                kept.move_to_end(index)
                return kept[index]
        labels = manifest.canvas_mask(entries[index], job.spec)
        with lock:
            kept[index] = labels
            if len(kept) > capacity:
                kept.popitem(last=False)
        return labels

    return load
