"""Make numbers of bytes: each times a scale of its image and channel, plus an offset, in one pass."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypercolumns.kernels.lanes import LANES, add_product, load, load_some, store, store_some
from hypercolumns.kernels.numbers import FLOATS, OCTETS, array_at, compiled, take_ticket
from hypercolumns.kernels.team import kernel

__all__ = ["scale_bytes"]

_NUMBERS_A_THREAD = 1 << 15
"""Fewer are done before another thread has begun."""
_FIELDS = ("octets", "out", "scale", "offset", "images", "cells", "channels")


def scale_bytes(octets: NDArray[np.uint8], scale: NDArray[np.float32], offset: NDArray[np.float32]) -> Tensor:
    """Return octets · scale + offset, rounded once where the processor can.

    Args:
        octets: (B, h, w, C), in one piece.
        scale: (B, C).
        offset: (B, C).

    Returns:
        (B, h, w, C) in float32.

    Raises:
        ValueError: an array has another shape or type, or does not lie in one piece.
    """
    if octets.dtype != np.uint8 or octets.ndim != 4 or not octets.flags.c_contiguous:
        raise ValueError(
            f"expected bytes (B, h, w, C) in one piece, got {octets.dtype} {octets.shape}, strides {octets.strides}"
        )
    images, height, width, channels = octets.shape
    for name, values in (("scale", scale), ("offset", offset)):
        fits = values.shape == (images, channels) and values.dtype.str == FLOATS.dtype.str
        if not fits or not values.flags.c_contiguous:
            raise ValueError(
                f"{name}: expected float32 {(images, channels)} in one piece, got {values.dtype.str} {values.shape}, "
                f"strides {values.strides}"
            )
    out = torch.empty(octets.shape, dtype=torch.float32)
    addresses = {
        name: array.__array_interface__["data"][0] for name, array in (("octets", octets), ("scale", scale), ("offset", offset))
    }
    parts = max(1, min(torch.get_num_threads(), octets.size // _NUMBERS_A_THREAD, images * height * width))
    _scale(parts, out=out.data_ptr(), images=images, cells=height * width, channels=channels, **addresses)
    return out


@compiled
def _scale_cell(out: Any, octets: Any, place: Any, scale: Any, offset: Any) -> None:
    channels = len(scale)
    whole = LANES * (channels // LANES)
    for i in range(0, whole, LANES):
        store(out, place + i, add_product(load(offset, i), load(octets, place + i), load(scale, i)))
    rest = channels - whole
    if rest:
        value = load_some(octets, place + whole, rest)
        store_some(out, place + whole, add_product(load_some(offset, whole, rest), value, load_some(scale, whole, rest)), rest)


@compiled
def _scale_part(job: Any, part: Any) -> None:
    """Do a share of all images' cells."""
    cells, channels, total = job.cells, job.channels, job.images * job.cells
    octets, out = array_at(job.octets, (total * channels,), OCTETS), array_at(job.out, (total * channels,), FLOATS)
    scales = array_at(job.scale, (job.images, channels), FLOATS)
    offsets = array_at(job.offset, (job.images, channels), FLOATS)
    cell, stop = total * part // job.parts, total * (part + 1) // job.parts
    while cell < stop:
        image = cell // cells
        scale, offset = scales[image], offsets[image]
        for same in range(cell, min(stop, (image + 1) * cells)):
            _scale_cell(out, octets, same * channels, scale, offset)
        cell = min(stop, (image + 1) * cells)


@kernel(_FIELDS)
def _scale(address: Any) -> None:
    job, part = numba.carray(address, 1)[0], take_ticket(address)
    while part < job.parts:
        _scale_part(job, part)
        part = take_ticket(address)
