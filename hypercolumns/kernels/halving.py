"""Turn bfloat16 into float16 and back in one pass, rounded to the nearest, ties to even: torch does it number by number."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numba
import torch
from torch import Tensor

from hypercolumns.kernels.lanes import LANES, load, load_some, store, store_some
from hypercolumns.kernels.numbers import BFLOATS, HALVES, array_at, compiled, take_ticket
from hypercolumns.kernels.team import kernel

__all__ = ["convert_halves"]

_NUMBERS_A_THREAD = 1 << 16
"""Fewer are done before another thread has begun."""
_PAIR = {torch.bfloat16, torch.float16}


def convert_halves(source: Tensor, out: Tensor) -> None:
    """Write the numbers of a tensor in the other type of 16 bits; what is too large for it becomes infinite.

    Args:
        source: (*rows, c), bfloat16 or float16, in one piece.
        out: (*rows, c), the other type; written. Its rows may lie apart, all by as much: as channels of wider maps.

    Raises:
        ValueError: a tensor has another type or shape, does not lie so, or is not in the processor's memory.
    """
    fits = {source.dtype, out.dtype} == _PAIR and source.shape == out.shape and source.is_contiguous()
    pitch = _pitch(out)
    if not fits or pitch is None or {source.device.type, out.device.type} != {"cpu"}:
        raise ValueError(
            "expected bfloat16 and float16 of one shape in the processor's memory, the first in one piece and the rows of the "
            f"second all as far apart, got {source.dtype} {tuple(source.shape)} and {out.dtype} {tuple(out.shape)}, strides "
            f"{source.stride()} and {out.stride()}"
        )
    width = source.shape[-1]
    rows = source.numel() // max(1, width)
    parts = max(1, min(torch.get_num_threads(), source.numel() // _NUMBERS_A_THREAD, rows))
    is_bfloat = int(source.dtype == torch.bfloat16)
    _convert(parts, source=source.data_ptr(), out=out.data_ptr(), rows=rows, width=width, pitch=pitch, is_bfloat=is_bfloat)


def _pitch(values: Tensor) -> int | None:
    """Return how far apart rows lie, or None if that differs or their numbers do not lie side by side."""
    shape, strides = values.shape, values.stride()
    if not values.numel():
        return 0
    if not shape or (strides[-1] != 1 and shape[-1] != 1):
        return None
    steps = [(count, step) for count, step in zip(shape[:-1], strides[:-1], strict=True) if count != 1]
    alike = all(outer == count * step for (_, outer), (count, step) in pairwise(steps))
    pitch = steps[-1][1] if steps else shape[-1]
    return pitch if alike and pitch >= shape[-1] else None


@compiled
def _convert_rows(source: Any, out: Any, job: Any, start: Any, stop: Any) -> None:
    width, pitch = job.width, job.pitch
    whole = width // LANES * LANES
    for row in range(start, stop):
        here, there = row * width, row * pitch
        for i in range(0, whole, LANES):
            store(out, there + i, load(source, here + i))
        if whole < width:
            store_some(out, there + whole, load_some(source, here + whole, width - whole), width - whole)


@compiled
def _convert_part(job: Any, part: Any) -> None:
    start, stop = job.rows * part // job.parts, job.rows * (part + 1) // job.parts
    numbers, places = (job.rows * job.width,), (job.rows * job.pitch,)
    if job.is_bfloat:
        _convert_rows(array_at(job.source, numbers, BFLOATS), array_at(job.out, places, HALVES), job, start, stop)
    else:
        _convert_rows(array_at(job.source, numbers, HALVES), array_at(job.out, places, BFLOATS), job, start, stop)


@kernel(("source", "out", "rows", "width", "pitch", "is_bfloat"))
def _convert(address: Any) -> None:
    job, part = numba.carray(address, 1)[0], take_ticket(address)
    while part < job.parts:
        _convert_part(job, part)
        part = take_ticket(address)
