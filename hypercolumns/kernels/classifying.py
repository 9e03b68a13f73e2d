"""Classify the points of some grid rows: upsample, sum, ReLU and the second linear layer, a panel of channels at a time.

For each grid row and each panel of the hidden units: the cells that the row reads are mixed of two rows of each map, every
point adds up its own, the product of the fine maps is added in registers (`tiles`), and the ReLU's result is multiplied into
the logits at once. Hidden units are never written to memory, unless they are to be kept for the gradient (`learning`).

A number that is not finite in a cell of a coarse map spreads to all points of each group (`tiles.group_of`) that reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hypercolumns.kernels.fine import FineMaps, read_fine
from hypercolumns.kernels.lanes import LANES, load, store, store_some
from hypercolumns.kernels.layers import Layers
from hypercolumns.kernels.numbers import FLOATS, NUMBERS, array_at, call, compiled, merged, take_ticket
from hypercolumns.kernels.panels import mix_cells
from hypercolumns.kernels.plans import PLAN_FIELDS, Widening, tables
from hypercolumns.kernels.team import Kernel, kernel
from hypercolumns.kernels.tiles import TILE, add_rows, group_of, sum_rows
from hypercolumns.kernels.widening import check_pieces

__all__ = [
    "FIELDS",
    "ROWS",
    "Image",
    "classify_image",
    "find_hidden",
    "hidden_at",
    "hidden_like",
    "map_rows",
    "points_up",
]

ROWS = 2
"""Grid rows at a time: they share most rows of coarse maps, and the weights of a panel."""

FIELDS = (
    *PLAN_FIELDS,
    *("channels", "width", "panels", "depth", "pitch", "first", "bias", "classes", "out_width", "out_panels"),
    *("group_begins", "group_cells", "group_shares"),
    *("addresses", "fine", "fine_maps", "rows", "columns"),
    *("hidden", "scratch", "scratch_size"),
    "sum_rows",
)
"""What the kernels of both directions are told: the plan, the layers, the image and where there is room."""


def points_up(columns: int) -> int:
    """Return the points of a grid row, padded to whole tiles."""
    return -(-columns // TILE) * TILE


def hidden_like(layers: Layers, grid_hw: tuple[int, int]) -> Float[Tensor, "y panels x width"]:
    """Return room for the hidden units of an image."""
    return layers.bias.new_empty(grid_hw[0], layers.panels, points_up(grid_hw[1]), layers.width)


@dataclass(frozen=True, eq=False)
class Image:
    """One image, as the kernels of both directions see it.

    Attributes:
        layers: The two layers.
        fine: Maps that the first layer is still to be applied to.
        responses: Of each of the plan's maps, the first layer's (h, w, H), float32, in one piece.
        plan: Of these maps.
        hidden: Hidden units that are kept, or to be kept; None where they are reckoned again.
    """

    layers: Layers
    fine: FineMaps
    responses: Sequence[Tensor]
    plan: Widening
    hidden: Tensor | None

    def run(self, kernel: Kernel, logits: Tensor, parts: int, room: int, /, **others: int) -> None:
        """Call a kernel.

        Args:
            kernel: Whose fields begin with `FIELDS`.
            logits: Of the image (y, x, K), or their gradient, which have been checked (`check`).
            parts: How many threads share the grid rows. Asked for once by the caller: others may change it at any time.
            room: Numbers of scratch that each thread wants.
            others: The rest of its fields.
        """
        layers, (rows, columns) = self.layers, logits.shape[:2]
        scratch, table = torch.empty(parts, room, dtype=torch.float32, device="cpu"), self.fine.table()
        addresses = np.array([values.data_ptr() for values in self.responses], np.int64)
        out_panels, out_width = layers.out_shape
        begins, cells, shares = self.plan.by_group(group_of(layers.width))
        kernel(
            parts,
            **self.plan.values(),
            channels=layers.channels,
            width=layers.width,
            panels=layers.panels,
            depth=layers.depth,
            pitch=layers.pitch,
            first=layers.first.data_ptr(),
            bias=layers.bias.data_ptr(),
            classes=layers.classes,
            out_width=out_width,
            out_panels=out_panels,
            group_begins=begins.ctypes.data,
            group_cells=cells.ctypes.data,
            group_shares=shares.ctypes.data,
            addresses=addresses.ctypes.data,
            fine=table.ctypes.data,
            fine_maps=len(table),
            rows=rows,
            columns=columns,
            hidden=0 if self.hidden is None else self.hidden.data_ptr(),
            scratch=scratch.data_ptr(),
            scratch_size=room,
            sum_rows=sum_rows.address,
            **others,
        )

    def check(self, logits: Tensor) -> None:
        """Refuse what a kernel would read or write wrongly.

        Args:
            logits: Of the image (y, x, K), or their gradient, however they lie.

        Raises:
            ValueError: a tensor has another shape or type, or does not lie in one piece.
        """
        layers = self.layers
        grid_hw = logits.shape[0], logits.shape[1]
        if grid_hw != self.plan.grid_hw:
            raise ValueError(f"expected a grid of {self.plan.grid_hw}, got {grid_hw}")
        self.fine.check(grid_hw)
        if self.fine.channels != layers.depth:
            raise ValueError(f"expected fine maps of {layers.depth} channels, got {self.fine.channels}")
        wanted = (*grid_hw, layers.classes or layers.channels)
        if tuple(logits.shape) != wanted or logits.dtype != torch.float32 or logits.device.type != "cpu" or logits.is_neg():
            raise ValueError(f"expected float32 {wanted} in the processor's memory, got {logits.dtype} {tuple(logits.shape)}")
        check_pieces(torch.float32, self.responses, self.plan.shapes(layers.channels))
        if self.hidden is not None:
            check_pieces(torch.float32, [self.hidden], [(grid_hw[0], layers.panels, points_up(grid_hw[1]), layers.width)])


def classify_image(logits: Float[Tensor, "y x k"], image: Image) -> None:
    """Write the logits of an image, and its hidden units if they are to be kept.

    Raises:
        ValueError: a tensor has another shape or type, or does not lie in one piece.
    """
    image.check(logits)
    check_pieces(torch.float32, [logits], [logits.shape])
    layers, points = image.layers, (ROWS if image.layers.panels > 1 else 1) * points_up(logits.shape[1])
    panels, width = layers.out_shape
    image.run(
        _classify,
        logits,
        min(torch.get_num_threads(), len(logits)),
        (int(image.plan.columns.cells.sum()) + TILE) * layers.width + points * (panels * width + layers.pitch),
        second=0 if layers.second is None else layers.second.data_ptr(),
        second_bias=0 if layers.second_bias is None else layers.second_bias.data_ptr(),
        logits=logits.data_ptr(),
        add_rows=add_rows.address,
    )


@merged
def map_rows(job: Any, y: Any, low: Any, high: Any, shares: Any) -> None:
    """Find the two rows of each map that a grid row reads: their addresses, and the weights of the second ones."""
    widths, row_lower, row_upper, row_weights, _, _, _ = tables(job)
    addresses = array_at(job.addresses, (job.maps,), NUMBERS)
    for m in range(job.maps):
        size = 4 * widths[m] * job.channels
        low[m] = addresses[m] + row_lower[m, y] * size
        high[m] = addresses[m] + row_upper[m, y] * size
        shares[m] = row_weights[m, y]


@compiled
def hidden_at(job: Any, y: Any, panel: Any, tile: Any) -> Any:
    """Return where a panel of a row's hidden units is kept, or else room for a tile of it."""
    size = (job.columns + TILE - 1) // TILE * TILE * job.width
    return array_at(job.hidden + 4 * (y * job.panels + panel) * size, (size,), FLOATS) if job.hidden else tile


