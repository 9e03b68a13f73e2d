"""Berkeley's keypoint annotations of VOC's objects: one XML file an object.

    ANNOTATION_ROOT/CLASS/NAME_K.xml    image, voc_id (the object's number in VOC, from 1; 0 for none), category,
                                        visible_bounds (xmin, ymin, width, height), keypoints (name, visible, x, y)
    ROOT/JPEGImages, ROOT/ImageSets     VOC's own; SegmentationObject gives the mask where it has the object

A keypoint that is not listed is absent, one with visible="0" is hidden. The keypoints of a class are those that all the files
read name, sorted. Coordinates are taken for positions, unless the spec says that they number pixels.

Source: Bourdev and Malik, "Poselets: body part detectors trained using 3D human pose annotations", ICCV 2009, and the
annotations of VOC's categories by the same group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from hypercolumns.box_specs import InstancesSpec
from hypercolumns.datasets.instances.base import Instance, InstanceClass, KeypointScheme
from hypercolumns.datasets.instances.files import FileFinder
from hypercolumns.datasets.instances.records import Ledger, checked_box, checked_keypoints
from hypercolumns.datasets.instances.sides import mirrored
from hypercolumns.datasets.instances.voc import NumberedMask, object_masks
from hypercolumns.datasets.instances.voc_layout import ReadSplit, VocImage, VocLayout, wanted_splits
from hypercolumns.datasets.instances.xml_files import child_text, number_of, read_xml_file
from hypercolumns.datasets.listing import subfolders
from hypercolumns.errors import DatasetError

__all__ = ["read_berkeley"]


@dataclass(frozen=True, eq=False)
class _File:
    """What one annotation file says."""

    path: Path
    image: str
    voc_id: int
    class_index: int
    box_xyxy: NDArray[np.float64]
    keypoints: dict[str, tuple[float, float, float]]


def read_berkeley(root: Path, spec: InstancesSpec, ledger: Ledger) -> tuple[tuple[InstanceClass, ...], dict[str, ReadSplit]]:
    """Read the splits of a spec.

    Raises:
        DatasetError: the layout does not fit; wrong records are noted in the ledger.
    """
    layout = VocLayout(root, spec)
    by_image: dict[str, list[_File]] = {}
    for file in _files(layout, ledger):
        by_image.setdefault(file.image, []).append(file)
    everything = [file for files in by_image.values() for file in files]
    schemes = [_scheme(everything, place) for place in range(len(layout.class_names))]
    finder = FileFinder(layout.root, "SegmentationObject", frozenset({".png"}))
    splits = {}
    for split, limit in wanted_splits(spec).items():
        images, used = [], []
        for image in layout.images(split, limit, ledger):
            own = by_image.get(image.name, [])
            objects = finder.find(image.name)
            used += [file.path for file in own] + ([] if objects is None else [objects])
            instances = []
            for file in own:
                with ledger.record(file.path, f"object of image {image.name}"):
                    instances.append(_instance(file, image, objects, schemes, spec))
            images.append(image.with_instances(instances))
        splits[split] = ReadSplit(tuple(images), tuple(used))
    classes = zip(layout.class_names, schemes, strict=True)
    return tuple(InstanceClass(name, place, keypoints=each) for place, (name, each) in enumerate(classes, start=1)), splits


def _files(layout: VocLayout, ledger: Ledger) -> Iterator[_File]:
    """Read all annotation files, class by class."""
    folders = [name for name in subfolders(layout.annotation_root) if name in layout.class_names]
    if not folders:
        raise DatasetError(
            f"{layout.annotation_root}: expected a folder a class, such as {', '.join(layout.class_names[:3])}, found none. "
            "Remedy: check annotation_root"
        )
    for folder in folders:
        for path in sorted((layout.annotation_root / folder).glob("*.xml")):
            with ledger.record(path, "annotation"):
                yield _read(path, layout)


def _read(path: Path, layout: VocLayout) -> _File:
    element = read_xml_file(path)
    bounds = element.find("visible_bounds")
    if bounds is None:
        raise DatasetError("expected an element visible_bounds, found none")
    x0, y0, width, height = (number_of(bounds.get(name), name) for name in ("xmin", "ymin", "width", "height"))
    keypoints: dict[str, tuple[float, float, float]] = {}
    for each in element.findall("keypoints/keypoint"):
        name = each.get("name") or ""
        if not name or name in keypoints:
            raise DatasetError(f"keypoint: expected a name of its own, got {name[:60]!r}")
        keypoints[name] = _keypoint(each, name)
    voc_id = number_of(element.findtext("voc_id") or "0", "voc_id")
    if voc_id % 1 or voc_id < 0:
        raise DatasetError(f"voc_id: expected a whole number of at least 0, got {voc_id:g}")
    return _File(
        path,
        child_text(element, "image"),
        int(voc_id),
        layout.place(child_text(element, "category")),
        np.array([x0, y0, x0 + width, y0 + height]),
        keypoints,
    )


def _keypoint(element: Element, name: str) -> tuple[float, float, float]:
    visible = (element.get("visible") or "1").strip()
    if visible not in {"0", "1"}:
        raise DatasetError(f"keypoint {name}: expected visible 0 or 1, got {visible[:60]!r}")
    x, y = (number_of(element.get(axis), f"keypoint {name}: {axis}") for axis in ("x", "y"))
    return x, y, 1.0 + float(visible)


def _scheme(files: list[_File], place: int) -> KeypointScheme | None:
    names = sorted(set().union(*(file.keypoints for file in files if file.class_index == place)))
    return KeypointScheme(tuple(names), mirrored(names)) if names else None


def _instance(
    file: _File, image: VocImage, objects: Path | None, schemes: list[KeypointScheme | None], spec: InstancesSpec
) -> Instance:
    scheme, box = schemes[file.class_index], checked_box(file.box_xyxy, image.image_hw)
    keypoints = None
    if scheme is not None:
        xyv = np.array([file.keypoints.get(name, (0.0, 0.0, 0.0)) for name in scheme.names])
        keypoints = checked_keypoints(xyv, scheme, box, image.image_hw, spec)
    masks = {} if objects is None or not file.voc_id else object_masks(objects, image.image_hw)
    own = masks.get(file.voc_id)
    return Instance(
        identifier=f"{file.path.parent.name}/{file.path.stem}",
        class_index=file.class_index,
        box_xyxy=box,
        mask=NumberedMask(objects, file.voc_id) if objects is not None and own is not None else None,
        keypoints_xyv=keypoints,
        area=float(own.sum()) if own is not None else float((box[2:] - box[:2]).prod()),
    )
