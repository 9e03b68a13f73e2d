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
def _add_cell(scratch: Any, values: Any, place: Any, shift: Any) -> None:
    channels, minus = len(shift), spread(np.float32(-1))
    one, whole = spread(np.float32(1)), LANES * (channels // LANES)
    for i in range(0, whole, LANES):
        value = add_product(load(values, place + i), load(shift, i), minus)
        store(scratch, i, add_product(load(scratch, i), value, one))
        store(scratch, channels + i, add_product(load(scratch, channels + i), value, value))
    rest = channels - whole
    if rest:
        value = add_product(load_some(values, place + whole, rest), load_some(shift, whole, rest), minus)
        store_some(scratch, whole, add_product(load_some(scratch, whole, rest), value, one), rest)
        behind = channels + whole
        store_some(scratch, behind, add_product(load_some(scratch, behind, rest), value, value), rest)


@compiled
def _sum(job: Any, like: Any) -> None:
    cells, channels = job.cells, job.channels
    values, shift = array_at(job.values, (cells * channels,), like), array_at(job.shift, (channels,), FLOATS)
    total, squares = array_at(job.total, (channels,), DOUBLES), array_at(job.squares, (channels,), DOUBLES)
    scratch = array_at(job.scratch, (2 * channels,), FLOATS)
    for first in range(0, cells, _AT_ONCE):
        scratch[:] = 0
        for cell in range(first, min(first + _AT_ONCE, cells)):
            _add_cell(scratch, values, cell * channels, shift)
        for c in range(channels):
            total[c] += scratch[c]
            squares[c] += scratch[channels + c]


def _summing(like: np.ndarray) -> Kernel:
    @kernel(_FIELDS)
    def add_up(address: Any) -> None:
        _sum(numba.carray(address, 1)[0], like)

    return add_up


_KERNELS = {name: _summing(like) for name, like in (("float32", FLOATS), ("float16", HALVES), ("uint16", BFLOATS))}
