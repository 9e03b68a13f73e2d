"""What a box's heatmap should be: an instance's mask, its keypoints or its parts, seen through a box.

Heatmap pixels lie where `hypercolumns.geometry.box_positions` puts them in the (expanded) box; the image's pixel that holds
such a position decides. Numbers are 0 to 1, and NaN where nobody knows: beyond the image, for keypoints that are not annotated,
and, for parts, outside the object.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from hypercolumns.box_targets import box_labels
from hypercolumns.boxes import longer_sides
from hypercolumns.datasets.masks import VOID
from hypercolumns.errors import GeometryError
from hypercolumns.heatmaps.placing import heatmap_positions

__all__ = ["keypoint_targets", "mask_target", "part_targets"]

Box = NDArray[np.float64]


def mask_target(mask: NDArray[np.bool_], box_xyxy: Box, side: int, expansion: float = 0.0) -> Float[NDArray[np.float32], "s s"]:
    """Return the mask of an instance in a box: 1 on it, 0 beside it, NaN beyond the image.

    Args:
        mask: The instance (H, W).
        box_xyxy: A box (4,) in pixels of the image.
        side: S.
        expansion: Share of the box's size by which its sides are moved outwards.

    Raises:
        GeometryError: the mask is not a boolean image, the box is not one, or a number is out of range.
    """
    if np.ndim(mask) != 2 or mask.dtype != np.bool_:
        raise GeometryError(f"expected a boolean mask (height, width), got {mask.dtype} {np.shape(mask)}")
    return _look_up(mask.astype(np.int64), box_xyxy, side, expansion)


def keypoint_targets(
    points_xy: NDArray[Any],
    labelled: NDArray[np.bool_],
    box_xyxy: Box,
    image_hw: tuple[int, int],
    side: int,
    expansion: float = 0.0,
    sigma: float = 0.05,
) -> Float[NDArray[np.float32], "k s s"]:
    """Return a bump around each keypoint, exp(-d²/2σ²) at distance d, cut off at 3σ: 0 where the keypoint is out of reach.

    Args:
        points_xy: Keypoints (k, 2) in pixels of the image.
        labelled: Which are annotated (k,); the others' heatmaps are NaN, whatever their position.
        box_xyxy: A box (4,) in pixels of the image.
        image_hw: Size of the image.
        side: S.
        expansion: Share of the box's size by which its sides are moved outwards.
        sigma: σ as a share of the box's longer side, > 0: a circle in the image, not in the heatmap.

    Raises:
        GeometryError: shapes or numbers do not fit.
    """
    points, there = np.asarray(points_xy, np.float64), np.asarray(labelled)
    if points.shape != (len(points), 2) or there.shape != (len(points),) or there.dtype != np.bool_:
        raise GeometryError(f"expected points (k, 2) and a boolean annotation (k,), got {points.shape} and {there.shape}")
    if not (sigma > 0 and math.isfinite(sigma)) or not np.isfinite(points[there]).all():
        raise GeometryError(
            f"expected sigma > 0 and finite annotated keypoints, got sigma {sigma} and {points[there].tolist()}"
        )
    columns, rows = heatmap_positions(box_xyxy, side, expansion)
    scale = sigma * longer_sides(np.asarray(box_xyxy)[None])[0]
    safe = np.where(there[:, None], points, 0.0)
    across = ((columns - safe[:, :1]) / scale) ** 2
    down = ((rows - safe[:, 1:]) / scale) ** 2
    squares = down[:, :, None] + across[:, None, :]
    bumps = np.where(squares <= 9, np.exp(-squares / 2), 0.0).astype(np.float32)
    bumps[~there] = np.nan
    bumps[:, ~_inside(columns, rows, image_hw)] = np.nan
    return bumps


def part_targets(
    parts: NDArray[np.uint8], count: int, box_xyxy: Box, side: int, expansion: float = 0.0
) -> Float[NDArray[np.float32], "p s s"]:
    """Return for each part where in the object it lies: 1 on it, 0 on others, NaN outside the object and where none is known.

    Args:
        parts: Part map (H, W), uint8: 0 outside the object, 1 … count, or `VOID`.
        count: How many parts there are.
        box_xyxy: A box (4,) in pixels of the image.
        side: S.
        expansion: Share of the box's size by which its sides are moved outwards.

    Raises:
        GeometryError: the map or the box is not one, or there is a part of a higher number.
    """
    if np.ndim(parts) != 2 or parts.dtype != np.uint8:
        raise GeometryError(f"expected a part map (height, width) of uint8, got {parts.dtype} {np.shape(parts)}")
    highest = int(parts[parts != VOID].max(initial=0))
    if highest > count:
        raise GeometryError(f"expected parts 1 to {count}, or {VOID} for unknown, got part {highest}")
    seen = _look_up(parts.astype(np.int64), box_xyxy, side, expansion)
    numbers = np.arange(1, count + 1, dtype=np.float32)[:, None, None]
    targets: NDArray[np.float32] = (seen[None] == numbers).astype(np.float32)
    targets[:, np.isnan(seen) | (seen == 0) | (seen == VOID)] = np.nan
    return targets


def _look_up(numbers: NDArray[np.int64], box_xyxy: Box, side: int, expansion: float) -> NDArray[np.float32]:
    """Return the image's numbers at the heatmap's pixels, NaN beyond the image."""
    # `box_labels` gives 0 beyond the image, so that what is in it must start at 1.
    seen = box_labels(numbers + 1, box_xyxy, side, expansion)
    found: NDArray[np.float32] = np.where(seen == 0, np.nan, seen - 1).astype(np.float32)
    return found


def _inside(columns: NDArray[np.float64], rows: NDArray[np.float64], image_hw: tuple[int, int]) -> NDArray[np.bool_]:
    height, width = image_hw
    inside: NDArray[np.bool_] = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]
    return inside
