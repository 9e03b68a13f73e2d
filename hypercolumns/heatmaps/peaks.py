"""Where a heatmap is highest: one position a keypoint, finer than a heatmap pixel, with its score.

A parabola through the highest pixel and its two neighbours along each axis has its top between them; at the heatmap's rim there
is no such neighbour, and the pixel's own centre is taken along that axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from hypercolumns.errors import GeometryError

__all__ = ["find_peaks"]


def find_peaks(heatmaps: NDArray[Any]) -> tuple[Float[NDArray[np.float64], "n 2"], Float[NDArray[np.float64], " n"]]:
    """Find the highest position of each heatmap; of equal ones the first in reading order.

    Args:
        heatmaps: (n, S, S), finite.

    Returns:
        Positions (n, 2) as shares of the heatmap's width and height, in (0, 1), and the highest values (n,).

    Raises:
        GeometryError: another shape, or a value that is not finite.
    """
    values = np.asarray(heatmaps, np.float64)
    if values.ndim != 3 or values.shape[1] != values.shape[2] or not values.shape[1]:
        raise GeometryError(f"expected heatmaps (n, S, S), got {values.shape}")
    if not np.isfinite(values).all():
        raise GeometryError("expected finite heatmaps, got others")
    count, side, _ = values.shape
    number = np.arange(count)
    best = values.reshape(count, -1).argmax(axis=1)
    row, column = best // side, best % side
    down = _top(values[number, :, column], row)
    right = _top(values[number, row], column)
    positions = (np.stack([column + right, row + down], axis=1) + 0.5) / side
    return positions, values[number, row, column]


def _top(lines: NDArray[np.float64], place: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how far from its highest place (n,) the parabola of each line (n, S) has its top, within ±½."""
    side = lines.shape[1]
    number = np.arange(len(lines))
    inner = (place > 0) & (place < side - 1)
    before, after = lines[number, (place - 1).clip(0)], lines[number, (place + 1).clip(max=side - 1)]
    bend = before - 2 * lines[number, place] + after
    usable = inner & (bend < 0)
    shift: NDArray[np.float64] = np.where(usable, 0.5 * (before - after) / np.where(usable, bend, 1.0), 0.0)
    return shift.clip(-0.5, 0.5)
