"""The Semantic Boundaries Dataset: instances of VOC's classes in VOC's images, as MATLAB files.

    ANNOTATION_ROOT/inst/NAME.mat    struct GTinst: Segmentation (H, W) of object numbers, Categories of each object
    ANNOTATION_ROOT/SPLIT.txt        lists; VOC's own are used where there are none
    ROOT/IMAGE_FOLDER/NAME.jpg       `img` in the set itself

Boxes are the tight boxes of the masks.

Source: Hariharan et al., "Semantic contours from inverse detectors", ICCV 2011.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hypercolumns.box_specs import InstancesSpec
from hypercolumns.datasets.instances.base import Instance, InstanceClass
from hypercolumns.datasets.instances.mat_files import label_array, read_mat_file
from hypercolumns.datasets.instances.records import Ledger, box_of_mask
from hypercolumns.datasets.instances.voc_layout import ReadSplit, VocImage, VocLayout, wanted_splits
from hypercolumns.errors import DatasetError, MaskError

__all__ = ["SbdMask", "read_sbd"]


@dataclass(frozen=True)
class SbdMask:
    """A mask kept as one number of a `GTinst.Segmentation`.

    Attributes:
        path: The MATLAB file.
        number: The object's number.
    """

    path: Path
    number: int

    def __call__(self, image_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the mask (H, W).

        Raises:
            MaskError: the file cannot be read, or has another size.
        """
        try:
            return np.asarray(label_array(read_mat_file(self.path, "GTinst"), "Segmentation", image_hw) == self.number)
        except DatasetError as error:
            raise MaskError(self.path, str(error)) from error


def read_sbd(root: Path, spec: InstancesSpec, ledger: Ledger) -> tuple[tuple[InstanceClass, ...], dict[str, ReadSplit]]:
    """Read the splits of a spec.

    Raises:
        DatasetError: the layout does not fit; wrong records are noted in the ledger.
    """
    layout = VocLayout(root, spec)
    splits = {}
    for split, limit in wanted_splits(spec).items():
        images, files = [], []
        for image in layout.images(split, limit, ledger):
            path = layout.annotation_root / "inst" / f"{image.name}.mat"
            files.append(path)
            with ledger.record(path, f"image {image.name}"):
                images.append(image.with_instances(_instances(image, path, len(layout.class_names))))
        splits[split] = ReadSplit(tuple(images), tuple(files))
    return tuple(InstanceClass(name, number) for number, name in enumerate(layout.class_names, start=1)), splits


def _instances(image: VocImage, path: Path, classes: int) -> list[Instance]:
    struct = read_mat_file(path, "GTinst")
    numbers = label_array(struct, "Segmentation", image.image_hw)
    categories = label_array(struct, "Categories", None).reshape(-1)
    if int(numbers.max(initial=0)) > len(categories):
        raise DatasetError(f"Categories: expected a class for each of {int(numbers.max())} objects, got {len(categories)}")
    found = []
    for number, category in enumerate(categories.tolist(), start=1):
        if not 1 <= category <= classes:
            raise DatasetError(f"object {number}: expected a class in 1 … {classes}, got {category}")
        mask = numbers == number
        found.append(
            Instance(
                identifier=f"{image.name}#{number}",
                class_index=category - 1,
                box_xyxy=box_of_mask(mask),
                mask=SbdMask(path, number),
                area=float(mask.sum()),
            )
        )
    return found
