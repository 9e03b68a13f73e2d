"""PASCAL-Part: objects of VOC's images with the masks of their parts, as MATLAB files.

    ANNOTATION_ROOT/Annotations_Part/NAME.mat    struct anno: objects, each with class, mask and parts (part_name, mask)
    ROOT/JPEGImages, ROOT/ImageSets              VOC's own

Boxes are the tight boxes of the masks. Where parts overlap (an eye lies on a head), the smaller one is seen; pixels of an
object that are in no part are of an unknown one. Which parts a class has is said by the spec's `part_groups`, or by all the
files read.

Source: Chen et al., "Detect what you can: detecting and representing objects using holistic models and body parts", CVPR 2014.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypercolumns.box_specs import InstancesSpec
from hypercolumns.datasets.instances.base import Instance, InstanceClass, PartScheme
from hypercolumns.datasets.instances.mat_files import label_array, read_mat_file, structs_of, text_of
from hypercolumns.datasets.instances.records import Ledger, box_of_mask
from hypercolumns.datasets.instances.sides import mirrored
from hypercolumns.datasets.instances.voc_layout import ReadSplit, VocImage, VocLayout, wanted_splits
from hypercolumns.datasets.masks import VOID
from hypercolumns.errors import DatasetError, MaskError

__all__ = ["PascalObject", "PascalParts", "read_pascal_part"]

_Numbers = Mapping[str, int]
_MOST_PARTS = 254


@dataclass(frozen=True)
class PascalObject:
    """The mask of one object of a file.

    Attributes:
        path: The MATLAB file.
        place: Which of its objects, from 0.
    """

    path: Path
    place: int

    def __call__(self, image_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the mask (H, W).

        Raises:
            MaskError: the file cannot be read, or has another size.
        """
        return _mask(self.struct(), "mask", image_hw, self.path)

    def struct(self) -> Any:
        """Read the object.

        Raises:
            MaskError: the file cannot be read, or has no such object.
        """
        try:
            return structs_of(read_mat_file(self.path, "anno"), "objects")[self.place]
        except (DatasetError, IndexError) as error:
            raise MaskError(self.path, f"expected object {self.place + 1} in it: {error}") from error


@dataclass(frozen=True, eq=False)
class PascalParts:
    """The parts of one object of a file.

    Attributes:
        source: The object.
        numbers: The class's part numbers, by the names in the file without the numbers behind them.
    """

    source: PascalObject
    numbers: _Numbers

    def __call__(self, image_hw: tuple[int, int]) -> NDArray[np.uint8]:
        """Return part labels (H, W).

        Raises:
            MaskError: the file cannot be read, or has another size.
        """
        path, struct = self.source.path, self.source.struct()
        labels = np.where(_mask(struct, "mask", image_hw, path), np.uint8(VOID), np.uint8(0))
        inside = labels > 0
        parts = structs_of(struct, "parts")
        masks = [(_stem(text_of(part, "part_name")), _mask(part, "mask", image_hw, path)) for part in parts]
        for name, mask in sorted(masks, key=lambda named: -int(named[1].sum())):
            labels[mask & inside] = self.numbers.get(name, VOID)
        return labels


def _mask(struct: Any, field: str, image_hw: tuple[int, int], path: Path) -> NDArray[np.bool_]:
    try:
        return np.asarray(label_array(struct, field, image_hw) > 0)
    except DatasetError as error:
        raise MaskError(path, str(error)) from error


def _stem(name: str) -> str:
    return re.sub(r"_\d+$", "", name)


@dataclass(frozen=True, eq=False)
class _Found:
    instance: Instance
    parts: frozenset[str]


def read_pascal_part(root: Path, spec: InstancesSpec, ledger: Ledger) -> tuple[tuple[InstanceClass, ...], dict[str, ReadSplit]]:
    """Read the splits of a spec.

    Raises:
        DatasetError: the layout does not fit; wrong records are noted in the ledger.
    """
    layout = VocLayout(root, spec)
    found: dict[str, list[tuple[VocImage, Path, list[_Found]]]] = {}
    for split, limit in wanted_splits(spec).items():
        found[split] = []
        for image in layout.images(split, limit, ledger):
            path = layout.annotation_root / "Annotations_Part" / f"{image.name}.mat"
            with ledger.record(path, f"image {image.name}"):
                found[split].append((image, path, _objects(layout, image, path, ledger)))
    everything = [each for lines in found.values() for _, _, objects in lines for each in objects]
    schemes, numbers = _schemes(layout.class_names, everything, spec)
    splits = {
        split: ReadSplit(
            tuple(image.with_instances([_with_parts(each, numbers) for each in objects]) for image, _, objects in lines),
            tuple(path for _, path, _ in lines),
        )
        for split, lines in found.items()
    }
    classes = zip(layout.class_names, schemes, strict=True)
    return tuple(InstanceClass(name, place, parts=scheme) for place, (name, scheme) in enumerate(classes, start=1)), splits


def _objects(layout: VocLayout, image: VocImage, path: Path, ledger: Ledger) -> list[_Found]:
    found = []
    for place, struct in enumerate(structs_of(read_mat_file(path, "anno"), "objects")):
        with ledger.record(path, f"object {place + 1}"):
            mask = label_array(struct, "mask", image.image_hw) > 0
            source = PascalObject(path, place)
            parts = structs_of(struct, "parts")
            for part in parts:
                label_array(part, "mask", image.image_hw)
            instance = Instance(
                identifier=f"{image.name}#{place + 1}",
                class_index=layout.place(text_of(struct, "class")),
                box_xyxy=box_of_mask(mask),
                mask=source,
                parts=PascalParts(source, {}) if parts else None,
                area=float(mask.sum()),
            )
            found.append(_Found(instance, frozenset(_stem(text_of(part, "part_name")) for part in parts)))
    return found


def _schemes(
    class_names: tuple[str, ...], found: list[_Found], spec: InstancesSpec
) -> tuple[list[PartScheme | None], list[_Numbers]]:
    """Return each class's parts, and the numbers of the names in the files."""
    groups = spec.part_groups
    unknown = sorted(set(groups or ()) - set(class_names))
    if unknown:
        raise DatasetError(f"part_groups: expected classes of the data set, got {', '.join(unknown)}")
    schemes: list[PartScheme | None] = []
    numbers: list[_Numbers] = []
    for place, class_name in enumerate(class_names):
        if groups is None:
            names = sorted(set().union(*(each.parts for each in found if each.instance.class_index == place)))
            table: dict[str, tuple[str, ...]] = {name: (name,) for name in names}
        else:
            table = dict(groups.get(class_name, {}))
        if len(table) > _MOST_PARTS:
            raise DatasetError(f"class {class_name}: expected at most {_MOST_PARTS} parts, got {len(table)}")
        schemes.append(PartScheme(tuple(table), mirrored(tuple(table))) if table else None)
        numbers.append({name: number for number, members in enumerate(table.values(), start=1) for name in members})
    return schemes, numbers


def _with_parts(found: _Found, numbers: list[_Numbers]) -> Instance:
    own = numbers[found.instance.class_index]
    if not isinstance(found.instance.parts, PascalParts) or not own:
        return replace(found.instance, parts=None)
    return replace(found.instance, parts=replace(found.instance.parts, numbers=own))
