"""Which of a grid of K x K classifiers each pixel of a heatmap hears.

A pixel interpolates between the classifiers above and below, left and right of it. Runs of heatmap rows, and of columns, have
the same two neighbours: where a run of rows crosses one of columns, four classifiers serve all pixels, whatever K is. At the
heatmap's edge some of the four have no weight; to leave them out would make more, smaller pieces, which takes longer.

Nothing here knows maps or weights. Source: Hariharan et al., CVPR 2015, sec. 3 (interpolation between classifiers of a grid).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from hypercolumns.errors import GeometryError
from hypercolumns.geometry import axis_map, grid_positions, linear_taps

__all__ = ["GridPlan", "Run", "nearest_cells", "plan_grid"]


@dataclass(frozen=True)
class Run:
    """Heatmap rows (or columns) start to stop, which lie between grid row (or column) `cell` and the next one."""

    start: int
    stop: int
    cell: int

    @property
    def pixels(self) -> slice:
        """The rows or columns."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class GridPlan:
    """How a heatmap of S x S pixels hears K x K classifiers.

    Attributes:
        grid: K.
        side: S.
        reach: Neighbouring classifiers heard along an axis: two, or one where K is 1.
        runs: The runs of an axis; together they hold each row or column once.
        cells: The first classifier of each row or column (S,).
        weights: α of the heard classifiers, above before below and left before right (S, S, reach²), float32.
    """

    grid: int
    side: int
    reach: int
    runs: tuple[Run, ...]
    cells: Tensor
    weights: Tensor

    @property
    def heard(self) -> tuple[int, ...]:
        """How much the number ky·K + kx of each heard classifier exceeds that of the first one."""
        return tuple(down * self.grid + right for down in range(self.reach) for right in range(self.reach))


@lru_cache(maxsize=32)
def plan_grid(grid: int, side: int) -> GridPlan:
    """Plan a heatmap of side S under a grid of K x K classifiers.

    Raises:
        GeometryError: K or S is not positive.
    """
    if grid < 1 or side < 1:
        raise GeometryError(f"expected a grid and a heatmap of at least 1 x 1, got K = {grid} and S = {side}")
    cells, _, upper = linear_taps(grid_positions(side, 1), axis_map(side, grid))
    shares = torch.stack([1 - upper, upper], dim=1) if grid > 1 else torch.ones(side, 1, dtype=torch.float64)
    weights = shares[:, None, :, None] * shares[None, :, None, :]
    changes = (cells[1:] != cells[:-1]).nonzero()[:, 0] + 1
    runs = tuple(Run(start, stop, int(cells[start])) for start, stop in pairwise([0, *changes.tolist(), side]))
    return GridPlan(grid, side, shares.shape[1], runs, cells, weights.flatten(2).float())


def nearest_cells(grid: int, side: int) -> Tensor:
    """Return the classifier in whose cell each heatmap pixel lies (S²,): pixel y lies in cell ⌊(y+½)·K/S⌋.

    Raises:
        GeometryError: K or S is not positive.
    """
    if grid < 1 or side < 1:
        raise GeometryError(f"expected a grid and a heatmap of at least 1 x 1, got K = {grid} and S = {side}")
    # In whole numbers, lest a boundary be rounded to the wrong side.
    cells = (2 * torch.arange(side) + 1) * grid // (2 * side)
    return (cells[:, None] * grid + cells).flatten()
