"""Read the responses of several maps at the points of some grid rows, and sum them up.

Every point has two cells on each axis of each map. A grid row first takes its share of two rows of each map, which stay in the
cache; each of its points then adds up two cells of each map, in registers, and is written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hypercolumns.geometry import AxisMap, grid_positions, linear_taps
from hypercolumns.kernels.lanes import LANES, add_product, load, load_some, positive, spread, store, store_some
from hypercolumns.kernels.numbers import FLOATS, LIKE, NUMBERS, array_at, compiled, take_ticket
from hypercolumns.kernels.team import Kernel, kernel

__all__ = [
    "PLAN_FIELDS",
    "Taps",
    "Widening",
    "add_widened",
    "can_read",
    "can_widen",
    "check_pieces",
    "mix_rows",
    "plan_taps",
    "read_rows",
    "tables",
]

PLAN_FIELDS = ("maps", "points", "widths", "row_lower", "row_upper", "row_weights", "lower", "upper", "weights")
"""What kernels are told of a plan."""

_GRID = ("addresses", "out", "out_pitch", "rows", "columns", "channels", "start")
_FIELDS = (*PLAN_FIELDS, *_GRID, "onto", "onto_pitch", "relu", "scratch")


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


def can_read(dtype: torch.dtype) -> bool:
    """Say whether maps of this type can be read into float32 and bfloat16."""
    return (dtype, torch.float32) in _KERNELS


def check_pieces(dtype: torch.dtype, tensors: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> None:
    """Refuse what a kernel would read or write wrongly, for it sees nothing but addresses.

    Raises:
        ValueError: a tensor has another shape or type, or does not lie in one piece.
    """
    if len(tensors) != len(shapes):
        raise ValueError(f"expected {len(shapes)} tensors, got {len(tensors)}")
    for tensor, shape in zip(tensors, shapes, strict=True):
        if tensor.device.type != "cpu" or tensor.is_neg():
            raise ValueError(f"expected numbers as they lie in the processor's memory, got a view or one of {tensor.device}")
        if tensor.shape != torch.Size(shape) or tensor.dtype != dtype or not tensor.is_contiguous():
            found = f"{tensor.dtype} {tuple(tensor.shape)}, strides {tensor.stride()}"
            raise ValueError(f"expected {dtype} {tuple(shape)} in one piece, got {found}")


def can_widen(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether there are kernels for responses of this type on this device."""
    return device.type == "cpu" and (dtype, dtype) in _KERNELS


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


def add_widened(
    out: Float[Tensor, "n x c"],
    responses: Sequence[Float[Tensor, "_ _ c"]],
    plan: Widening,
    start: int,
    onto: Float[Tensor, "n x c"] | Float[Tensor, " c"],
    *,
    relu: bool = False,
) -> None:
    """Add what grid rows read of responses to something, such as a bias.

    Args:
        out: The grid's rows from `start` on are written here: float32 or bfloat16, in one piece of memory, as all that follow.
        responses: Of each of the plan's maps, in the same type.
        plan: Of these maps.
        start: First grid row.
        onto: What they are added to, in the same type: for each point (it may be `out`), or the same for all.
        relu: Replace negative sums by zero.

    Raises:
        ValueError: a tensor has another shape or type, or does not lie in one piece.
    """
    rows, columns, channels = out.shape
    plan.check(columns, start, start + rows)
    added_to = out.shape[2:] if onto.dim() == 1 else out.shape
    check_pieces(out.dtype, [out, onto, *responses], [out.shape, added_to, *plan.shapes(channels)])
    pitch = channels if onto.dim() == 3 else 0
    _run(_KERNELS[out.dtype, out.dtype], out, responses, plan, start, onto=onto.data_ptr(), onto_pitch=pitch, relu=int(relu))


def read_rows(out: Float[Tensor, "n x c"], values: Float[Tensor, "_ _ c"], plan: Widening, start: int) -> None:
    """Read a map at the points of grid rows, and convert it.

    Args:
        out: The grid's rows from `start` on are written here, float32 or bfloat16: channels of tensors that lie in one piece.
        values: A map in one piece, float32, bfloat16 or float16.
        plan: Of this map.
        start: First grid row.

    Raises:
        ValueError: a tensor has another shape or type, or does not lie as said.
    """
    rows, columns, channels = out.shape
    plan.check(columns, start, start + rows)
    check_pieces(values.dtype, [values], plan.shapes(channels))
    pitch = out.stride(1)
    if (values.dtype, out.dtype) not in _KERNELS or out.stride() != (columns * pitch, pitch, 1) or pitch < channels:
        raise ValueError(f"expected channels of grid points in one piece, got {out.dtype}, strides {out.stride()}")
    zero = torch.zeros(channels, dtype=out.dtype)
    _run(_KERNELS[values.dtype, out.dtype], out, [values], plan, start, onto=zero.data_ptr(), onto_pitch=0, relu=0)


def _run(run: Kernel, out: Tensor, maps: Sequence[Tensor], plan: Widening, start: int, **others: int) -> None:
    rows, columns, channels = out.shape
    parts = min(torch.get_num_threads(), rows)
    scratch = torch.empty(parts, int(plan.columns.cells.sum()), channels, dtype=torch.float32, device="cpu")
    addresses = np.array([values.data_ptr() for values in maps], np.int64)
    run(
        parts,
        **plan.values(),
        addresses=addresses.ctypes.data,
        out=out.data_ptr(),
        out_pitch=out.stride(1),
        rows=rows,
        columns=columns,
        channels=channels,
        start=start,
        scratch=scratch.data_ptr(),
        **others,
    )


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


