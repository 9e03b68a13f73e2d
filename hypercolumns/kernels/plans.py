"""How a grid reads maps: which two cells of each axis every point reads, and with which weights; looked up in several ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hypercolumns.geometry import AxisMap, grid_positions, linear_taps
from hypercolumns.kernels.numbers import FLOATS, NUMBERS, array_at, compiled

__all__ = ["PLAN_FIELDS", "Taps", "Widening", "plan_taps", "tables"]

PLAN_FIELDS = ("maps", "points", "widths", "row_lower", "row_upper", "row_weights", "lower", "upper", "weights")
"""What kernels are told of a plan."""


@dataclass(frozen=True, eq=False)
class Taps:
    """Where the points of an axis of the grid read each of some maps.

    Attributes:
        cells: Of the axis, in each map.
        lower: First cell that a point reads (maps, points).
        upper: Second cell.
        weights: Of the second cell, float32. A cell of no weight is not read: both are the other one then.
    """

    cells: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    weights: np.ndarray

    def needed(self, start: int, stop: int) -> list[slice]:
        """Return which cells of each map some points read."""
        firsts, lasts = self.lower[:, start].tolist(), self.upper[:, stop - 1].tolist()
        return [slice(first, last + 1) for first, last in zip(firsts, lasts, strict=True)]


@dataclass(frozen=True, eq=False)
class Widening:
    """How a grid reads some maps: its rows and its columns."""

    rows: Taps
    columns: Taps

    @cached_property
    def is_plain(self) -> bool:
        """Whether each point of the grid reads one cell of its own, of the one map that there is."""
        return len(self.rows.cells) == 1 and all(
            taps.cells[0] == taps.lower.shape[1]
            and (taps.lower == taps.upper).all()
            and (taps.lower[0] == np.arange(taps.lower.shape[1])).all()
            for taps in (self.rows, self.columns)
        )

    @cached_property
    def by_column(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What each column of the grid reads of a row of all maps, one map after the other: lower, upper and weights."""
        base = np.cumsum(self.columns.cells) - self.columns.cells
        lower, upper = (np.ascontiguousarray(cells.T + base) for cells in (self.columns.lower, self.columns.upper))
        return lower, upper, np.ascontiguousarray(self.columns.weights.T)

    @cached_property
    def by_cell(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Who reads each cell of a row of all maps.

        The first column of the grid, the one after the last, where the weights of these columns begin, and the weights.
        """
        lower, upper, weights = self.by_column
        shares = np.zeros((int(self.columns.cells.sum()), len(lower)), np.float32)
        read = np.zeros(shares.shape, bool)
        for cells, share in ((lower, np.float32(1) - weights), (upper, weights)):
            there = cells, np.arange(len(cells))[:, None]
            np.add.at(shares, there, share)
            read[there] = True
        first = read.argmax(axis=1)
        last = np.where(read.any(axis=1), len(lower) - read[:, ::-1].argmax(axis=1), first)
        pieces = [row[start:stop] for row, start, stop in zip(shares, first.tolist(), last.tolist(), strict=True)]
        return first, last, np.cumsum(last - first) - (last - first), np.concatenate([np.empty(0, np.float32), *pieces])

    def by_group(self, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which cells of a row of all maps each group of so many neighbouring columns of the grid reads.

        Returns:
            Where the cells of each group begin in what follows (and, last, how many there are); the cells, in order; the
            weights that each column of the group reads each of them with, float32 (cells, points).
        """
        if points not in self._groups:
            self._groups[points] = self._grouped(points)
        return self._groups[points]

    @cached_property
    def _groups(self) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return {}

    def _grouped(self, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        lower, upper, weights = self.by_column
        cells, shares = [], []
        for start in range(0, len(lower), points):
            low, high, more = lower[start : start + points], upper[start : start + points], weights[start : start + points]
            read = np.unique(np.concatenate([low.ravel(), high.ravel()]))
            found = np.zeros((len(read), points), np.float32)
            columns = np.arange(len(low))[:, None]
            np.add.at(found, (np.searchsorted(read, low), columns), np.float32(1) - more)
            np.add.at(found, (np.searchsorted(read, high), columns), more)
            cells.append(read)
            shares.append(found)
        begins = np.cumsum([0, *map(len, cells)], dtype=np.int64)
        return (
            begins,
            np.concatenate([np.empty(0, np.int64), *cells]),
            np.concatenate([np.empty((0, points), np.float32), *shares]),
        )

    @cached_property
    def unread(self) -> list[list[int]]:
        """The rows of each map that no row of the grid reads."""
        read = zip(self.rows.lower, self.rows.upper, self.rows.cells.tolist(), strict=True)
        return [sorted(set(range(cells)) - {*lower.tolist(), *upper.tolist()}) for lower, upper, cells in read]

    def shapes(self, channels: int) -> list[tuple[int, int, int]]:
        """Return the shapes of the maps."""
        cells = zip(self.rows.cells.tolist(), self.columns.cells.tolist(), strict=True)
        return [(height, width, channels) for height, width in cells]

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Points of the grid."""
        return self.rows.lower.shape[1], self.columns.lower.shape[1]

    def check(self, columns: int, start: int, stop: int) -> None:
        """Refuse rows that are not the grid's.

        Raises:
            ValueError: they are not, or have another number of columns.
        """
        height, width = self.grid_hw
        if columns != width or not 0 <= start <= stop <= height:
            raise ValueError(f"expected rows of {width} columns from 0 to {height}, got {columns} from {start} to {stop}")

    def values(self) -> dict[str, int]:
        """Return what kernels are told (`PLAN_FIELDS`)."""
        rows = self.rows
        arrays = (self.columns.cells, rows.lower, rows.upper, rows.weights, *self.by_column)
        return dict(zip(PLAN_FIELDS, (*rows.lower.shape, *(array.ctypes.data for array in arrays)), strict=True))


def plan_taps(axes: Sequence[AxisMap], count: int, stride_px: int) -> Taps:
    """Find what the grid positions s·(j+½) read of an axis of each map.

    Args:
        axes: One for each map.
        count: Points of the grid along it.
        stride_px: Output stride s.
    """
    lower, upper, weights = (np.zeros((len(axes), count), kind) for kind in (np.int64, np.int64, np.float32))
    for number, axis in enumerate(axes):
        first, second, exact = linear_taps(grid_positions(count, stride_px), axis)
        weight = exact.float()
        lower[number] = torch.where(weight < 1, first, second)
        upper[number] = torch.where(weight > 0, second, first)
        weights[number] = weight
    return Taps(np.array([axis.cells for axis in axes], np.int64), lower, upper, weights)


@compiled
def tables(job: Any) -> Any:
    """Return the arrays of a plan; in kernels alone."""
    maps, points, columns = job.maps, job.points, job.columns
    return (
        array_at(job.widths, (maps,), NUMBERS),
        array_at(job.row_lower, (maps, points), NUMBERS),
        array_at(job.row_upper, (maps, points), NUMBERS),
        array_at(job.row_weights, (maps, points), FLOATS),
        array_at(job.lower, (columns, maps), NUMBERS),
        array_at(job.upper, (columns, maps), NUMBERS),
        array_at(job.weights, (columns, maps), FLOATS),
    )
