"""Part labelling: AP^r_part, where a pixel counts only with the right part, and part IU inside given boxes.

Part maps are integer arrays (height, width): 0 lies outside the object, 1 … P are its parts, and `VOID` in a true map is a
pixel of the object whose part nobody knows: it is left out.

Source: Hariharan et al., CVPR 2015, sec. 5.3 (AP^r_part: the intersection of a detection and an instance counts only pixels
that are also given the right part label).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypercolumns.boxes import pixel_slices
from hypercolumns.datasets.base import VOID
from hypercolumns.errors import MetricError
from hypercolumns.metrics.overlaps import Overlaps
from hypercolumns.metrics.segmentation import confusion_matrix

__all__ = ["part_confusion", "part_overlaps"]


def part_overlaps(
    image: str,
    maps: Sequence[NDArray[Any]],
    scores: NDArray[Any],
    labels: NDArray[Any],
    truth_maps: Sequence[NDArray[Any]],
    truth_labels: NDArray[Any],
) -> Overlaps:
    """Compare part maps of detections with those of instances: pixels of the same part, over pixels in either.

    Args:
        image: Name of the image, for messages.
        maps: Part map (H, W) of each detection, of any integer type.
        scores: Score of each detection (d,).
        labels: Class of each detection (d,).
        truth_maps: Part map (H, W) of each instance.
        truth_labels: Class of each instance (g,).

    Returns:
        What `hypercolumns.metrics.instances.score_instances` takes: its `ap` is then AP^r_part.

    Raises:
        MetricError: a map has another size or type, a detection has void pixels, or an instance no known pixel.
    """
    _check(image, maps, truth_maps)
    overlaps = np.zeros((len(maps), len(truth_maps)))
    for number, truth in enumerate(truth_maps):
        known = truth != VOID
        if not (truth[known] > 0).any():
            raise MetricError(f"image {image}: instance {number}: expected at least one pixel of a known part, got none")
        for detection, parts in enumerate(maps):
            right = np.count_nonzero((parts == truth) & (truth > 0) & known)
            union = np.count_nonzero(((parts > 0) | (truth > 0)) & known)
            overlaps[detection, number] = right / union
    nobody = np.zeros(len(truth_maps), np.bool_)
    return Overlaps(image, np.asarray(scores), np.asarray(labels), np.asarray(truth_labels), nobody, overlaps)


def part_confusion(
    truth_map: NDArray[np.uint8], predicted_map: NDArray[Any], boxes: NDArray[Any], parts: int
) -> NDArray[np.int64]:
    """Count how often each part was taken for each other inside an image's true boxes, outside (0) counting as one more.

    A pixel in several boxes counts in each. Sums, scores and intervals are those of `hypercolumns.metrics.segmentation` and
    `hypercolumns.metrics.bootstrap`.

    Args:
        truth_map: Parts (H, W), uint8: 0 … parts, or `VOID`.
        predicted_map: Parts (H, W) of any integer type, 0 … parts.
        boxes: Boxes (n, 4), continuous; pixels whose centres they hold count.
        parts: P.

    Returns:
        Pixels (P+1, P+1), rows truth.

    Raises:
        GeometryError: the boxes are not boxes.
        MetricError: sizes or labels do not fit.
    """
    total = np.zeros((parts + 1, parts + 1), np.int64)
    if np.shape(truth_map) != np.shape(predicted_map):
        raise MetricError(f"expected a prediction of the truth's size {np.shape(truth_map)}, got {np.shape(predicted_map)}")
    for box in boxes:
        window = pixel_slices(box, (truth_map.shape[0], truth_map.shape[1]))
        total += confusion_matrix(truth_map[window], predicted_map[window], parts + 1)
    return total


def _check(image: str, maps: Sequence[NDArray[Any]], truth_maps: Sequence[NDArray[Any]]) -> None:
    given = [*truth_maps, *maps]
    for number, values in enumerate(given):
        if np.ndim(values) != 2 or np.shape(values) != np.shape(given[0]) or not np.issubdtype(values.dtype, np.integer):
            raise MetricError(
                f"image {image}: map {number}: expected an integer map of {np.shape(given[0])}, "
                f"got {values.dtype} {np.shape(values)}"
            )
    if any((parts == VOID).any() for parts in maps):
        raise MetricError(f"image {image}: expected detections without void pixels ({VOID}), which cannot be predicted")
