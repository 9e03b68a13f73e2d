"""Boxes of an image warped to a canvas of their own, so that a backbone sees a box as if it were the whole image.

The aspect ratio is not kept: the box fills the canvas. The filter reads the image beyond the box's sides, so that a crop is a
window on the resampled image, whatever surrounds the box; beyond the image's own sides its outermost pixels go on. Canvas
pixels whose centres lie beyond the image are padding.

Source: Girshick et al., "Rich feature hierarchies", CVPR 2014, appendix A (warp without regard to the aspect ratio; what lies
beyond the image is the mean). Antialiased bilinear resampling, as for whole images, is our choice.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from hypercolumns.canvas import IMAGENET_MEAN_RGB
from hypercolumns.errors import GeometryError
from hypercolumns.geometry import check_boxes

__all__ = ["crop_edges", "warp_box"]


def warp_box(
    image: NDArray[np.uint8],
    box_xyxy: NDArray[Any],
    size_hw: tuple[int, int],
    *,
    fill_rgb: tuple[float, float, float] = IMAGENET_MEAN_RGB,
) -> NDArray[np.uint8]:
    """Warp a box of an image to a canvas, with antialiased bilinear resampling.

    Args:
        image: uint8 RGB (H, W, 3).
        box_xyxy: The box (4,) in pixels of the image; it may reach beyond it.
        size_hw: Height and width of the canvas in pixels.
        fill_rgb: Colour in [0, 1] of what lies beyond the image.

    Returns:
        The canvas, uint8 RGB (h, w, 3).

    Raises:
        GeometryError: it is not such an image, or the box is not one or does not meet the image.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise GeometryError(f"expected a uint8 RGB image (H, W, 3), got {image.dtype} {image.shape}")
    x0, y0, x1, y1 = _meeting(box_xyxy, (image.shape[0], image.shape[1]))
    canvas = np.empty((*size_hw, 3), np.uint8)
    canvas[:] = np.rint(np.asarray(fill_rgb) * 255).clip(0, 255).astype(np.uint8)
    rows, columns = _seen(y0, y1, size_hw[0], image.shape[0]), _seen(x0, x1, size_hw[1], image.shape[1])
    if rows.points < 1 or columns.points < 1:
        return canvas
    patch = image[rows.pixels[:, None], columns.pixels]
    window = (columns.low, rows.low, columns.high, rows.high)
    warped = Image.fromarray(patch).resize((columns.points, rows.points), Image.Resampling.BILINEAR, box=window)
    canvas[rows.start : rows.start + rows.points, columns.start : columns.start + columns.points] = np.asarray(warped)
    return canvas


def crop_edges(box_xyxy: NDArray[Any], image_hw: tuple[int, int], size_hw: tuple[int, int]) -> Float[NDArray[np.float64], 4]:
    """Return what of a box's canvas is image, as a box (4,) on the canvas.

    Raises:
        GeometryError: the box is not one or does not meet the image.
    """
    x0, y0, x1, y1 = _meeting(box_xyxy, image_hw)
    scale = np.array([size_hw[1] / (x1 - x0), size_hw[0] / (y1 - y0)] * 2)
    inside = np.array([max(x0, 0.0), max(y0, 0.0), min(x1, image_hw[1]), min(y1, image_hw[0])])
    edges: NDArray[np.float64] = ((inside - [x0, y0, x0, y0]) * scale).clip(0, [size_hw[1], size_hw[0]] * 2)
    return edges


def _meeting(box_xyxy: NDArray[Any], image_hw: tuple[int, int]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = check_boxes(torch.from_numpy(np.array(box_xyxy, np.float64)[None]))[0].tolist()
    height, width = image_hw
    if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        raise GeometryError(
            f"expected a box that meets the image of {width} x {height} pixels, got {[x0, y0, x1, y1]}; leave such boxes out"
        )
    return x0, y0, x1, y1


class _Seen(NamedTuple):
    """The canvas pixels along an axis whose centres lie in the image, and what they are made from.

    Attributes:
        start: The first of them.
        points: How many there are.
        pixels: The image's pixels that their filters read, the outermost repeated.
        low: Where, in these pixels, the first canvas pixel begins.
        high: Where the last one ends.
    """

    start: int
    points: int
    pixels: NDArray[np.int64]
    low: float
    high: float


def _seen(low: float, high: float, canvas: int, image: int) -> _Seen:
    scale = (high - low) / canvas
    # Of pixel i the centre lies at low + (i + ½)·scale.
    start = max(0, math.ceil(-low / scale - 0.5))
    stop = min(canvas, math.ceil((image - low) / scale - 0.5))
    begin, end = low + start * scale, low + stop * scale
    # A pixel's filter reaches a pixel's width, on the coarser of the two grids, to both sides of its centre.
    reach = max(scale, 1.0)
    first, last = math.floor(begin - reach), math.ceil(end + reach)
    return _Seen(start, stop - start, np.arange(first, last).clip(0, image - 1), begin - first, end - first)
