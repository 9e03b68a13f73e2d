"""PASCAL VOC's objects: boxes from XML, masks from SegmentationObject, or either alone.

    Annotations/NAME.xml             objects with name, bndbox (numbers of pixels from 1, both ends included), difficult
    SegmentationObject/NAME.png      number k is the k-th object of the XML; 255 is nobody's
    SegmentationClass/NAME.png       tells the class of an object where there is no XML
    ImageSets/Segmentation/SPLIT.txt, or ImageSets/Main/SPLIT.txt

Source: Everingham et al., "The PASCAL VOC 2012 development kit", sec. 3.5 and 8 (objects' numbers, bounding boxes).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from hypercolumns.box_specs import InstancesSpec
from hypercolumns.datasets.instances.base import AnnotatedImage, Instance, InstanceClass
from hypercolumns.datasets.instances.files import FileFinder
from hypercolumns.datasets.instances.records import Ledger, box_of_mask, checked_box
from hypercolumns.datasets.instances.voc_layout import ReadSplit, VocImage, VocLayout, wanted_splits
from hypercolumns.datasets.instances.xml_files import child_text, number_of, read_xml_file
from hypercolumns.datasets.masks import VOID, decode_mask
from hypercolumns.errors import DatasetError

__all__ = ["NumberedMask", "object_masks", "read_voc"]

_XML = frozenset({".xml"})
_PNG = frozenset({".png"})


@dataclass(frozen=True)
class NumberedMask:
    """A mask kept as one number of an image of object numbers.

    Attributes:
        path: The PNG.
        number: The object's number.
    """

    path: Path
    number: int

    def __call__(self, image_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the mask (H, W).

        Raises:
            MaskError: the file cannot be read, or has another size.
        """
        return np.asarray(decode_mask(self.path, image_hw=image_hw, classes=VOID) == self.number)


def read_voc(root: Path, spec: InstancesSpec, ledger: Ledger) -> tuple[tuple[InstanceClass, ...], dict[str, ReadSplit]]:
    """Read the splits of a spec.

    Raises:
        DatasetError: the layout does not fit; wrong records are noted in the ledger.
    """
    layout = VocLayout(root, spec)
    reader = _Reader(layout)
    splits = {}
    for split, limit in wanted_splits(spec).items():
        images: list[AnnotatedImage] = []
        files: list[Path] = []
        for image in layout.images(split, limit, ledger):
            found = reader.files(image)
            files += found.values()
            with ledger.record(next(iter(found.values()), image.path), f"image {image.name}"):
                images.append(image.with_instances(reader.instances(image, found, ledger)))
        splits[split] = ReadSplit(tuple(images), tuple(files))
    return tuple(InstanceClass(name, number) for number, name in enumerate(layout.class_names, start=1)), splits


class _Reader:
    def __init__(self, layout: VocLayout) -> None:
        self.layout = layout
        self.finders = {
            folder: FileFinder(layout.root, folder, suffixes)
            for folder, suffixes in (("Annotations", _XML), ("SegmentationObject", _PNG), ("SegmentationClass", _PNG))
        }

    def files(self, image: VocImage) -> dict[str, Path]:
        """Find the files that say something of an image, by folder."""
        found = {folder: finder.find(image.name) for folder, finder in self.finders.items()}
        return {folder: path for folder, path in found.items() if path is not None}

    def instances(self, image: VocImage, files: dict[str, Path], ledger: Ledger) -> list[Instance]:
        """Read the objects of an image."""
        xml, objects = files.get("Annotations"), files.get("SegmentationObject")
        masks = {} if objects is None else object_masks(objects, image.image_hw)
        if xml is not None:
            return self._from_xml(image, xml, objects, masks, ledger)
        if objects is None or "SegmentationClass" not in files:
            raise DatasetError("expected Annotations, or SegmentationObject and SegmentationClass, found neither")
        labels = decode_mask(files["SegmentationClass"], image_hw=image.image_hw, classes=len(self.layout.class_names) + 1)
        found = []
        for number, mask in masks.items():
            with ledger.record(objects, f"object {number}"):
                place = _class_under(labels, mask)
                found.append(_instance(image, number, place, box_of_mask(mask), mask, objects))
        return found

    def _from_xml(
        self, image: VocImage, xml: Path, objects: Path | None, masks: dict[int, NDArray[np.bool_]], ledger: Ledger
    ) -> list[Instance]:
        elements = read_xml_file(xml).findall("object")
        if masks and max(masks) > len(elements):
            raise DatasetError(f"expected at most {len(elements)} objects in {objects}, as in the XML, got number {max(masks)}")
        found = []
        for number, element in enumerate(elements, start=1):
            with ledger.record(xml, f"object {number}"):
                place = self.layout.place(child_text(element, "name"))
                box = checked_box(_xml_box(element), image.image_hw)
                difficult = (element.findtext("difficult") or "0").strip() == "1"
                found.append(_instance(image, number, place, box, masks.get(number), objects, difficult=difficult))
        return found


def object_masks(path: Path, image_hw: tuple[int, int]) -> dict[int, NDArray[np.bool_]]:
    """Return the masks of an image of object numbers, by number.

    Raises:
        MaskError: the file cannot be read, or has another size.
    """
    values = decode_mask(path, image_hw=image_hw, classes=VOID)
    return {int(number): values == number for number in np.unique(values) if number not in (0, VOID)}


def _class_under(labels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> int:
    own = labels[mask]
    counts = np.bincount(own[own != VOID], minlength=1)
    label = int(counts.argmax())
    if not counts.any() or label == 0:
        raise DatasetError("expected a class under the object in SegmentationClass, got background or void")
    return label - 1


def _xml_box(element: Element) -> NDArray[np.float64]:
    x0, y0, x1, y1 = (number_of(element.findtext(f"bndbox/{name}"), name) for name in ("xmin", "ymin", "xmax", "ymax"))
    return np.array([x0 - 1, y0 - 1, x1, y1])


def _instance(
    image: VocImage,
    number: int,
    place: int,
    box: NDArray[np.float64],
    mask: NDArray[np.bool_] | None,
    objects: Path | None,
    *,
    difficult: bool = False,
) -> Instance:
    return Instance(
        identifier=f"{image.name}#{number}",
        class_index=place,
        box_xyxy=box,
        mask=NumberedMask(objects, number) if mask is not None and objects is not None else None,
        difficult=difficult,
        area=float(mask.sum()) if mask is not None else float((box[2:] - box[:2]).prod()),
    )
