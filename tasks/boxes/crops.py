"""Which boxes of an experiment become crops, and their manifest: what the stages that fill the feature store are told.

Only what is going to be read is in it: the drawn boxes of the training split, and those that are predicted of the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hypercolumns.box_experiments import BoxExperimentSpec
from hypercolumns.crops import crop_edges
from hypercolumns.errors import DatasetError, GeometryError
from storage.canonical import digest
from storage.publish import replace_bytes
from tasks.boxes.drawing import draw_boxes
from tasks.boxes.jobs import BoxJob
from tasks.boxes.manifests import BoxEntry, BoxManifest, BoxTuple, images_only
from tasks.boxes.predicted import predicted_boxes
from tasks.crops import Crop
from tasks.manifests import Entry
from tasks.record import note_use

__all__ = ["crop_entry", "wanted_crops", "write_crops"]

_VERSION = 1
"""Raised when the same boxes would give another manifest."""


def write_crops(job: BoxJob, manifest: BoxManifest, key: str) -> Path:
    """Write the manifest of an experiment's crops, or find it.

    Args:
        job: The experiment.
        manifest: Its images and boxes.
        key: The key of that.

    Raises:
        DatasetError: a box has no area, or lies outside its image.
        TrainingError: no detection fits an object that has what is to be learned.
    """
    spec = job.spec
    rules = {
        "version": _VERSION,
        "boxes": key,
        "task": spec.task,
        "pairs": spec.pairs.model_dump(mode="json"),
        "rescore": spec.evaluate.rescore,
    }
    own = digest(rules)
    note_use(job.features, own)
    path = job.places.datasets / f"{own}.json"
    if not path.exists():
        crops = images_only(manifest).model_copy(
            update={"splits": {split: wanted_crops(manifest, spec, split) for split in manifest.splits}}
        )
        replace_bytes(path, crops.model_dump_json(indent=1).encode())
    return path


def wanted_crops(manifest: BoxManifest, spec: BoxExperimentSpec, split: str) -> tuple[Entry, ...]:
    """List the crops of a split that an experiment reads, each once, image after image."""
    entries = manifest.splits[split]
    boxes: list[set[BoxTuple]] = [set() for _ in entries]
    if split == spec.instances.train_split:
        for image, pair in draw_boxes(manifest, spec):
            boxes[image].add(pair.box_xyxy)
        if spec.evaluate.rescore:
            for own, entry in zip(boxes, entries, strict=True):
                own.update(box.box_xyxy for box in entry.detections)
    if split == spec.instances.val_split:
        for own, entry in zip(boxes, entries, strict=True):
            own.update(box.box_xyxy for part in predicted_boxes(entry, manifest, spec) for box in part)
    return tuple(crop for own, entry in zip(boxes, entries, strict=True) for crop in _crops(entry, own, spec))


def _crops(entry: BoxEntry, boxes: Iterable[BoxTuple], spec: BoxExperimentSpec) -> list[Entry]:
    found = {crop.crop: crop for crop in (crop_entry(entry, box, spec) for box in sorted(boxes))}
    return list(found.values())


def crop_entry(entry: BoxEntry, box_xyxy: BoxTuple, spec: BoxExperimentSpec) -> Entry:
    """Return a box of an image as what is fitted into the canvas.

    Raises:
        DatasetError: the box has no area, or lies outside the image; says which.
    """
    try:
        crop = Crop.of(box_xyxy, spec.pairs.expansion)
        crop_edges(crop.expanded, entry.image.image_hw, spec.store.canvas.size_hw)
    except GeometryError as error:
        raise DatasetError(f"{entry.image.image_path}: a box of it cannot be cropped: {error}") from error
    return entry.image.model_copy(update={"crop": crop})
