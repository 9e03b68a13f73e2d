"""Train: the classifiers of a head inside boxes, from maps in the store, resumed where they were left."""

from __future__ import annotations

import shutil
import time

import numpy as np
from tqdm import tqdm

from hypercolumns.heads import GridClassifier
from hypercolumns.heatmaps import BoxExamples, fit_box_classifier
from hypercolumns.sampling import held_out
from hypercolumns.sources import MapSource
from hypercolumns.training import History
from storage.canonical import digest
from storage.models import model_exists, read_description
from tasks.boxes.examples import box_examples
from tasks.boxes.heads import BoxCard, build_head, save_head
from tasks.boxes.jobs import BoxJob, BoxPrepared, BoxTrained
from tasks.boxes.manifests import BoxManifest, load_box_manifest
from tasks.boxes.maps import open_box_maps
from tasks.boxes.rescoring import train_rescorer
from tasks.classifiers import FolderCheckpoints
from tasks.jobs import Extracted
from tasks.manifests import Manifest, load_manifest
from tasks.record import note_use

__all__ = ["train_head"]

_VERSION = 2
"""Raised when the same specs and boxes would give another head."""


def train_head(job: BoxJob, prepared: BoxPrepared, extracted: Extracted) -> BoxTrained:
    """Train the experiment's head, resume it, or find it.

    Raises:
        TrainingError: there is no box to learn from.
        DivergedError: the loss is no longer finite; says at which boxes.
    """
    start = time.perf_counter()
    spec = job.spec
    manifest = load_box_manifest(prepared.path)
    key = digest(
        {
            "version": _VERSION,
            "store": extracted.key,
            "layers": list(spec.head.layers or extracted.cache),
            "boxes": manifest.content_key(spec.instances.train_split),
            "task": spec.task,
            "pairs": spec.pairs.model_dump(mode="json"),
            "head": spec.head.model_dump(mode="json"),
            "train": spec.train.model_dump(mode="json"),
            "rescore": spec.evaluate.rescore,
            # Only where they are not what there was before, so that the keys of that time still stand.
            **({"views": list(spec.store.views)} if len(spec.store.views) > 1 else {}),
            **({"maps": spec.maps} if spec.maps != "image" else {}),
        }
    )
    note_use(job.features, key)
    cached = model_exists(job.places.models, key)
    if not cached:
        _train(job, prepared, manifest, key, {"store": extracted.key, "boxes": prepared.key})
    path = job.places.models / key
    card = BoxCard.model_validate(read_description(path))
    return BoxTrained(
        key=key, path=path, cached=cached, seconds=time.perf_counter() - start, boxes=card.boxes, history=card.history
    )


def _train(job: BoxJob, prepared: BoxPrepared, manifest: BoxManifest, key: str, keys: dict[str, str]) -> None:
    spec = job.spec
    examples = box_examples(manifest, spec)
    maps = open_box_maps(job, prepared, spec.instances.train_split, passes=1 + spec.train.epochs)
    chosen = maps if spec.head.layers is None else maps.select(spec.head.layers)
    model = build_head(chosen.source.layers, manifest.outputs(spec), spec)
    history = _fit(job, load_manifest(prepared.images_path), model, chosen.source, examples, key)
    rescorer = train_rescorer(model, manifest, chosen, spec) if spec.evaluate.rescore else None
    save_head(job.places.models, key, model, rescorer, manifest, spec, keys, len(examples), history.to_json())
    shutil.rmtree(job.places.checkpoints / key, ignore_errors=True)


def _fit(job: BoxJob, images: Manifest, model: GridClassifier, source: MapSource, examples: BoxExamples, key: str) -> History:
    train = job.spec.train
    entries = images.splits[job.spec.instances.train_split]
    out = np.array([held_out(entry.image_sha256, train.holdout, None) for entry in entries], np.bool_)
    steps = -(-len(examples) // train.batch)
    with tqdm(total=train.epochs * steps, unit="step", desc=f"train {job.spec.task}", disable=None) as bar:

        def show(epoch: int, step: int, loss: float) -> None:
            bar.update((epoch - 1) * steps + step - bar.n)
            bar.set_postfix(epoch=epoch, loss=f"{loss:.3f}", refresh=False)

        return fit_box_classifier(
            model,
            source,
            examples,
            train,
            alike=job.spec.task == "segment",
            held_out=out[examples.images] if train.patience else None,
            checkpoints=FolderCheckpoints(job.places.checkpoints / key),
            progress=show,
        )
