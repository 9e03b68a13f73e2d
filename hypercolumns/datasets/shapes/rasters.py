"""From polygons to pixels: how much of every pixel each surface of a figure covers.

Polygons are filled on a finer grid and averaged down, so that colours blend at outlines while labels stay whole.
Nothing here draws at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from hypercolumns.datasets.shapes.primitives import FloatArray
from hypercolumns.datasets.shapes.textures import Float32Array

Box = tuple[int, int, int, int]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class Coverage:
    """What a group of polygons covers.

    Args:
        box: The part of the picture concerned (y0, x0, y1, x1), pixels.
        fractions: (k, y1 - y0, x1 - x0), the share of each pixel covered by each of k kinds of polygon.
    """

    box: Box
    fractions: Float32Array

    @property
    def total(self) -> Float32Array:
        """The share of each pixel that is covered at all."""
        return np.asarray(self.fractions.sum(axis=0), dtype=np.float32)


def cover(polygons_xy: Sequence[FloatArray], kinds: Sequence[int], image_hw: tuple[int, int]) -> Coverage | None:
    """Fill polygons, later ones over earlier ones, and measure what each kind covers.

    Args:
        polygons_xy: (n, 2) corners in pixels; the centre of the first pixel is at (0.5, 0.5).
        kinds: A number 0, 1, 2 ... for every polygon.
        image_hw: The picture's height and width; what lies outside is cut off.

    Returns:
        The coverage, or None where nothing lies within the picture.
    """
    corners = np.concatenate(polygons_xy)
    x0, y0 = (max(0, int(v)) for v in np.floor(corners.min(axis=0)))
    x1 = min(image_hw[1], int(np.ceil(corners[:, 0].max())) + 1)
    y1 = min(image_hw[0], int(np.ceil(corners[:, 1].max())) + 1)
    if x0 >= x1 or y0 >= y1:
        return None
    fine = 4 if max(image_hw) <= 256 else 2
    height, width = y1 - y0, x1 - x0
    canvas = Image.new("L", (width * fine, height * fine), 0)
    pen = ImageDraw.Draw(canvas)
    for polygon, kind in zip(polygons_xy, kinds, strict=True):
        # Pillow counts pixel centres as whole numbers: hence the half.
        fine_xy = (polygon - (x0, y0)) * fine - 0.5
        pen.polygon([(float(x), float(y)) for x, y in fine_xy], fill=kind + 1)
    painted = np.asarray(canvas)
    count = max(kinds) + 1
    fractions = np.empty((count, height, width), dtype=np.float32)
    for kind in range(count):
        hits = (painted == kind + 1).view(np.uint8)
        # Whole arrays are added many times as fast as the few numbers of a block.
        rows = reduce(np.add, [hits[shift::fine] for shift in range(fine)])
        fractions[kind] = reduce(np.add, [rows[:, shift::fine] for shift in range(fine)])
    fractions /= fine * fine
    return Coverage((y0, x0, y1, x1), fractions) if fractions.any() else None


def borders(labels: npt.NDArray[np.integer], reach: int) -> npt.NDArray[np.bool_]:
    """Find the pixels within `reach` (in rows and columns) of a pixel with another label.

    Args:
        labels: (h, w) labels.
        reach: Pixels, at least 1.
    """
    return np.asarray(extreme(labels, reach, np.maximum) != extreme(labels, reach, np.minimum))


def opened(mask: npt.NDArray[np.bool_], reach: int) -> npt.NDArray[np.bool_]:
    """Remove from a mask what is too thin to hold a square of side 2 · reach + 1."""
    return extreme(extreme(mask, reach, np.minimum), reach, np.maximum)


def extreme(values: npt.NDArray[T], reach: int, pick: np.ufunc) -> npt.NDArray[T]:
    """Slide a square window over values and keep its largest or smallest one; the edge's values go on outside."""
    for axis in (0, 1):
        wide = np.pad(values, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        length = values.shape[axis]
        result = np.take(wide, range(length), axis=axis)
        for shift in range(1, 2 * reach + 1):
            result = pick(result, wide[shift : shift + length] if axis == 0 else wide[:, shift : shift + length])
        values = result
    return values
