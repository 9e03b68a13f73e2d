"""From a spec to a data set of instances: the reader of its layout, and the choice of classes and instances."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from hypercolumns.box_specs import InstancesSpec
from hypercolumns.datasets.instances.base import AnnotatedImage, Instance, InstanceClass, InstanceDataset
from hypercolumns.datasets.instances.berkeley import read_berkeley
from hypercolumns.datasets.instances.coco import read_coco
from hypercolumns.datasets.instances.pascal_part import read_pascal_part
from hypercolumns.datasets.instances.records import Ledger
from hypercolumns.datasets.instances.sbd import read_sbd
from hypercolumns.datasets.instances.shapes import read_shapes
from hypercolumns.datasets.instances.voc import read_voc
from hypercolumns.datasets.instances.voc_layout import ReadSplit
from hypercolumns.datasets.listing import resolve_root
from hypercolumns.errors import DatasetError

__all__ = ["open_instances"]

_Classes = tuple[InstanceClass, ...]
_Images = tuple[AnnotatedImage, ...]
_Read = Callable[[Path, InstancesSpec, Ledger], tuple[_Classes, dict[str, ReadSplit]]]


def open_instances(spec: InstancesSpec, *, shapes_root: Path | None = None) -> InstanceDataset:
    """Open the instances a spec describes: lists, boxes and keypoints are read and checked now, masks when they are asked for.

    Args:
        spec: The spec.
        shapes_root: Where the generated set was written, for kind ``shapes``.

    Raises:
        DatasetError: the layout does not fit, or (with `on_bad_record: fail`) a record is wrong; the first few are named, with
            their files.
    """
    place = shapes_root if spec.kind == "shapes" else spec.root
    if place is None:
        raise DatasetError("kind shapes: expected the data set's folder, got none. Remedy: give shapes_root, where it was made")
    root = resolve_root(place)
    ledger = Ledger(skip=spec.on_bad_record == "skip")
    classes, read = _READERS[spec.kind](root, spec, ledger)
    rejected = ledger.settle()
    train = read[spec.train_split].images
    chosen = _chosen(root, classes, train, spec)
    images = {split: _selected(found.images, chosen, spec) for split, found in read.items()}
    for split, found in images.items():
        if not any(image.instances for image in found):
            raise DatasetError(
                f"{root}: split {split!r}: expected at least one instance, got none. Remedy: choose other classes"
            )
    files = {split: found.files for split, found in read.items()}
    others = {
        split: frozenset(ledger.images.get(split, ())) - {image.number for image in found} for split, found in images.items()
    }
    kept = tuple(classes[number] for number in chosen)
    unused = frozenset(each.category_id for each in classes) - {each.category_id for each in kept}
    return InstanceDataset(root.name, kept, images, files, rejected, unused, others)


_READERS: dict[str, _Read] = {
    "berkeley": read_berkeley,
    "coco": read_coco,
    "pascal_part": read_pascal_part,
    "sbd": read_sbd,
    "shapes": read_shapes,
    "voc": read_voc,
}


def _chosen(root: Path, classes: _Classes, train: _Images, spec: InstancesSpec) -> tuple[int, ...]:
    """Return the places of the classes to keep, in their new order."""
    names = [each.name for each in classes]
    for name in spec.class_names or ():
        if name not in names:
            near = difflib.get_close_matches(name, names, 3) or names[:5]
            raise DatasetError(f"{root}: no class {name!r}. Remedy: use class_names such as {', '.join(near)}")
    chosen = range(len(names)) if spec.class_names is None else [names.index(name) for name in spec.class_names]
    counts = np.zeros(len(names), np.int64)
    for image in train:
        for instance in image.instances:
            counts[instance.class_index] += _usable(instance, spec) and not instance.crowd
    kept = tuple(number for number in chosen if counts[number] >= spec.min_train_instances)
    if not kept:
        raise DatasetError(
            f"{root}: expected a class of at least {spec.min_train_instances} train instances, "
            f"got {counts.max(initial=0)} at most. Remedy: lower min_train_instances"
        )
    return kept


def _usable(instance: Instance, spec: InstancesSpec) -> bool:
    return bool((instance.box_xyxy[2:] - instance.box_xyxy[:2]).min() >= spec.min_side)


def _selected(images: _Images, chosen: tuple[int, ...], spec: InstancesSpec) -> _Images:
    places = {number: place for place, number in enumerate(chosen)}
    found = []
    for image in images:
        kept = tuple(
            replace(instance, class_index=places[instance.class_index])
            for instance in image.instances
            if instance.class_index in places and _usable(instance, spec)
        )
        if kept or spec.images_without_instances:
            found.append(replace(image, instances=kept))
    return tuple(found)
