"""The generated set as instances: its COCO files, and the part masks beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hypercolumns.box_specs import InstancesSpec
from hypercolumns.datasets.instances.base import Instance, InstanceClass, LazyMask, PartScheme
from hypercolumns.datasets.instances.coco import read_coco
from hypercolumns.datasets.instances.json_files import read_json_file
from hypercolumns.datasets.instances.records import Ledger
from hypercolumns.datasets.instances.sides import mirrored
from hypercolumns.datasets.instances.voc_layout import ReadSplit
from hypercolumns.datasets.masks import decode_mask
from hypercolumns.errors import DatasetError

__all__ = ["PartsUnderMask", "read_shapes"]


@dataclass(frozen=True, eq=False)
class PartsUnderMask:
    """The parts of one instance, out of a label image of all parts of all instances.

    Attributes:
        path: The label image.
        mask: The instance's mask.
        labels: Number of the class's part for each label of the image (256,); 255 where it is none of its parts.
    """

    path: Path
    mask: LazyMask
    labels: NDArray[np.uint8]

    def __call__(self, image_hw: tuple[int, int]) -> NDArray[np.uint8]:
        """Return part labels (H, W).

        Raises:
            MaskError: the label image cannot be read, or has another size.
        """
        found = self.labels[decode_mask(self.path, image_hw=image_hw, classes=256)]
        return np.where(self.mask(image_hw), found, np.uint8(0))


def read_shapes(root: Path, spec: InstancesSpec, ledger: Ledger) -> tuple[tuple[InstanceClass, ...], dict[str, ReadSplit]]:
    """Read the splits of a spec: errors as of `read_coco`."""
    classes, splits = read_coco(root, spec, ledger)
    table = root / "parts.json"
    data = read_json_file(table)
    try:
        names, of_class = list(data["parts"]), {str(name): tuple(parts) for name, parts in data["parts_of_class"].items()}
        schemes = [_scheme(each.name, of_class[each.name]) for each in classes]
        labels = [_labels(names, of_class[each.name]) for each in classes]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DatasetError(f"{table}: expected the parts of every class, got a damaged file: {error!r}") from error
    classes = tuple(replace(each, parts=scheme) for each, scheme in zip(classes, schemes, strict=True))
    return classes, {split: _with_all_parts(read, root, table, labels) for split, read in splits.items()}


def _with_all_parts(read: ReadSplit, root: Path, table: Path, labels: list[NDArray[np.uint8]]) -> ReadSplit:
    paths = [root / "SegmentationPart" / f"{image.key}.png" for image in read.images]
    images = [
        replace(image, instances=tuple(_with_parts(each, path, labels) for each in image.instances))
        for image, path in zip(read.images, paths, strict=True)
    ]
    return ReadSplit(tuple(images), (*read.files, table, *paths))


def _scheme(class_name: str, parts: tuple[str, ...]) -> PartScheme:
    names = tuple(part.removeprefix(f"{class_name}_") for part in parts)
    return PartScheme(names, mirrored(names))


def _labels(names: list[str], parts: tuple[str, ...]) -> NDArray[np.uint8]:
    labels = np.full(256, 255, np.uint8)
    for number, part in enumerate(parts, start=1):
        labels[names.index(part)] = number
    return labels


def _with_parts(instance: Instance, path: Path, labels: list[NDArray[np.uint8]]) -> Instance:
    if instance.mask is None:
        return instance
    return replace(instance, parts=PartsUnderMask(path, instance.mask, labels[instance.class_index]))