@merged
def find_hidden(job: Any, panel: Any, start: Any, stop: Any, cells: Any, values: Any, out: Any, place: Any) -> None:
    """Write a panel of what the first layer makes of some points of a row, after the ReLU if a second layer follows.

    Args:
        job: The kernel's.
        panel: Which.
        start: First point of the row.
        stop: The one after the last, a tile further at most.
        cells: The panel's, of all maps (`mix_cells`).
        values: The row's inputs (`read_fine`).
        out: Written from `place` on; up to the next whole group (`group_of`) with what is worth nothing.
        place: Of the first point.
    """
    width = job.width
    group = group_of(width)
    begins, is_positive = job.group_begins + 8 * (start // group), 1 if job.out_panels else 0
    inputs, first = values.ctypes.data + 4 * start * job.pitch, job.first + 4 * panel * job.depth * width
    taps, fine = (begins, job.group_cells, job.group_shares), (inputs, job.pitch, first, job.depth, width)
    there, bias = out.ctypes.data + 4 * place, job.bias + 4 * panel * width
    call(job.sum_rows, (there, stop - start, bias, *taps, cells.ctypes.data, *fine, is_positive))


@compiled
def _write_points(job: Any, point: Any, count: Any, panel: Any, out: Any, place: Any, width: Any, outputs: Any) -> None:
    """Copy a panel of the last layer's outputs to where the logits of some points belong."""
    logits = array_at(job.logits + 4 * point * outputs, (count * outputs,), FLOATS)
    for x in range(count):
        for i in range(panel * width, min((panel + 1) * width, outputs), LANES):
            value = load(out, place + x * width + i - panel * width)
            store_some(logits, x * outputs + i, value, min(outputs - i, LANES))


@merged
def _begin_sums(job: Any, sums: Any) -> None:
    """Write the second layer's bias for all points of a grid row (panels, points, width)."""
    bias = array_at(job.second_bias, (job.out_panels, job.out_width), FLOATS)
    for panel in range(job.out_panels):
        for x in range(job.columns):
            for i in range(0, job.out_width, LANES):
                store(sums[panel, x], i, load(bias[panel], i))


@merged
def _classify_panel(job: Any, y: Any, values: Any, sums: Any, panel: Any, room: Any) -> None:
    """Add to the logits of a grid row what a panel of its hidden units gives; without a second layer they are the logits."""
    cells, tile, low, high, shares = room
    width, out_width = job.width, job.out_width
    map_rows(job, y, low, high, shares)
    mix_cells(cells, array_at(job.widths, (job.maps,), NUMBERS), (low, high, shares), job.channels, panel * width, width)
    hidden = hidden_at(job, y, panel, tile)
    for start in range(0, job.columns, TILE):
        stop, place = min(start + TILE, job.columns), start * width if job.hidden else 0
        find_hidden(job, panel, start, stop, cells, values, hidden, place)
        if not job.out_panels:
            _write_points(job, y * job.columns + start, stop - start, panel, hidden, place, width, job.channels)
        for out in range(job.out_panels):
            # Channels that only fill the panel up may be anything: zero times infinity.
            depth = min(width, job.channels - panel * width)
            ours, there = sums[out, start:].ctypes.data, hidden.ctypes.data + 4 * place
            second = job.second + 4 * (out * job.panels + panel) * width * out_width
            call(job.add_rows, (ours, out_width, stop - start, there, width, second, out_width, depth, out_width))


@merged
def _classify_rows(job: Any, part: Any) -> None:
    count, up, maps = array_at(job.widths, (job.maps,), NUMBERS).sum() * job.width, _up(job.columns), job.maps
    scratch = array_at(job.scratch + 4 * part * job.scratch_size, (job.scratch_size,), FLOATS)
    cells, tile, rest = scratch[:count], scratch[count : count + TILE * job.width], scratch[count + TILE * job.width :]
    # A single panel has nothing to share between rows.
    some = ROWS if job.panels > 1 else 1
    values, rest = rest[: some * up * job.pitch].reshape(some, up * job.pitch), rest[some * up * job.pitch :]
    sums = rest.reshape(some, job.out_panels, up, job.out_width)
    room = cells, tile, np.empty(maps, np.int64), np.empty(maps, np.int64), np.empty(maps, np.float32)
    values[:] = 0
    stop = job.rows * (part + 1) // job.parts
    for first in range(job.rows * part // job.parts, stop, some):
        rows = min(some, stop - first)
        for row in range(rows):
            _begin_sums(job, sums[row])
            read_fine(values[row], job.pitch, job.columns, first + row, job.fine, job.fine_maps)
        for panel in range(job.panels):
            for row in range(rows):
                _classify_panel(job, first + row, values[row], sums[row], panel, room)
        for row in range(rows):
            for out in range(job.out_panels):
                there = sums[row, out].reshape(up * job.out_width)
                _write_points(job, (first + row) * job.columns, job.columns, out, there, 0, job.out_width, job.classes)


@compiled
def _up(columns: Any) -> Any:
    return (columns + TILE - 1) // TILE * TILE


@kernel((*FIELDS, "second", "second_bias", "logits", "add_rows"))
def _classify(address: Any) -> None:
    job, part = numba.carray(address, 1)[0], take_ticket(address)
    while part < job.parts:
        _classify_rows(job, part)
        part = take_ticket(address)
