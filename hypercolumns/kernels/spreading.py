"""Spread the gradient of some grid rows back to the responses that they were read from: the transpose of `widening`.

A thread's rows give to rows of its own, which are added up afterwards: sums then depend on the number of threads at most, and
no two threads write to one place.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hypercolumns.kernels.lanes import LANES, add_product, keep_where_positive, load, load_some, spread, store, store_some
from hypercolumns.kernels.numbers import FLOATS, LIKE, NUMBERS, array_at, compiled, take_ticket
from hypercolumns.kernels.plans import PLAN_FIELDS, Widening, tables
from hypercolumns.kernels.team import Kernel, kernel
from hypercolumns.kernels.widening import check_pieces

__all__ = ["spread_back"]

_FIELDS = (*PLAN_FIELDS, "addresses", "gradient", "rows", "columns", "channels", "start", "active", "firsts", "bias", "scratch")


def spread_back(
    gradient: Float[Tensor, "n x c"], plan: Widening, start: int, active: Float[Tensor, "n x c"] | None = None
) -> tuple[list[list[tuple[slice, Float[Tensor, "_ _ c"]]]], Float[Tensor, " c"]]:
    """Return the gradients of responses, given that of what `add_widened` made of them.

    Args:
        gradient: Of the grid's rows from `start` on, float32 or bfloat16, in one piece of memory; where `active` is not above
            zero, it is set to zero.
        plan: As there.
        start: First grid row.
        active: What came out after the ReLU, of the same type; none where there was none.

    Returns:
        For each map, from the first row to the last, which of its rows some grid rows read and the gradient these give them
        (a row may be read by several, whose gradients are to be added); and the gradient of the bias. All float32.

    Raises:
        ValueError: a tensor has another shape or type, or does not lie in one piece.
    """
    rows, columns, channels = gradient.shape
    plan.check(columns, start, start + rows)
    given = [gradient] if active is None else [gradient, active]
    check_pieces(gradient.dtype, given, [gradient.shape] * len(given))
    parts = min(torch.get_num_threads(), rows)
    bounds = [start + rows * part // parts for part in range(parts + 1)]
    needed = [plan.rows.needed(first, last) for first, last in pairwise(bounds)]
    widths = plan.columns.cells.tolist()
    # Whatever type or device new tensors have by default.
    zeros = partial(torch.zeros, dtype=torch.float32, device="cpu")
    cells = [cells for part in needed for cells in part]
    shapes = [(rows.stop - rows.start, width, channels) for rows, width in zip(cells, widths * parts, strict=True)]
    sizes = [math.prod(shape) for shape in shapes]
    found = [part.view(shape) for part, shape in zip(torch.split(zeros(sum(sizes)), sizes), shapes, strict=True)]
    bias, scratch = zeros(parts, channels), zeros(parts, sum(widths) + 1, channels)
    firsts = np.array([rows.start for rows in cells], np.int64)
    addresses = np.array([values.data_ptr() for values in found], np.int64)
    _KERNELS[gradient.dtype](
        parts,
        **plan.values(),
        addresses=addresses.ctypes.data,
        gradient=gradient.data_ptr(),
        rows=rows,
        columns=columns,
        channels=channels,
        start=start,
        active=0 if active is None else active.data_ptr(),
        firsts=firsts.ctypes.data,
        bias=bias.data_ptr(),
        scratch=scratch.data_ptr(),
    )
    pieces = list(zip(cells, found, strict=True))
    return [pieces[number :: len(widths)] for number in range(len(widths))], bias.sum(0)


@compiled
def _give(rows: Any, place: Any, value: Any, share: Any) -> None:
    store(rows, place, add_product(load(rows, place), value, share))


@compiled
def _give_some(rows: Any, place: Any, value: Any, share: Any, count: Any) -> None:
    store_some(rows, place, add_product(load_some(rows, place, count), value, share), count)


@compiled
def _spread_row(row: Any, start: Any, low: Any, high: Any, weight: Any) -> None:
    """Give a row, from a place on, to two rows of a map."""
    first, second, whole = spread(np.float32(1) - weight), spread(weight), LANES * (len(low) // LANES)
    rest = len(low) - whole
    for i in range(0, whole, LANES):
        value = load(row, start + i)
        _give(low, i, value, first)
        _give(high, i, value, second)
    if rest:
        value = load_some(row, start + whole, rest)
        _give_some(low, whole, value, first, rest)
        _give_some(high, whole, value, second, rest)


@compiled
def _spread_point(gradient: Any, active: Any, point: Any, rows: Any, lower: Any, upper: Any, weights: Any, job: Any) -> None:
    """Give a point's gradient to its cells, and to the sum behind them."""
    maps, channels, masked, one = job.maps, job.channels, job.active != 0, spread(np.float32(1))
    total, whole = len(rows) - channels, LANES * (channels // LANES)
    rest = channels - whole
    for i in range(0, whole, LANES):
        value = load(gradient, point + i)
        if masked:
            value = keep_where_positive(value, load(active, point + i))
            store(gradient, point + i, value)
        _give(rows, total + i, value, one)
        for m in range(maps):
            _give(rows, lower[m] * channels + i, value, spread(np.float32(1) - weights[m]))
            _give(rows, upper[m] * channels + i, value, spread(weights[m]))
    if rest:
        value = load_some(gradient, point + whole, rest)
        if masked:
            value = keep_where_positive(value, load_some(active, point + whole, rest))
            store_some(gradient, point + whole, value, rest)
        _give_some(rows, total + whole, value, one, rest)
        for m in range(maps):
            _give_some(rows, lower[m] * channels + whole, value, spread(np.float32(1) - weights[m]), rest)
            _give_some(rows, upper[m] * channels + whole, value, spread(weights[m]), rest)


@compiled
def _spread_rows(job: Any, like: Any, part: Any) -> None:
    widths, row_lower, row_upper, row_weights, lower, upper, weights = tables(job)
    parts, maps, count, columns, channels, start = job.parts, job.maps, job.rows, job.columns, job.channels, job.start
    gradient = array_at(job.gradient, (count * columns * channels,), like)
    active = array_at(job.active, (count * columns * channels,), like)
    firsts = array_at(job.firsts, (parts, maps), NUMBERS)[part]
    found = array_at(job.addresses, (parts, maps), NUMBERS)[part]
    bias = array_at(job.bias, (parts, channels), FLOATS)[part]
    rows = array_at(job.scratch, (parts, (widths.sum() + 1) * channels), FLOATS)[part]
    for y in range(count * part // parts, count * (part + 1) // parts):
        rows[:] = 0
        for x in range(columns):
            _spread_point(gradient, active, (y * columns + x) * channels, rows, lower[x], upper[x], weights[x], job)
        for c in range(channels):
            bias[c] += rows[len(rows) - channels + c]
        base = 0
        for m in range(maps):
            size = widths[m] * channels
            low, high = row_lower[m, start + y] - firsts[m], row_upper[m, start + y] - firsts[m]
            ours = array_at(found[m], (high + 1, size), FLOATS)
            _spread_row(rows, base, ours[low], ours[high], row_weights[m, start + y])
            base += size


def _spreading(like: np.ndarray) -> Kernel:
    @kernel(_FIELDS)
    def spread(address: Any) -> None:
        job, part = numba.carray(address, 1)[0], take_ticket(address)
        while part < job.parts:
            _spread_rows(job, like, part)
            part = take_ticket(address)

    return spread


_KERNELS = {kind: _spreading(LIKE[kind]) for kind in (torch.float32, torch.bfloat16)}
