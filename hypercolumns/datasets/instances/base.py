"""The protocol of data sets of instances: images, and what is known of every object in them, whatever layout they came in.

Boxes and keypoints are continuous (`hypercolumns.geometry`): the first pixel's centre is at 0.5, boxes are half-open. Boxes,
classes and keypoints are read and checked when a data set is opened; masks and part maps are read when they are asked for.
Images are known by path, and by their bytes' sha256 in a feature store, as everywhere: one store serves labels of every kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hypercolumns.errors import DatasetError

__all__ = [
    "AnnotatedImage",
    "Instance",
    "InstanceClass",
    "InstanceDataset",
    "KeypointScheme",
    "LazyMask",
    "LazyParts",
    "PartScheme",
    "RejectedRecord",
]


class LazyMask(Protocol):
    """Reads the mask of one instance when it is called; small and picklable."""

    def __call__(self, image_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the visible pixels of the instance (H, W).

        Args:
            image_hw: The image's size, which the mask must have.

        Raises:
            MaskError: the mask cannot be read, or has another size.
        """
        ...


class LazyParts(Protocol):
    """Reads the part labels of one instance when it is called; small and picklable."""

    def __call__(self, image_hw: tuple[int, int]) -> NDArray[np.uint8]:
        """Return labels (H, W): 0 outside the object, k the class's k-th part, counted from 1, 255 an unknown part of it.

        Args:
            image_hw: The image's size, which the labels must have.

        Raises:
            MaskError: the labels cannot be read, or have another size.
        """
        ...


@dataclass(frozen=True)
class KeypointScheme:
    """The keypoints of a class.

    Attributes:
        names: Their names, K of them.
        flips: For each keypoint the number of the one it becomes in a mirror: `xyv[list(flips)]` of the mirrored positions.
        sigmas: Their tolerances in object keypoint similarity; None where nobody measured them.
        skeleton: Pairs of keypoints, counted from 0, to be joined by a line.
    """

    names: tuple[str, ...]
    flips: tuple[int, ...]
    sigmas: tuple[float, ...] | None = None
    skeleton: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class PartScheme:
    """The parts of a class.

    Attributes:
        names: Name of part label k at place k-1.
        flips: For each part, counted from 0, the one it becomes in a mirror.
    """

    names: tuple[str, ...]
    flips: tuple[int, ...]


@dataclass(frozen=True)
class InstanceClass:
    """One class of objects.

    Attributes:
        name: Its name.
        category_id: Its number in COCO results; the data set's own where it has one, else counted from 1.
        keypoints: Its keypoints; None where the data set has none for it.
        parts: Its parts; None where the data set has none for it.
    """

    name: str
    category_id: int
    keypoints: KeypointScheme | None = None
    parts: PartScheme | None = None


@dataclass(frozen=True, eq=False)
class Instance:
    """What is known of one object in an image.

    Attributes:
        identifier: Its name in the data set, unique within the split.
        class_index: Its class: the place in the data set's `classes`, from 0.
        box_xyxy: Its box (4,), float64, inside the image and with an area.
        mask: Reads its visible pixels; None where the data set has no mask of it.
        keypoints_xyv: Its keypoints (K, 3), float64, in the order of its class's scheme: v is 0 for absent (x = y = 0), 1 for
            labelled but hidden, 2 for visible; None where nobody labelled any.
        parts: Reads its part labels; None where the data set has none of it.
        crowd: Whether it is a region of many objects, which nothing has to find, and nothing is learned from.
        difficult: Whether its annotators call it difficult.
        area: Pixels it covers, as its annotation says; the pixels of its mask, or the box's area, where that says nothing.
    """

    identifier: str
    class_index: int
    box_xyxy: NDArray[np.float64]
    mask: LazyMask | None = None
    keypoints_xyv: NDArray[np.float64] | None = None
    parts: LazyParts | None = None
    crowd: bool = False
    difficult: bool = False
    area: float = 0.0


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """One image with its objects.

    Attributes:
        key: Its name in the data set, unique within the split: the path of the image file inside its folder, without suffix.
        path: The image file.
        image_hw: Height and width of the upright image, as its header says.
        instances: Its objects, in the annotation's order; an image may have none.
        number: Its number in COCO results; the data set's own where it has one, else counted from 1.
    """

    key: str
    path: Path
    image_hw: tuple[int, int]
    instances: tuple[Instance, ...]
    number: int


@dataclass(frozen=True)
class RejectedRecord:
    """A record that was left out.

    Attributes:
        path: The file it stands in.
        record: Which record of that file.
        reason: What is wrong with it.
    """

    path: Path
    record: str
    reason: str


@dataclass(frozen=True, eq=False)
class InstanceDataset:
    """Images with instances, in splits.

    Attributes:
        name: A short name for people.
        classes: The classes; an instance's `class_index` is a place in here.
        images: The images of each split, in a stable order.
        label_files: The files that a split's labels were, or will be, read from: digest these to key what depends on labels.
        rejected: Records that were left out, where that was allowed.
        other_categories: Numbers of classes that the data set has, but that were not chosen.
        other_images: By split, numbers of images that it has, but that were not chosen.
    """

    name: str
    classes: tuple[InstanceClass, ...]
    images: Mapping[str, tuple[AnnotatedImage, ...]]
    label_files: Mapping[str, tuple[Path, ...]]
    rejected: tuple[RejectedRecord, ...] = ()
    other_categories: frozenset[int] = frozenset()
    other_images: Mapping[str, frozenset[int]] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, from 0; there is no background among them."""
        return tuple(each.name for each in self.classes)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that were opened."""
        return tuple(self.images)

    def split(self, name: str) -> tuple[AnnotatedImage, ...]:
        """Return the images of a split.

        Raises:
            DatasetError: there is no such split.
        """
        if name not in self.images:
            raise DatasetError(f"{self.name}: no split {name!r}. Remedy: use one of {', '.join(self.images)}")
        return self.images[name]
