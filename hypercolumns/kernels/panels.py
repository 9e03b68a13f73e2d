"""What `widening` and `spreading` do, for some channels (a panel of them) of one grid row: in kernels alone.

As few channels as that of all cells that a grid row reads stay in the nearest cache while its points pass by.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hypercolumns.kernels.lanes import LANES, add_product, load, load_some, spread, store, store_some
from hypercolumns.kernels.numbers import FLOATS, array_at, compiled

__all__ = ["CELL_FIELDS", "give_row", "mix_cells", "spread_points"]

CELL_FIELDS = ("cell_first", "cell_last", "cell_place", "cell_weights")
"""What kernels are told of which points read a cell."""


@compiled
def _some(array: Any, place: Any, left: Any) -> Any:
    """Read up to sixteen numbers, of which so many are left; the others are zero."""
    if left >= LANES:
        return load(array, place)
    return load_some(array, place, max(0, left))


@compiled
def mix_cells(cells: Any, widths: Any, rows: Any, channels: Any, first: Any, width: Any) -> None:
    """Write the cells that a grid row reads, of all maps: the weighted mean of two rows of each, of some channels.

    Args:
        cells: Of all maps, one after the other, `width` numbers each; channels beyond the last are zero.
        widths: Cells in a row of each map.
        rows: Addresses of the first row of each and of the second, and the weights of the second.
        channels: In a cell of a map.
        first: First of the channels.
        width: How many of them.
    """
    low, high, shares = rows
    valid = min(width, channels - first)
    place, whole = 0, LANES * (valid // LANES)
    for m in range(len(widths)):
        size = widths[m] * channels
        one, two = array_at(low[m], (size,), FLOATS), array_at(high[m], (size,), FLOATS)
        none, less, more = spread(np.float32(0)), spread(np.float32(1) - shares[m]), spread(shares[m])
        for there in range(first, size, channels):
            for i in range(0, whole, LANES):
                mixed = add_product(none, load(one, there + i), less)
                store(cells, place + i, add_product(mixed, load(two, there + i), more))
            for i in range(whole, width, LANES):
                mixed = add_product(none, _some(one, there + i, valid - i), less)
                store(cells, place + i, add_product(mixed, _some(two, there + i, valid - i), more))
            place += width


@compiled
def spread_points(cells: Any, gradient: Any, place: Any, step: Any, start: Any, taps: Any, readers: Any, width: Any) -> None:
    """Add to the gradient of cells what some points give: the transpose of how points sum cells up, cell by cell.

    Args:
        cells: Gradients of all maps' cells, `width` numbers each.
        gradient: Of points, from `place` on.
        place: Of the first of these.
        step: Numbers from one to the next.
        start: The first of them in the grid row.
        taps: First and second cells that they read (points, maps).
        readers: For each cell the first point that reads it, the one after the last, and where its weights begin; the weights.
        width: Of the panel.
    """
    lower, upper = taps
    firsts, lasts, places, weights = readers
    stop = start + len(lower)
    for m in range(lower.shape[1]):
        for cell in range(lower[0, m], upper[-1, m] + 1):
            first, last = max(firsts[cell], start), min(lasts[cell], stop)
            shares = weights[places[cell] + first - firsts[cell] :]
            _gather_cell(cells, cell * width, gradient, place + (first - start) * step, step, shares, last - first, width)


@compiled
def _gather_cell(cells: Any, there: Any, gradient: Any, place: Any, step: Any, shares: Any, count: Any, width: Any) -> None:
    if width == 4 * LANES:
        one, two = load(cells, there), load(cells, there + LANES)
        three, four = load(cells, there + 2 * LANES), load(cells, there + 3 * LANES)
        for x in range(count):
            share, point = spread(shares[x]), place + x * step
            one = add_product(one, load(gradient, point), share)
            two = add_product(two, load(gradient, point + LANES), share)
            three = add_product(three, load(gradient, point + 2 * LANES), share)
            four = add_product(four, load(gradient, point + 3 * LANES), share)
        store(cells, there, one)
        store(cells, there + LANES, two)
        store(cells, there + 2 * LANES, three)
        store(cells, there + 3 * LANES, four)
        return
    for i in range(0, width, LANES):
        total = load(cells, there + i)
        for x in range(count):
            total = add_product(total, load(gradient, place + x * step + i), spread(shares[x]))
        store(cells, there + i, total)


@compiled
def give_row(target: Any, source: Any, is_new: Any, cells: Any, sums: Any, readers: Any, shares: Any, width: Any) -> None:
    """Write what the cells of a map's row have been given, and grid rows give now: the transpose of `mix_cells`.

    Args:
        target: Numbers of the cells, where they are to be written; how many lie between two cells, and how many of one count.
        source: Numbers of the cells so far, `width` in each.
        is_new: Whether they have been given nothing yet.
        cells: How many.
        sums: What cells are given, for each grid row (rows, numbers), `width` in each.
        readers: The grid rows that read this row.
        shares: The weights that they read it with.
        width: Of the panel.
    """
    out, step, valid = target
    for cell in range(cells):
        for i in range(0, valid, LANES):
            total, there = spread(np.float32(0)), cell * width + i
            if not is_new:
                total = load(source, there)
            for t in range(len(readers)):
                total = add_product(total, load(sums[readers[t]], there), spread(shares[t]))
            if valid - i >= LANES:
                store(out, cell * step + i, total)
            else:
                store_some(out, cell * step + i, total, valid - i)
