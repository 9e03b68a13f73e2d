"""Where a heatmap is highest: one position a keypoint, finer than a heatmap pixel, with its score.

A parabola through the highest pixel and its two neighbours along each axis has its top between them; at the heatmap's rim there
is no such neighbour, and the pixel's own centre is taken along that axis. Blurred first, a heatmap is highest where most lies
within reach, not where a single pixel stands out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from hypercolumns.errors import GeometryError

__all__ = ["blur", "find_peaks"]


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


def blur(heatmaps: NDArray[Any], sigma: float, box_wh: tuple[float, float]) -> Float[NDArray[np.float64], "n s s"]:
    """Blur heatmaps over a box by a Gaussian that is round in the image; beyond the box there is nothing.

    Args:
        heatmaps: (n, S, S).
        sigma: Its width as a share of the box's longer side, ≥ 0; 0 blurs nothing.
        box_wh: Width and height of the box that the heatmaps lie over.

    Raises:
        GeometryError: sigma is out of range, or the box has no area.
    """
    values = np.asarray(heatmaps, np.float64)
    if not (0 <= sigma < np.inf and min(box_wh) > 0):
        raise GeometryError(f"expected sigma >= 0 and a box with an area, got {sigma} and {box_wh}")
    if not sigma:
        return values
    side = values.shape[-1]
    across, down = (_gaussian(side, sigma * max(box_wh) / length * side) for length in box_wh)
    blurred: NDArray[np.float64] = down @ values @ across.T
    return blurred


def _gaussian(side: int, sigma: float) -> NDArray[np.float64]:
    """Return how much each of S neighbouring pixels counts at each of them (S, S); σ in pixels."""
    places = np.arange(side)
    reach = np.arange(-side, side + 1)
    total = np.exp(-0.5 * (reach / sigma) ** 2).sum()
    weights: NDArray[np.float64] = np.exp(-0.5 * ((places[:, None] - places) / sigma) ** 2) / total
    return weights


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
