"""Heatmaps that no image was looked at for: what any classifier has to beat.

All are heatmaps of the same side and expansion as the classifiers', so that they go the same way to masks, points and parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from hypercolumns.errors import SamplingError

__all__ = ["ellipse", "mean_points", "mean_targets", "rectangle"]

Heatmap = Float[NDArray[np.float32], "s s"]


def rectangle(side: int, expansion: float = 0.0) -> Heatmap:
    """Return the box itself: 1 inside it, 0 in what expansion added."""
    along = np.abs(_along(side, expansion)) <= 1
    return (along[:, None] & along[None]).astype(np.float32)


def ellipse(side: int, expansion: float = 0.0) -> Heatmap:
    """Return the ellipse inscribed in the box."""
    along = _along(side, expansion)
    return (along[:, None] ** 2 + along[None] ** 2 <= 1).astype(np.float32)


def _along(side: int, expansion: float) -> NDArray[np.float64]:
    """Return where heatmap pixels lie along an axis: -1 and 1 are the box's ends before expansion."""
    along: NDArray[np.float64] = ((np.arange(side) + 0.5) / side * 2 - 1) * (1 + 2 * expansion)
    return along


def mean_targets(targets: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
    """Average training targets of one shape, each number over what is known of it; 0 where nothing ever was.

    Raises:
        SamplingError: there is no target.
    """
    total: NDArray[np.float64] | None = None
    known: NDArray[np.int64] | None = None
    for target in targets:
        there = ~np.isnan(target)
        if total is None or known is None:
            total, known = np.zeros(target.shape), np.zeros(target.shape, np.int64)
        total += np.where(there, target, 0.0)
        known += there
    if total is None or known is None:
        raise SamplingError("expected training boxes to average, got none")
    return np.divide(total, known, out=np.zeros_like(total), where=known > 0).astype(np.float32)


def mean_points(
    points_xy: NDArray[Any], labelled: NDArray[np.bool_], boxes_xyxy: NDArray[Any]
) -> Float[NDArray[np.float64], "k 2"]:
    """Return the mean pose: each keypoint's mean position as shares of the box; the box's centre for one never annotated.

    Args:
        points_xy: Keypoints (n, k, 2) in pixels.
        labelled: Which are annotated (n, k).
        boxes_xyxy: The box of each pose (n, 4).
    """
    boxes = np.asarray(boxes_xyxy, np.float64)[:, None]
    shares = (np.asarray(points_xy, np.float64) - boxes[..., :2]) / (boxes[..., 2:] - boxes[..., :2])
    known = np.asarray(labelled)[..., None]
    count = known.sum(axis=0)
    mean: NDArray[np.float64] = np.where(count > 0, np.where(known, shares, 0).sum(axis=0) / np.maximum(count, 1), 0.5)
    return mean
