"""Read hypercolumns at sparse points: of each point four cells of every map, weighted, and nothing else.

For the few points an image is sampled at, finding the cells, fetching them, weighing them and joining the layers take about
twenty-five operations of torch, each longer to begin than to do.

Source: Hariharan et al., CVPR 2015, sec. 3: f_i = Σ_k α_ik F_k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hypercolumns.errors import GeometryError
from hypercolumns.kernels.lanes import LANES, add_product, load, load_some, spread, store, store_some
from hypercolumns.kernels.numbers import BFLOATS, DOUBLES, FLOATS, HALVES, NUMBERS, OCTETS, array_at, compiled, take_ticket
from hypercolumns.kernels.team import Kernel, kernel, whole_numbers

__all__ = ["KEPT", "finite_error", "gather_columns"]

_FIELDS = ("points", "count", "layers", "axes", "addresses", "channels", "columns", "out")
_NUMBERS_A_THREAD = 1 << 15
"""Fewer are not worth handing over to another thread."""


def gather_columns(
    addresses: Sequence[int],
    kept_as: str,
    channels: Sequence[int],
    points_xy: Float[Tensor, "n 2"],
    axes: Float[Tensor, "5 l 2"],
) -> Float[Tensor, "n d"]:
    """Read one image's hypercolumns (n, ΣC) in float32.

    Args:
        addresses: Where each layer's map (h, w, C) lies, in one piece.
        kept_as: What its numbers are kept as: float32, float16, uint16 (bits of bfloat16) or uint8 (read as 0 to 255).
        channels: Of each map.
        points_xy: Canvas positions in float64.
        axes: How each layer's map lies on the canvas, x before y: scale, shift, last cell, last cell that has a next one (or
            the only cell), and how much further the next cell lies in a flat map.

    Raises:
        GeometryError: a position is not finite, or not two numbers.
        ValueError: axes of another shape or type.
    """
    if points_xy.dim() != 2 or points_xy.shape[1] != 2:
        raise GeometryError(f"expected positions (n, 2) as x, y, got {tuple(points_xy.shape)}")
    if points_xy.dtype != torch.float64 or axes.dtype != torch.float64 or not axes.is_contiguous():
        raise ValueError(f"expected positions and axes of float64, got {points_xy.dtype} and {axes.dtype}")
    if axes.numel() != 10 * len(addresses) or len(channels) != len(addresses):
        raise ValueError(f"expected axes and channels of {len(addresses)} maps, got {axes.shape[1]} and {len(channels)}")
    points, columns = points_xy.contiguous(), sum(channels)
    out = torch.empty(len(points), columns, dtype=torch.float32, device="cpu")
    places, widths = whole_numbers(addresses), whole_numbers(channels)
    parts = max(1, min(torch.get_num_threads(), out.numel() // _NUMBERS_A_THREAD))
    done = _KERNELS[kept_as](
        parts,
        points=points.data_ptr(),
        count=len(points),
        layers=len(places),
        axes=axes.data_ptr(),
        addresses=places.buffer_info()[0],
        channels=widths.buffer_info()[0],
        columns=columns,
        out=out.data_ptr(),
    )
    if not done:
        raise finite_error(points)
    return out


def finite_error(points_xy: Float[Tensor, "n 2"]) -> GeometryError:
    """Return the error that names the first position that is not finite."""
    first = int((~points_xy.isfinite().all(1)).nonzero()[0])
    return GeometryError(f"point {first}: expected a finite position x, y on the canvas, got {points_xy[first].tolist()}")


@compiled
def _weigh(out: Any, place: Any, map_: Any, cells: Any, shares: Any, channels: Any) -> None:
    """Write the weighted sum of four cells of a map."""
    one, two, three, four = spread(shares[0]), spread(shares[1]), spread(shares[2]), spread(shares[3])
    first, second, third, fourth = cells
    none, whole = spread(np.float32(0)), LANES * (channels // LANES)
    for i in range(0, whole, LANES):
        total = add_product(add_product(none, load(map_, first + i), one), load(map_, second + i), two)
        store(out, place + i, add_product(add_product(total, load(map_, third + i), three), load(map_, fourth + i), four))
    rest = channels - whole
    if rest:
        total = add_product(none, load_some(map_, first + whole, rest), one)
        total = add_product(total, load_some(map_, second + whole, rest), two)
        total = add_product(total, load_some(map_, third + whole, rest), three)
        store_some(out, place + whole, add_product(total, load_some(map_, fourth + whole, rest), four), rest)


@compiled
def _gather_points(job: Any, like: Any, part: Any) -> None:
    layers, columns = job.layers, job.columns
    points = array_at(job.points, (job.count, 2), DOUBLES)
    axes = array_at(job.axes, (5, layers, 2), DOUBLES)
    addresses, channels = array_at(job.addresses, (layers,), NUMBERS), array_at(job.channels, (layers,), NUMBERS)
    out = array_at(job.out, (job.count * columns,), FLOATS)
    for point in range(job.count * part // job.parts, job.count * (part + 1) // job.parts):
        if not (np.isfinite(points[point, 0]) and np.isfinite(points[point, 1])):
            job.failed = 1
            return
        place = point * columns
        for layer in range(layers):
            x = min(max(points[point, 0] * axes[0, layer, 0] + axes[1, layer, 0], 0.0), axes[2, layer, 0])
            y = min(max(points[point, 1] * axes[0, layer, 1] + axes[1, layer, 1], 0.0), axes[2, layer, 1])
            left, top = min(np.floor(x), axes[3, layer, 0]), min(np.floor(y), axes[3, layer, 1])
            x, y, size = x - left, y - top, channels[layer]
            right = size if axes[2, layer, 0] > 0 else 0
            below = size * np.int64(axes[4, layer, 1]) if axes[2, layer, 1] > 0 else 0
            first = size * (np.int64(top) * np.int64(axes[4, layer, 1]) + np.int64(left))
            cells = (first, first + right, first + below, first + right + below)
            shares = (np.float32((1 - x) * (1 - y)), np.float32(x * (1 - y)), np.float32((1 - x) * y), np.float32(x * y))
            map_ = array_at(addresses[layer], (first + right + below + size,), like)
            _weigh(out, place, map_, cells, shares, size)
            place += size


def _gathering(like: np.ndarray) -> Kernel:
    @kernel(_FIELDS)
    def gather(address: Any) -> None:
        job, part = numba.carray(address, 1)[0], take_ticket(address)
        while part < job.parts:
            _gather_points(job, like, part)
            part = take_ticket(address)

    return gather


_LIKE = {"float32": FLOATS, "float16": HALVES, "uint16": BFLOATS, "uint8": OCTETS}
_KERNELS = {name: _gathering(like) for name, like in _LIKE.items()}
KEPT = tuple(_KERNELS)
"""The types that maps may be kept in, by NumPy's names."""
