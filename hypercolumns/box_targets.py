"""What a box is to show: masks, parts and keypoints of an image seen as a heatmap over a box, and back.

Heatmap pixels are the points of `hypercolumns.geometry.box_positions`; labels are read at the image pixel a point lies in.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from hypercolumns.errors import GeometryError
from hypercolumns.geometry import box_positions, expand_boxes

__all__ = ["box_labels", "keypoint_cells"]

T = TypeVar("T", bound=np.generic)


def box_labels(labels: NDArray[T], box_xyxy: NDArray[Any], side: int = 50, expansion: float = 0.0) -> NDArray[T]:
    """Read a mask or label map at the heatmap pixels of a box; beyond the image's edge it is 0.

    Args:
        labels: Labels or a mask (H, W).
        box_xyxy: The box (4,).
        side: S, pixels along a side of the heatmap.
        expansion: Share of the box's size by which each of its sides is moved outwards first.

    Returns:
        Labels (S, S), of the same type.

    Raises:
        GeometryError: the box is not one, or a number is out of range.
    """
    columns, rows = _positions(box_xyxy, side, expansion)
    height, width = labels.shape
    # A border of zeros stands for all that lies outside.
    padded = np.pad(labels, 1)
    found: NDArray[T] = padded[np.clip(np.floor(rows), -1, height).astype(np.int64) + 1][
        :, np.clip(np.floor(columns), -1, width).astype(np.int64) + 1
    ]
    return found


def keypoint_cells(
    keypoints_xyv: NDArray[np.float64], box_xyxy: NDArray[Any], side: int = 50, expansion: float = 0.0
) -> NDArray[np.int64]:
    """Find the heatmap pixel that each labelled keypoint lies in.

    Args:
        keypoints_xyv: Keypoints (K, 3).
        box_xyxy: The box (4,).
        side: S, pixels along a side of the heatmap.
        expansion: Share of the box's size by which each of its sides is moved outwards first.

    Returns:
        Rows and columns (K, 2), 0 … S-1; -1 for a keypoint that is absent or lies outside the expanded box.

    Raises:
        GeometryError: the box is not one, the keypoints are not keypoints, or a number is out of range.
    """
    if keypoints_xyv.ndim != 2 or keypoints_xyv.shape[1] != 3:
        raise GeometryError(f"expected keypoints (K, 3) as x, y, v, got {keypoints_xyv.shape}")
    _positions(box_xyxy, side, expansion)
    x0, y0, x1, y1 = expand_boxes(torch.from_numpy(np.asarray(box_xyxy, np.float64)[None]), expansion)[0].tolist()
    cells = np.floor((keypoints_xyv[:, 1::-1] - [y0, x0]) / [y1 - y0, x1 - x0] * side).astype(np.int64)
    outside = (keypoints_xyv[:, 2] == 0) | ((cells < 0) | (cells >= side)).any(axis=1)
    return np.where(outside[:, None], -1, cells)


def _positions(box_xyxy: NDArray[Any], side: int, expansion: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    boxes = expand_boxes(torch.from_numpy(np.asarray(box_xyxy, np.float64)[None]), expansion)
    columns, rows = box_positions(boxes, side)
    return columns[0].numpy(), rows[0].numpy()
