"""Interpolate scores to an image's pixels and keep the best class of each, without writing the interpolated scores.

Those of a photograph of 480x360 in eleven classes are 7.6 MB, of which 0.17 MB of labels remain.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hypercolumns.kernels.lanes import (
    LANES,
    add_product,
    first_equal,
    first_not_a_number,
    keep_first,
    largest,
    load,
    spread,
)
from hypercolumns.kernels.numbers import DOUBLES, FLOATS, NUMBERS, OCTETS, array_at, compiled, take_ticket
from hypercolumns.kernels.team import kernel
from hypercolumns.kernels.widening import mix_rows

__all__ = ["Positions", "best_interpolated"]

Positions = tuple[Tensor, Tensor, Tensor]
"""Of pixels along an axis: the cell before each, the cell after it, and the second one's weight; `linear_taps` gives them."""

_MOST_CLASSES = 256
_SCORES = ("scores", "cell_rows", "cell_columns", "classes", "scratch")
_PIXELS = ("out", "rows", "columns", "above", "below", "down", "left", "right", "along")


def best_interpolated(scores: Float[Tensor, "h w k"], rows: Positions, columns: Positions) -> UInt8[Tensor, "y x"]:
    """Return the best class of every pixel; the first of several that are equal, or one whose score is not a number.

    Args:
        scores: float32, in the processor's memory; at most 256 classes.
        rows: Where the pixels lie between the scores' rows.
        columns: The same along them.

    Raises:
        ValueError: scores of another type, or positions that are not between them.
    """
    if scores.dtype != torch.float32 or scores.device.type != "cpu":
        raise ValueError(f"expected float32 scores in the processor's memory, got {scores.dtype} on {scores.device}")
    for cells_there, positions in zip(scores.shape, (rows, columns), strict=False):
        _check(positions, cells_there)
    if not 1 <= scores.shape[2] <= _MOST_CLASSES:
        raise ValueError(f"expected 1 to {_MOST_CLASSES} classes, got {scores.shape[2]}")
    cells = scores.contiguous()
    above, below, down, left, right, along = (values.contiguous() for values in (*rows, *columns))
    out = torch.empty(len(above), len(left), dtype=torch.uint8)
    parts = max(1, min(torch.get_num_threads(), len(above)))
    # Cells are read sixteen classes at a time: the last one's too.
    scratch = torch.zeros(parts, cells.shape[1] * cells.shape[2] + LANES)
    _label(
        parts,
        scores=cells.data_ptr(),
        cell_rows=cells.shape[0],
        cell_columns=cells.shape[1],
        classes=cells.shape[2],
        out=out.data_ptr(),
        rows=out.shape[0],
        columns=out.shape[1],
        above=above.data_ptr(),
        below=below.data_ptr(),
        down=down.data_ptr(),
        left=left.data_ptr(),
        right=right.data_ptr(),
        along=along.data_ptr(),
        scratch=scratch.data_ptr(),
    )
    return out


def _check(positions: Positions, cells: int) -> None:
    """Refuse positions that are not between cells: a kernel would read foreign memory."""
    lower, upper, _ = positions
    kinds, shapes = [values.dtype for values in positions], {tuple(values.shape) for values in positions}
    if kinds != [torch.int64, torch.int64, torch.float64] or shapes != {(len(lower),)}:
        raise ValueError(f"expected as many cells (int64) twice and weights (float64), got {kinds}, {sorted(shapes)}")
    for values in (lower, upper) if len(lower) else ():
        first, last = (int(value) for value in torch.aminmax(values))
        if first < 0 or last >= cells:
            raise ValueError(f"expected positions between cells 0 and {cells - 1}, got {first} to {last}")


@compiled
def _best(row: Any, low: Any, high: Any, weight: Any, classes: Any) -> Any:
    """Return the best class of a pixel between two cells of a row."""
    none, first, second = spread(np.float32(0)), spread(np.float32(1 - weight)), spread(np.float32(weight))
    best, most = 0, np.float32(-np.inf)
    for i in range(0, classes, LANES):
        # Of one cell alone nothing is reckoned: nothing times what is not finite is not nothing.
        scores = load(row, low + i)
        if low != high:
            scores = add_product(add_product(none, scores, first), load(row, high + i), second)
        scores = keep_first(scores, classes - i, np.float32(-np.inf))
        odd = first_not_a_number(scores)
        if odd < LANES:
            return i + odd
        top = largest(scores)
        if top > most:
            best, most = i + first_equal(scores, top), top
    return best


@compiled
def _label_rows(job: Any, part: Any) -> None:
    width, rows, columns, classes = job.cell_columns, job.rows, job.columns, job.classes
    scores = array_at(job.scores, (job.cell_rows, width * classes), FLOATS)
    above, below = array_at(job.above, (rows,), NUMBERS), array_at(job.below, (rows,), NUMBERS)
    left, right = array_at(job.left, (columns,), NUMBERS), array_at(job.right, (columns,), NUMBERS)
    down, along = array_at(job.down, (rows,), DOUBLES), array_at(job.along, (columns,), DOUBLES)
    out = array_at(job.out, (rows, columns), OCTETS)
    row = array_at(job.scratch, (job.parts, width * classes + LANES), FLOATS)[part]
    for y in range(rows * part // job.parts, rows * (part + 1) // job.parts):
        if above[y] == below[y]:
            row[: width * classes] = scores[above[y]]
        else:
            mix_rows(row, 0, scores[above[y]], scores[below[y]], np.float32(down[y]))
        for x in range(columns):
            out[y, x] = _best(row, left[x] * classes, right[x] * classes, along[x], classes)


@kernel((*_SCORES, *_PIXELS))
def _label(address: Any) -> None:
    job, part = numba.carray(address, 1)[0], take_ticket(address)
    while part < job.parts:
        _label_rows(job, part)
        part = take_ticket(address)
