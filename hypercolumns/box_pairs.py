"""Which boxes are learned from: pairs of a detection and the instance it fits, and how they are drawn.

Pure functions of what they are given; the order of images and of detections changes nothing. Masks are not read here.

Source: Hariharan et al., CVPR 2015, sec. 5 (boxes that overlap a true box by 0.7 or more); drawing classes first, so that
frequent ones do not crowd out the rest, then images, then boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hypercolumns.boxes import box_iou
from hypercolumns.datasets.instances.base import AnnotatedImage, Instance
from hypercolumns.datasets.instances.detections import Detections
from hypercolumns.errors import SamplingError

__all__ = ["BoxPair", "Target", "draw_pairs", "training_pairs"]

Target = Literal["mask", "keypoints", "parts"]


@dataclass(frozen=True, order=True)
class BoxPair:
    """A box to learn from, and the instance it is to show.

    Attributes:
        image: The image's key.
        instance: The instance's place in the image's `instances`.
        class_index: Their class.
        box_xyxy: The box.
    """

    image: str
    instance: int
    class_index: int
    box_xyxy: tuple[float, float, float, float]


def training_pairs(
    images: Iterable[AnnotatedImage], detections: Mapping[str, Detections], *, least_iou: float = 0.7, target: Target = "mask"
) -> tuple[BoxPair, ...]:
    """Pair each detection with the instance of its class that it overlaps most, if it does so enough.

    Crowds, and instances without the target, pair with nothing. Of instances that overlap as much the first counts.

    Args:
        images: The images.
        detections: Their detections, by the images' keys; an image that is not among them has none.
        least_iou: The overlap (IoU) of box and true box that is asked for, in [0, 1].
        target: What the instance must have.

    Returns:
        The pairs, sorted by image, instance and box.

    Raises:
        SamplingError: the overlap is out of range.
    """
    if not 0 <= least_iou <= 1:
        raise SamplingError(f"expected an overlap in [0, 1], got {least_iou}")
    pairs = [
        pair for image in images if image.key in detections for pair in _pairs(image, detections[image.key], least_iou, target)
    ]
    return tuple(sorted(pairs))


def _pairs(image: AnnotatedImage, detections: Detections, least_iou: float, target: Target) -> list[BoxPair]:
    usable = [number for number, instance in enumerate(image.instances) if _has(instance, target)]
    if not usable or not len(detections):
        return []
    labels = np.array([image.instances[number].class_index for number in usable])
    overlaps = box_iou(detections.boxes_xyxy, np.stack([image.instances[number].box_xyxy for number in usable]))
    overlaps[detections.labels[:, None] != labels[None]] = -1.0
    best = overlaps.argmax(axis=1)
    return [
        BoxPair(image.key, usable[place], int(labels[place]), _box(detections, number))
        for number, place in enumerate(best.tolist())
        if overlaps[number, place] >= least_iou
    ]


def _has(instance: Instance, target: Target) -> bool:
    if instance.crowd:
        return False
    if target == "keypoints":
        return instance.keypoints_xyv is not None and bool((instance.keypoints_xyv[:, 2] > 0).any())
    return (instance.mask if target == "mask" else instance.parts) is not None


def _box(detections: Detections, number: int) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = detections.boxes_xyxy[number].tolist()
    return x0, y0, x1, y1


def draw_pairs(pairs: Sequence[BoxPair], count: int, seed: int) -> tuple[BoxPair, ...]:
    """Draw pairs with replacement: a class uniformly, then one of its images, then one of that image's boxes of the class.

    Args:
        pairs: What to draw from, in any order.
        count: How many, ≥ 1.
        seed: ≥ 0; with the pairs it decides the result. The first n of a longer draw are not a shorter draw.

    Raises:
        SamplingError: there are no pairs, or count or seed is out of range.
    """
    if not pairs or count < 1 or seed < 0:
        raise SamplingError(
            f"expected pairs, a count of at least 1 and a seed of at least 0, got {len(pairs)}, {count}, {seed}"
        )
    tree: dict[int, dict[str, list[BoxPair]]] = {}
    for pair in sorted(pairs):
        tree.setdefault(pair.class_index, {}).setdefault(pair.image, []).append(pair)
    leaves = [list(tree[label].values()) for label in sorted(tree)]
    shares = np.random.default_rng(seed).random((count, 3)).tolist()
    drawn = []
    for share_class, share_image, share_box in shares:
        images = leaves[int(share_class * len(leaves))]
        boxes = images[int(share_image * len(images))]
        drawn.append(boxes[int(share_box * len(boxes))])
    return tuple(drawn)
