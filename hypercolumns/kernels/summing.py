"""Sum the cells of a map, and their squares, in one pass over what is kept.

Numbers are added up in float32 for a few cells, and these sums in double precision.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from hypercolumns.kernels.lanes import LANES, add_product, load, load_some, spread, store, store_some
from hypercolumns.kernels.numbers import BFLOATS, DOUBLES, FLOATS, HALVES, array_at, compiled
from hypercolumns.kernels.team import Kernel, kernel

__all__ = ["sum_cells"]

_FIELDS = ("values", "cells", "channels", "shift", "scratch", "total", "squares")
_AT_ONCE = 32
"""Cells whose sums float32 holds well."""


def sum_cells(values: NDArray[Any], shift: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum cells, each less a shift, and the squares of that; by the caller's thread alone.

    Args:
        values: (..., C), in one piece: float32, float16, or bits of bfloat16 (uint16).
        shift: (C,).

    Returns:
        (C,) each.

    Raises:
        ValueError: an array has another shape or type, or does not lie in one piece.
    """
    channels = values.shape[-1]
    if values.dtype.name not in _KERNELS or not values.dtype.isnative or not values.flags.c_contiguous:
        raise ValueError(f"expected one of {sorted(_KERNELS)} in one piece, got {values.dtype.str}, strides {values.strides}")
    if channels == 0:
        raise ValueError("expected channels to sum, got none")
    if shift.shape != (channels,) or shift.dtype.str != FLOATS.dtype.str or not shift.flags.c_contiguous:
        raise ValueError(f"expected a shift of float32 ({channels},) in one piece, got {shift.dtype} {shift.shape}")
    total, squares = np.zeros(channels), np.zeros(channels)
    scratch = np.empty(2 * channels, np.float32)
    arrays = {"values": values, "shift": shift, "scratch": scratch, "total": total, "squares": squares}
    addresses = {name: array.__array_interface__["data"][0] for name, array in arrays.items()}
    _KERNELS[values.dtype.name](1, cells=values.size // channels, channels=channels, **addresses)
    return total, squares


@compiled
def _sum_lanes(job: Any, values: Any, shift: Any, first: Any, stop: Any, c: Any) -> None:
    """Add up twice sixteen channels of some cells, from a channel on, without writing in between."""
    channels, one, minus = job.channels, spread(np.float32(1)), spread(np.float32(-1))
    left, right = load(shift, c), load(shift, c + LANES)
    left_total, right_total = spread(np.float32(0)), spread(np.float32(0))
    left_squares, right_squares = spread(np.float32(0)), spread(np.float32(0))
    for place in range(first * channels + c, stop * channels + c, channels):
        value = add_product(load(values, place), left, minus)
        left_total, left_squares = add_product(left_total, value, one), add_product(left_squares, value, value)
        value = add_product(load(values, place + LANES), right, minus)
        right_total, right_squares = add_product(right_total, value, one), add_product(right_squares, value, value)
    scratch = array_at(job.scratch, (2 * channels,), FLOATS)
    store(scratch, c, left_total)
    store(scratch, c + LANES, right_total)
    store(scratch, channels + c, left_squares)
    store(scratch, channels + c + LANES, right_squares)


@compiled
def _sum_some(job: Any, values: Any, shift: Any, first: Any, stop: Any, c: Any, count: Any) -> None:
    """Add up at most sixteen channels of some cells."""
    channels, one, minus = job.channels, spread(np.float32(1)), spread(np.float32(-1))
    less, total, squares = load_some(shift, c, count), spread(np.float32(0)), spread(np.float32(0))
    for cell in range(first, stop):
        value = add_product(load_some(values, cell * channels + c, count), less, minus)
        total, squares = add_product(total, value, one), add_product(squares, value, value)
    scratch = array_at(job.scratch, (2 * channels,), FLOATS)
    store_some(scratch, c, total, count)
    store_some(scratch, channels + c, squares, count)


@compiled
def _sum(job: Any, like: Any) -> None:
    cells, channels = job.cells, job.channels
    values, shift = array_at(job.values, (cells * channels,), like), array_at(job.shift, (channels,), FLOATS)
    total, squares = array_at(job.total, (channels,), DOUBLES), array_at(job.squares, (channels,), DOUBLES)
    scratch = array_at(job.scratch, (2 * channels,), FLOATS)
    whole = 2 * LANES * (channels // (2 * LANES))
    for first in range(0, cells, _AT_ONCE):
        stop = min(first + _AT_ONCE, cells)
        for c in range(0, whole, 2 * LANES):
            _sum_lanes(job, values, shift, first, stop, c)
        for c in range(whole, channels, LANES):
            _sum_some(job, values, shift, first, stop, c, min(LANES, channels - c))
        for c in range(channels):
            total[c] += scratch[c]
            squares[c] += scratch[channels + c]


def _summing(like: np.ndarray) -> Kernel:
    @kernel(_FIELDS)
    def add_up(address: Any) -> None:
        _sum(numba.carray(address, 1)[0], like)

    return add_up


_KERNELS = {name: _summing(like) for name, like in (("float32", FLOATS), ("float16", HALVES), ("uint16", BFLOATS))}
