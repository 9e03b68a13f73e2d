"""Read the responses of several maps at the points of some grid rows, and sum them up.

Every point has two cells on each axis of each map. A grid row first takes its share of two rows of each map, which stay in the
cache; each of its points then adds up two cells of each map, in registers, and is written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hypercolumns.kernels.lanes import LANES, add_product, load, load_some, positive, spread, store, store_some
from hypercolumns.kernels.numbers import FLOATS, LIKE, NUMBERS, array_at, compiled, take_ticket
from hypercolumns.kernels.plans import PLAN_FIELDS, Widening, tables
from hypercolumns.kernels.team import Kernel, kernel

__all__ = [
    "add_widened",
    "can_read",
    "can_widen",
    "check_pieces",
    "mix_rows",
    "read_rows",
]


_GRID = ("addresses", "out", "out_pitch", "rows", "columns", "channels", "start")
_FIELDS = (*PLAN_FIELDS, *_GRID, "onto", "onto_pitch", "relu", "scratch")


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
