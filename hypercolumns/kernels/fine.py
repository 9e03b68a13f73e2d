"""Maps as fine as the grid, or finer, read at the points of a grid row: the inputs of a layer that is applied there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from hypercolumns.kernels.compiling import Compiled, callee
from hypercolumns.kernels.lanes import LANES, add_product, load, load_some, spread, store, store_some
from hypercolumns.kernels.numbers import FLOATS, LIKE, NUMBERS, array_at, call, compiled
from hypercolumns.kernels.plans import Widening
from hypercolumns.kernels.widening import check_pieces

__all__ = ["FineMaps", "read_fine"]

_TOLD = 12
"""Numbers that `read_fine` is told of each map."""


@dataclass(frozen=True, eq=False)
class FineMaps:
    """Maps of one image, and how the grid reads each.

    Attributes:
        maps: (h, w, C) each, in one piece, float32, bfloat16 or float16.
        plans: Of each by itself.
    """

    maps: Sequence[Tensor]
    plans: Sequence[Widening]

    @property
    def channels(self) -> int:
        """Of all maps together."""
        return sum(values.shape[2] for values in self.maps)

    def check(self, grid_hw: tuple[int, int]) -> None:
        """Refuse what would be read wrongly.

        Raises:
            ValueError: a map has another shape or type than its plan says, or does not lie in one piece.
        """
        for values, plan in zip(self.maps, self.plans, strict=True):
            if grid_hw != plan.grid_hw:
                raise ValueError(f"expected maps for a grid of {grid_hw}, got a plan for {plan.grid_hw}")
            if values.dtype not in LIKE:
                raise ValueError(f"expected maps of {', '.join(map(str, LIKE))}, got {values.dtype}")
            check_pieces(values.dtype, [values], plan.shapes(values.shape[2]))

    def table(self) -> np.ndarray:
        """Return what `read_fine` is told of each map. The plans must be kept alive."""
        rows, place = [], 0
        for values, plan in zip(self.maps, self.plans, strict=True):
            lower, upper, weights = plan.by_column
            arrays = (plan.rows.lower, plan.rows.upper, plan.rows.weights, lower, upper, weights)
            addresses = [array.ctypes.data for array in arrays]
            read = _READERS[values.dtype].address
            rows.append([read, values.data_ptr(), *values.shape[1:], place, *addresses, plan.is_plain])
            place += values.shape[2]
        return np.array(rows, np.int64).reshape(len(rows), _TOLD)


@compiled
def read_fine(out: Any, pitch: Any, columns: Any, y: Any, table: Any, count: Any) -> None:
    """Write the values of all maps at the points of a grid row, as float32; in kernels alone.

    Args:
        out: `pitch` numbers a point; those beyond the maps' stay as they are.
        pitch: From one point to the next.
        columns: Of the grid.
        y: Its row.
        table: Address of what `FineMaps.table` returns.
        count: How many maps there are.
    """
    for m in range(count):
        told = table + 8 * _TOLD * m
        call(array_at(told, (1,), NUMBERS)[0], (out.ctypes.data, pitch, columns, y, told))


def _reading(like: np.ndarray) -> Compiled:
    """Return what reads a map whose numbers are kept as those of an array."""

    @callee
    def read_map(there: int, pitch: int, columns: int, y: int, told_at: int) -> None:
        told, out = array_at(told_at, (_TOLD,), NUMBERS), array_at(there, (columns * pitch,), FLOATS)
        width, channels, place = told[2], told[3], told[4]
        row_lower, row_upper = array_at(told[5], (y + 1,), NUMBERS)[y], array_at(told[6], (y + 1,), NUMBERS)[y]
        size = width * channels
        low = array_at(told[1] + row_lower * size * like.itemsize, (size,), like)
        if told[11] and pitch == channels:
            _copy(out, 0, low, 0, size)
        elif told[11]:
            for x in range(columns):
                _copy(out, x * pitch + place, low, x * channels, channels)
        else:
            high = array_at(told[1] + row_upper * size * like.itemsize, (size,), like)
            down = array_at(told[7], (y + 1,), FLOATS)[y]
            lower, upper = array_at(told[8], (columns,), NUMBERS), array_at(told[9], (columns,), NUMBERS)
            shares = array_at(told[10], (columns,), FLOATS)
            for x in range(columns):
                cells = lower[x] * channels, upper[x] * channels
                _mix_point(out, x * pitch + place, low, high, cells, shares[x], down, channels)

    return read_map


@compiled
def _copy(out: Any, place: Any, row: Any, start: Any, count: Any) -> None:
    """Copy numbers, converting them."""
    whole = LANES * (count // LANES)
    for i in range(0, whole, LANES):
        store(out, place + i, load(row, start + i))
    if whole < count:
        store_some(out, place + whole, load_some(row, start + whole, count - whole), count - whole)


@compiled
def _mix_point(out: Any, place: Any, low: Any, high: Any, cells: Any, share: Any, down: Any, channels: Any) -> None:
    """Write the weighted mean of four cells: two of each row."""
    left, right = cells
    none, less, more = spread(np.float32(0)), spread(np.float32(1) - share), spread(share)
    upper, lower = spread(np.float32(1) - down), spread(down)
    for i in range(0, channels, LANES):
        some = min(LANES, channels - i)
        above = add_product(add_product(none, _some(low, left + i, some), less), _some(low, right + i, some), more)
        below = add_product(add_product(none, _some(high, left + i, some), less), _some(high, right + i, some), more)
        store_some(out, place + i, add_product(add_product(none, above, upper), below, lower), some)


@compiled
def _some(array: Any, place: Any, count: Any) -> Any:
    return load(array, place) if count == LANES else load_some(array, place, count)


_READERS = {kind: _reading(like) for kind, like in LIKE.items()}
