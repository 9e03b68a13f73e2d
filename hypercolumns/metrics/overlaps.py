"""One image's detections against its instances: a table of overlaps, by masks or by boxes.

All that metrics of instances need to know of an image; a table is small where masks are large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypercolumns.boxes import box_areas, box_intersection, box_iou
from hypercolumns.errors import MetricError

__all__ = ["Overlaps", "box_overlaps", "mask_overlaps"]


@dataclass(frozen=True)
class Overlaps:
    """One image's detections against its instances.

    Attributes:
        image: Name of the image, for messages.
        scores: Score of each detection (d,), finite.
        labels: Class of each detection (d,).
        truth_labels: Class of each instance (g,).
        crowd: Which instances are crowds (g,): regions of many, which nothing has to find.
        overlaps: Intersection over union (d, g), in [0, 1]; for a crowd, the share of the detection inside it.

    Raises:
        MetricError: shapes disagree, or a number is out of range.
    """

    image: str
    scores: NDArray[Any]
    labels: NDArray[Any]
    truth_labels: NDArray[Any]
    crowd: NDArray[np.bool_]
    overlaps: NDArray[Any]

    def __post_init__(self) -> None:
        detections, instances = len(self.scores), len(self.truth_labels)
        shapes = [np.shape(part) for part in (self.labels, self.crowd, self.overlaps)]
        if shapes != [(detections,), (instances,), (detections, instances)]:
            raise MetricError(
                f"image {self.image}: expected labels ({detections},), crowd ({instances},) and overlaps "
                f"({detections}, {instances}), got {shapes}"
            )
        wrong = np.flatnonzero(~np.isfinite(self.scores))
        if len(wrong):
            raise MetricError(f"image {self.image}: detection {wrong[0]}: expected a finite score, got {self.scores[wrong[0]]}")
        if not ((np.asarray(self.overlaps) >= 0) & (np.asarray(self.overlaps) <= 1 + 1e-9)).all():
            raise MetricError(f"image {self.image}: expected overlaps in [0, 1], got others")


def mask_overlaps(
    image: str,
    masks: NDArray[np.bool_],
    scores: NDArray[Any],
    labels: NDArray[Any],
    truth_masks: NDArray[np.bool_],
    truth_labels: NDArray[Any],
    crowd: NDArray[np.bool_] | None = None,
) -> Overlaps:
    """Compare masks (d, H, W) of detections with masks (g, H, W) of instances; other arguments as of `Overlaps`.

    Raises:
        MetricError: masks are not boolean or differ in size, an instance is empty, or see `Overlaps`.
    """
    for masks_given, what in ((masks, "detections"), (truth_masks, "instances")):
        if np.ndim(masks_given) != 3 or masks_given.dtype != np.bool_:
            raise MetricError(
                f"image {image}: expected boolean masks (n, height, width) of {what}, got {np.shape(masks_given)}"
            )
    if masks.shape[1:] != truth_masks.shape[1:]:
        raise MetricError(
            f"image {image}: expected masks of the instances' size {truth_masks.shape[1:]}, got {masks.shape[1:]}; "
            "resize heatmaps to the image first"
        )
    crowd = np.zeros(len(truth_masks), np.bool_) if crowd is None else np.asarray(crowd, np.bool_)
    pixels = math.prod(truth_masks.shape[1:])
    flat, truth_flat = (part.reshape(len(part), pixels) for part in (masks, truth_masks))
    areas, truth_areas = flat.sum(axis=1, dtype=np.float64), truth_flat.sum(axis=1, dtype=np.float64)
    if (truth_areas == 0).any():
        raise MetricError(f"image {image}: instance {int(np.argmin(truth_areas))}: expected at least one pixel, got none")
    shared = np.array([[np.count_nonzero(one & other) for other in truth_flat] for one in flat], np.float64)
    shared = shared.reshape(len(flat), len(truth_flat))
    union = np.where(crowd[None], areas[:, None], areas[:, None] + truth_areas[None] - shared)
    overlaps = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return Overlaps(image, np.asarray(scores), np.asarray(labels), np.asarray(truth_labels), crowd, overlaps)


def box_overlaps(
    image: str,
    boxes: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
    truth_boxes: NDArray[Any],
    truth_labels: NDArray[Any],
    crowd: NDArray[np.bool_] | None = None,
) -> Overlaps:
    """Compare boxes (d, 4) of detections with boxes (g, 4) of instances; other arguments as of `Overlaps`.

    Raises:
        GeometryError: the boxes are not boxes.
        MetricError: see `Overlaps`.
    """
    crowd = np.zeros(len(truth_boxes), np.bool_) if crowd is None else np.asarray(crowd, np.bool_)
    inside = box_intersection(boxes, truth_boxes) / box_areas(boxes)[:, None]
    overlaps = np.where(crowd[None], inside, box_iou(boxes, truth_boxes))
    return Overlaps(image, np.asarray(scores), np.asarray(labels), np.asarray(truth_labels), crowd, overlaps)
