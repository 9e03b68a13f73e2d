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

__all__ = ["ellipse", "mean_points", "mean_targets", "prior_logits", "rectangle"]

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


def prior_logits(
    targets: Iterable[tuple[slice, NDArray[np.float32]]], outputs: int, weight: float, *, alike: bool
) -> Float[NDArray[np.float32], "outputs s s"]:
    """Return the logits of the outputs' mean targets, drawn towards a simpler mean where boxes are few.

    Args:
        targets: Training targets (b, S, S), each with the b outputs it is of; NaN where unknown.
        outputs: How many outputs there are.
        weight: How many boxes the simpler mean counts as, ≥ 0, besides one half for and one half against everywhere.
        alike: Whether outputs show the same of different classes: the simpler mean is that of all outputs at the same pixel.
            Otherwise it is the output's own mean over all pixels.

    Raises:
        SamplingError: there is no target.
    """
    total, known = None, None
    for own, target in targets:
        if total is None or known is None:
            total, known = (np.zeros((outputs, *target.shape[1:])) for _ in range(2))
        there = ~np.isnan(target)
        total[own] += np.where(there, target, 0.0)
        known[own] += there
    if total is None or known is None:
        raise SamplingError("expected training boxes to average, got none")
    axes = (0,) if alike else (1, 2)
    simple = (total.sum(axis=axes, keepdims=True) + 0.5) / (known.sum(axis=axes, keepdims=True) + 1)
    # Half a box for and half against keep a target that never varies from being certain.
    shares = (total + weight * simple + 0.5) / (known + weight + 1)
    logits: NDArray[np.float32] = (np.log(shares) - np.log1p(-shares)).astype(np.float32)
    return logits


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
