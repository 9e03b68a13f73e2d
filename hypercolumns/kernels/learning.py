"""The gradient of `classifying`: of both layers' weights, and of the responses, over which it is written.

Hidden units are reckoned again, unless they were kept, a panel of a grid row at a time; what they contribute to the weights and
what they give to the cells below is added up before the next panel begins. The gradient of a map's row is written over the row
as soon as no later grid row reads it. Each thread has sums of its own for the weights, and a place of its own for the gradient
of rows that other threads read too: all of it is added up afterwards, so that no two threads write to one place.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hypercolumns.kernels.borders import Borders
from hypercolumns.kernels.classifying import FIELDS, ROWS, Image, find_hidden, hidden_at, map_rows, points_up
from hypercolumns.kernels.fine import read_fine
from hypercolumns.kernels.lanes import LANES, add_product, keep_where_positive, load, load_some, spread, store
from hypercolumns.kernels.layers import Layers
from hypercolumns.kernels.numbers import FLOATS, NUMBERS, array_at, call, compiled, merged, take_ticket
from hypercolumns.kernels.panels import CELL_FIELDS, give_row, mix_cells, spread_points
from hypercolumns.kernels.plans import tables
from hypercolumns.kernels.team import kernel
from hypercolumns.kernels.tiles import BLOCK, TILE, add_outer, write_rows

__all__ = ["Learned"]

_GRADIENT = ("gradient", "gradient_y", "gradient_x", "gradient_k")
_SUMS = ("first_sums", "bias_sums", "second_sums", "second_bias_sums")
_FIELDS = (*FIELDS, *CELL_FIELDS, *_SUMS, *_GRADIENT, "given", "back", "cells", "places", "write_rows", "add_outer")


class Learned:
    """Gradients of the two layers, added up image by image.

    Args:
        layers: As the logits were made with.
    """

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._parts = parts = torch.get_num_threads()
        inputs = layers.bias.new_zeros
        self._first = inputs(parts, layers.panels, layers.pitch, layers.width)
        self._bias = inputs(parts, layers.panels * layers.width)
        self._second = inputs(parts, layers.panels, _blocks(layers.classes), layers.width)
        self._second_bias = inputs(parts, _lanes(layers.classes))

    def add(self, gradient: Float[Tensor, "y x k"], image: Image) -> None:
        """Add what an image contributes, and write the gradient of its responses over them.

        Args:
            gradient: Of its logits, however it lies.
            image: As they were made of.

        Raises:
            ValueError: a tensor has another shape or type, or does not lie in one piece.
        """
        if image.layers is not self._layers:
            raise ValueError("expected an image of the very layers whose gradients are added up, got another one's")
        image.check(gradient)
        layers, plan, (rows, columns) = self._layers, image.plan, gradient.shape[:2]
        cells, given = int(plan.columns.cells.sum()), _lanes(layers.classes) or layers.panels * layers.width
        parts = min(self._parts, rows)
        borders = Borders.of(image.responses, plan.rows, parts)
        room = cells * (1 + ROWS + 2 * layers.panels) + 2 * TILE
        image.run(
            _learn,
            gradient,
            parts,
            room * layers.width + ROWS * points_up(columns) * (given + layers.pitch),
            **dict(zip(CELL_FIELDS, (array.ctypes.data for array in plan.by_cell), strict=True)),
            first_sums=self._first.data_ptr(),
            bias_sums=self._bias.data_ptr(),
            second_sums=self._second.data_ptr(),
            second_bias_sums=self._second_bias.data_ptr(),
            gradient=gradient.data_ptr(),
            gradient_y=gradient.stride(0),
            gradient_x=gradient.stride(1),
            gradient_k=gradient.stride(2),
            given=given,
            back=0 if layers.back is None else layers.back.data_ptr(),
            cells=cells,
            places=borders.places.ctypes.data,
            write_rows=write_rows.address,
            add_outer=add_outer.address,
        )
        borders.add_up(image.responses)
        for values, unread in zip(image.responses, plan.unread, strict=True):
            if unread:
                values[unread] = 0

    @property
    def first(self) -> Float[Tensor, "h c"]:
        """The gradient of the first layer's weights."""
        return self._whole(self._first, self._layers.depth)

    @property
    def bias(self) -> Float[Tensor, " h"]:
        """The gradient of the first layer's bias."""
        return self._bias.sum(0)[: self._layers.channels]

    @property
    def second(self) -> Float[Tensor, "k h"]:
        """The gradient of the second layer's weights."""
        return self._whole(self._second, self._layers.classes).t().contiguous()

    @property
    def second_bias(self) -> Float[Tensor, " k"]:
        """The gradient of the second layer's bias."""
        return self._second_bias.sum(0)[: self._layers.classes]

    def _whole(self, sums: Float[Tensor, "parts panels rows width"], rows: int) -> Float[Tensor, "h rows"]:
        return sums.sum(0).transpose(1, 2).flatten(0, 1)[: self._layers.channels, :rows].contiguous()


