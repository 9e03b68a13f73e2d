"""From a box's heatmap back to the image: resized to the box by bilinear interpolation, laid where the box lies, and cut off.

The exact counterpart of how heatmaps read the image: pixel (j, i) of a heatmap of side S lies at the centre of the (j, i)-th of
S x S equal parts of the expanded box; between centres values are interpolated, at the box's rim they go on unchanged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from hypercolumns.boxes import pixel_slices
from hypercolumns.errors import GeometryError
from hypercolumns.heatmaps.placing import expanded_box

__all__ = ["cut_mask", "heatmap_points", "splat"]


def splat(
    heatmaps: NDArray[Any], box_xyxy: NDArray[Any], image_hw: tuple[int, int], expansion: float = 0.0
) -> Float[NDArray[np.float32], "*n h w"]:
    """Lay heatmaps of one box on the image, 0 where the box is not.

    Args:
        heatmaps: One (S, S) or several (n, S, S).
        box_xyxy: The box (4,) in pixels of the image, not expanded.
        image_hw: Size of the image.
        expansion: Share of the box's size by which the heatmap is larger on each side.

    Raises:
        GeometryError: the box is not one, or heatmaps are not square.
    """
    values = np.asarray(heatmaps, np.float32)
    if values.ndim not in (2, 3) or values.shape[-1] != values.shape[-2]:
        raise GeometryError(f"expected heatmaps (S, S) or (n, S, S), got {values.shape}")
    box = expanded_box(box_xyxy, expansion)
    rows, columns = pixel_slices(box, image_hw)
    laid = np.zeros((*values.shape[:-2], *image_hw), np.float32)
    down = _taps(rows, box[1], box[3], values.shape[-1])
    across = _taps(columns, box[0], box[2], values.shape[-1])
    laid[..., rows, columns] = down @ values @ across.T
    return laid


def _taps(pixels: slice, low: float, high: float, side: int) -> NDArray[np.float32]:
    """Return how much each heatmap row (or column) counts at each of the pixels (pixels, S)."""
    centres = np.arange(pixels.start, pixels.stop) + 0.5
    places = ((centres - low) / (high - low) * side - 0.5).clip(0, side - 1)
    # Hat functions around the heatmap's centres: linear interpolation, written as a matrix.
    weights: NDArray[np.float32] = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(side))).astype(np.float32)
    return weights


def cut_mask(laid: NDArray[Any], threshold: float = 0.5) -> NDArray[np.bool_]:
    """Return where a laid heatmap reaches a threshold in (0, 1]; where it does nowhere, its highest pixel alone.

    Raises:
        GeometryError: the threshold is out of range, or the heatmap is zero everywhere: its box holds no pixel.
    """
    if not 0 < threshold <= 1:
        raise GeometryError(f"expected a threshold in (0, 1], got {threshold}")
    mask: NDArray[np.bool_] = np.asarray(laid) >= threshold
    if not mask.any():
        if not (np.asarray(laid) > 0).any():
            raise GeometryError("expected a heatmap laid on some pixel, got none; leave out boxes that hold no pixel's centre")
        mask.flat[int(np.argmax(laid))] = True
    return mask


def heatmap_points(
    shares_xy: NDArray[Any], box_xyxy: NDArray[Any], expansion: float = 0.0
) -> Float[NDArray[np.float64], "k 2"]:
    """Return image positions of points given as shares (k, 2) of the expanded box's width and height.

    Raises:
        GeometryError: the box is not one.
    """
    box = expanded_box(box_xyxy, expansion)
    points: NDArray[np.float64] = box[:2] + np.asarray(shares_xy, np.float64) * (box[2:] - box[:2])
    return points