@compiled
def mix_rows(out: Any, start: Any, low: Any, high: Any, weight: Any) -> None:
    """Write the weighted mean of two rows from a place on."""
    none, first, second = spread(np.float32(0)), spread(np.float32(1) - weight), spread(weight)
    whole = LANES * (len(low) // LANES)
    rest = len(low) - whole
    for i in range(0, whole, LANES):
        store(out, start + i, add_product(add_product(none, load(low, i), first), load(high, i), second))
    if rest:
        mixed = add_product(none, load_some(low, whole, rest), first)
        store_some(out, start + whole, add_product(mixed, load_some(high, whole, rest), second), rest)


@compiled
def _take(total: Any, rows: Any, low: Any, high: Any, first: Any, second: Any) -> Any:
    return add_product(add_product(total, load(rows, low), first), load(rows, high), second)


@compiled
def _take_some(total: Any, rows: Any, low: Any, high: Any, first: Any, second: Any, count: Any) -> Any:
    return add_product(add_product(total, load_some(rows, low, count), first), load_some(rows, high, count), second)


@compiled
def _sum_point(out: Any, point: Any, onto: Any, there: Any, rows: Any, lower: Any, upper: Any, weights: Any, job: Any) -> None:
    """Add up a point's cells: four times sixteen channels at once, so that places and weights are reckoned for all of them."""
    maps, channels, relu = job.maps, job.channels, job.relu != 0
    fours, whole = 4 * LANES * (channels // (4 * LANES)), LANES * (channels // LANES)
    for i in range(0, fours, 4 * LANES):
        one, two = load(onto, there + i), load(onto, there + i + LANES)
        three, four = load(onto, there + i + 2 * LANES), load(onto, there + i + 3 * LANES)
        for m in range(maps):
            low, high = lower[m] * channels + i, upper[m] * channels + i
            first, second = spread(np.float32(1) - weights[m]), spread(weights[m])
            one = _take(one, rows, low, high, first, second)
            two = _take(two, rows, low + LANES, high + LANES, first, second)
            three = _take(three, rows, low + 2 * LANES, high + 2 * LANES, first, second)
            four = _take(four, rows, low + 3 * LANES, high + 3 * LANES, first, second)
        store(out, point + i, positive(one) if relu else one)
        store(out, point + i + LANES, positive(two) if relu else two)
        store(out, point + i + 2 * LANES, positive(three) if relu else three)
        store(out, point + i + 3 * LANES, positive(four) if relu else four)
    for i in range(fours, whole, LANES):
        total = load(onto, there + i)
        for m in range(maps):
            low, high = lower[m] * channels + i, upper[m] * channels + i
            total = _take(total, rows, low, high, spread(np.float32(1) - weights[m]), spread(weights[m]))
        store(out, point + i, positive(total) if relu else total)
    rest = channels - whole
    if rest:
        total = load_some(onto, there + whole, rest)
        for m in range(maps):
            low, high = lower[m] * channels + whole, upper[m] * channels + whole
            total = _take_some(total, rows, low, high, spread(np.float32(1) - weights[m]), spread(weights[m]), rest)
        store_some(out, point + whole, positive(total) if relu else total, rest)


@compiled
def _add_rows(job: Any, read: Any, written: Any, part: Any) -> None:
    widths, row_lower, row_upper, row_weights, lower, upper, weights = tables(job)
    parts, maps, count, columns, channels, start = job.parts, job.maps, job.rows, job.columns, job.channels, job.start
    addresses = array_at(job.addresses, (maps,), NUMBERS)
    out = array_at(job.out, (count * columns * job.out_pitch,), written)
    onto = array_at(job.onto, (count * columns * channels,), written)
    rows = array_at(job.scratch, (parts, widths.sum() * channels), FLOATS)[part]
    for y in range(count * part // parts, count * (part + 1) // parts):
        base = 0
        for m in range(maps):
            size = widths[m] * channels
            low = array_at(addresses[m] + row_lower[m, start + y] * size * read.itemsize, (size,), read)
            high = array_at(addresses[m] + row_upper[m, start + y] * size * read.itemsize, (size,), read)
            mix_rows(rows, base, low, high, row_weights[m, start + y])
            base += size
        for x in range(columns):
            point = y * columns + x
            there = point * job.onto_pitch
            _sum_point(out, point * job.out_pitch, onto, there, rows, lower[x], upper[x], weights[x], job)


def _adding(read: np.ndarray, written: np.ndarray) -> Kernel:
    @kernel(_FIELDS)
    def add(address: Any) -> None:
        job, part = numba.carray(address, 1)[0], take_ticket(address)
        while part < job.parts:
            _add_rows(job, read, written, part)
            part = take_ticket(address)

    return add


_KERNELS = {
    (read, written): _adding(LIKE[read], LIKE[written])
    for read in (torch.float32, torch.bfloat16, torch.float16)
    for written in (torch.float32, torch.bfloat16)
}
"""By the type that is read and the one that is written."""