def _blocks(count: int) -> int:
    return -(-count // BLOCK) * BLOCK


def _lanes(count: int) -> int:
    return -(-count // LANES) * LANES


@compiled
def _copy_gradient(job: Any, y: Any, outputs: Any, given: Any) -> None:
    """Copy the gradient of a row's logits to rows of whole lanes, the rest of which is zero."""
    step, between = job.gradient_x, job.gradient_k
    there = array_at(job.gradient + 4 * y * job.gradient_y, ((job.columns - 1) * step + (outputs - 1) * between + 1,), FLOATS)
    for x in range(job.columns):
        if between == 1:
            for i in range(0, outputs, LANES):
                store(given, x * job.given + i, load_some(there, x * step + i, min(LANES, outputs - i)))
        else:
            for k in range(outputs):
                given[x * job.given + k] = there[x * step + k * between]


@compiled
def _pad_gradient(job: Any, y: Any, given: Any, totals: Any) -> None:
    """Find the gradient of a row's logits, and add it to that of the second layer's bias."""
    given[:] = 0
    _copy_gradient(job, y, job.classes if job.classes else job.channels, given)
    one = spread(np.float32(1))
    for i in range(0, len(totals), LANES):
        total = spread(np.float32(0))
        for x in range(job.columns):
            total = add_product(total, load(given, x * job.given + i), one)
        # Sums of few are added to the sum of all, which loses less than adding one by one.
        store(totals, i, add_product(load(totals, i), total, one))


@compiled
def _mask_and_sum(gradient: Any, place: Any, step: Any, units: Any, bias: Any, width: Any, masked: Any) -> None:
    """Set the gradient of hidden units to zero where the ReLU was, and add it to that of the bias.

    Args:
        gradient: Of some points, from `place` on.
        place: Of the first.
        step: Numbers from one to the next.
        units: The units themselves, `width` numbers a point.
        bias: The panel's.
        width: Of the panel.
        masked: Whether there was a ReLU.
    """
    one = spread(np.float32(1))
    for i in range(0, width, LANES):
        total = spread(np.float32(0))
        for x in range(len(units) // width):
            value = load(gradient, place + x * step + i)
            if masked:
                value = keep_where_positive(value, load(units, x * width + i))
                store(gradient, place + x * step + i, value)
            total = add_product(total, value, one)
        store(bias, i, add_product(load(bias, i), total, one))


@compiled
def _blocks_of(count: Any) -> Any:
    return (count + BLOCK - 1) // BLOCK * BLOCK


@merged
def _learn_panel(job: Any, y: Any, panel: Any, values: Any, given: Any, sums: Any, totals: Any, room: Any) -> None:
    """Add up what a panel of a grid row's hidden units contributes to the weights, and gives to the cells that the row reads.

    Args:
        job: The kernel's.
        y: Row of the grid.
        panel: Which.
        values: The row's inputs.
        given: The gradient of its logits, in whole lanes.
        sums: Gradients of the cells; written.
        totals: Addresses of the sums of both layers' weights, and those of the first one's bias.
        room: Scratch.
    """
    _, _, _, _, lower, upper, _ = tables(job)
    cells, tile, ours, low, high, shares = room
    width, second_rows = job.width, _blocks_of(job.classes)
    first, second = totals[0] + 4 * panel * job.pitch * width, totals[1] + 4 * panel * second_rows * width
    bias = totals[2][panel * width : (panel + 1) * width]
    if job.classes and not job.hidden:
        map_rows(job, y, low, high, shares)
        mix_cells(cells, array_at(job.widths, (job.maps,), NUMBERS), (low, high, shares), job.channels, panel * width, width)
    hidden = hidden_at(job, y, panel, tile)
    sums[:] = 0
    for start in range(0, job.columns, TILE):
        stop, there = min(start + TILE, job.columns), start * width if job.hidden else 0
        count = stop - start
        units = hidden[there : there + count * width]
        gradient, place, step = given, start * job.given + panel * width, job.given
        if job.classes:
            if not job.hidden:
                find_hidden(job, panel, start, stop, cells, values, hidden, 0)
            from_logits, back = given.ctypes.data + 4 * start * job.given, job.back + 4 * panel * job.classes * width
            rows, logits = units.ctypes.data, (from_logits, job.given)
            call(job.add_outer, (second, width, second_rows, *logits, rows, width, count, width))
            call(job.write_rows, (ours.ctypes.data, width, count, *logits, back, width, job.classes, width))
            gradient, place, step = ours, 0, width
        _mask_and_sum(gradient, place, step, units, bias, width, job.classes > 0)
        if job.depth:
            inputs, points = values.ctypes.data + 4 * start * job.pitch, gradient.ctypes.data + 4 * place
            call(job.add_outer, (first, width, job.pitch, inputs, job.pitch, points, step, count, width))
        spread_points(sums, gradient, place, step, start, (lower[start:stop], upper[start:stop]), _readers(job), width)


@compiled
def _readers(job: Any) -> Any:
    first, last = array_at(job.cell_first, (job.cells,), NUMBERS), array_at(job.cell_last, (job.cells,), NUMBERS)
    weights = array_at(job.cell_weights, (2 * job.maps * job.columns,), FLOATS)
    return first, last, array_at(job.cell_place, (job.cells,), NUMBERS), weights


@merged
def _give_panel(job: Any, part: Any, first: Any, rows: Any, panel: Any, sums: Any, window: Any) -> None:
    """Add up the gradient of the maps' rows that some grid rows read; those that no later one reads are written to their place.

    Args:
        job: The kernel's.
        part: The thread's.
        first: First of the grid rows.
        rows: How many.
        panel: Of the channels.
        sums: Gradients of the cells, for each grid row.
        window: Room for two rows of each map, which wait for the next grid rows.
    """
    widths, row_lower, row_upper, row_weights, _, _, _ = tables(job)
    begin, width, channels = 0, job.width, job.channels
    readers, shares = np.empty(2 * ROWS, np.int64), np.empty(2 * ROWS, np.float32)
    valid = min(width, channels - panel * width)
    part_start, part_stop = job.rows * part // job.parts, job.rows * (part + 1) // job.parts
    for m in range(job.maps):
        size, ours = widths[m] * width, sums[:, begin:]
        last = row_upper[m, first + rows - 1]
        following = row_lower[m, first + rows] if first + rows < part_stop else last + 1
        for row in range(row_lower[m, first], last + 1):
            count = 0
            for y in range(rows):
                share = row_weights[m, first + y]
                if row_lower[m, first + y] == row:
                    readers[count], shares[count], count = y, np.float32(1) - share, count + 1
                if row_upper[m, first + y] == row:
                    readers[count], shares[count], count = y, share, count + 1
            if count:
                is_new = first == part_start or row > row_upper[m, first - 1]
                source = window[row % 2, begin : begin + size]
                target = source, width, width
                if row < following:
                    there = array_at(_place(job, part, m, row, widths[m]), (widths[m] * channels,), FLOATS)
                    target = there[panel * width :], channels, valid
                give_row(target, source, is_new, widths[m], ours, readers[:count], shares[:count], width)
        begin += size


@compiled
def _place(job: Any, part: Any, m: Any, row: Any, cells: Any) -> Any:
    """Return the address of where the gradient of a map's row belongs."""
    low, first, last, ours = array_at(job.places, (job.parts, job.maps, 4), NUMBERS)[part, m]
    size = 4 * cells * job.channels
    if first <= row <= last:
        return array_at(job.addresses, (job.maps,), NUMBERS)[m] + row * size
    return ours + (row - low if row < first else first - low + row - last - 1) * size


@merged
def _learn_rows(job: Any, part: Any) -> None:
    width, maps, panels, up = job.width, job.maps, job.panels, (job.columns + TILE - 1) // TILE * TILE
    size, tile = job.cells * width, TILE * width
    scratch = array_at(job.scratch + 4 * part * job.scratch_size, (job.scratch_size,), FLOATS)
    sums, rest = scratch[: ROWS * size].reshape(ROWS, size), scratch[ROWS * size :]
    window, rest = rest[: 2 * panels * size].reshape(panels, 2, size), rest[2 * panels * size :]
    given, rest = rest[: ROWS * up * job.given].reshape(ROWS, up * job.given), rest[ROWS * up * job.given :]
    values, rest = rest[: ROWS * up * job.pitch].reshape(ROWS, up * job.pitch), rest[ROWS * up * job.pitch :]
    rows_of_maps = np.empty(maps, np.int64), np.empty(maps, np.int64), np.empty(maps, np.float32)
    room = rest[:size], rest[size : size + tile], rest[size + tile :], *rows_of_maps
    totals = (
        job.first_sums + 4 * part * panels * job.pitch * width,
        job.second_sums + 4 * part * panels * _blocks_of(job.classes) * width,
        array_at(job.bias_sums + 4 * part * panels * width, (panels * width,), FLOATS),
    )
    lanes = (job.classes + LANES - 1) // LANES * LANES
    second_bias = array_at(job.second_bias_sums + 4 * part * lanes, (lanes,), FLOATS)
    values[:] = 0
    stop = job.rows * (part + 1) // job.parts
    for first in range(job.rows * part // job.parts, stop, ROWS):
        rows = min(ROWS, stop - first)
        for row in range(rows):
            _pad_gradient(job, first + row, given[row], second_bias)
            read_fine(values[row], job.pitch, job.columns, first + row, job.fine, job.fine_maps)
        for panel in range(panels):
            for row in range(rows):
                _learn_panel(job, first + row, panel, values[row], given[row], sums[row], totals, room)
            _give_panel(job, part, first, rows, panel, sums, window[panel])


@kernel(_FIELDS)
def _learn(address: Any) -> None:
    job, part = numba.carray(address, 1)[0], take_ticket(address)
    while part < job.parts:
        _learn_rows(job, part)
        part = take_ticket(address)
