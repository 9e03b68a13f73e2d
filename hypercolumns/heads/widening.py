"""Widen the responses of several maps to the grid and sum them up, by products of matrices.

Linear interpolation along an axis is a product with a matrix that has two entries in a row. Where a processor multiplies tiles
of bfloat16 (AMX), multiplying by all of its zeros too takes less time than moving large arrays about once for every map, axis
and phase; with vectors of bfloat16 alone it takes twice that time. The columns of each map are widened, its rows staying as
they are, into one array of the rows of all maps; one product then widens the rows of all of them, and sums the maps. Measured
in docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from hypercolumns.arithmetic import multiplies_tiles
from hypercolumns.backbones import LayerInfo
from hypercolumns.columns import Frame, layer_axes
from hypercolumns.geometry import AxisMap, grid_hw, grid_positions, linear_taps

__all__ = ["WideningPlan", "plan_widening", "widen_and_sum"]

_MOST_CELLS = 512
"""Of an axis, all maps together: the work grows with them, that of moving arrays about does not."""


@dataclass(frozen=True, eq=False)
class WideningPlan:
    """The matrices, and their transposes for the gradient.

    Attributes:
        columns: For each map, points by cells (X, w).
        columns_back: The same, cells by points.
        rows: Points by the cells of all maps (Y, sum of h).
        rows_back: The same, cells by points.
    """

    columns: tuple[Tensor, ...]
    columns_back: tuple[Tensor, ...]
    rows: Tensor
    rows_back: Tensor


def plan_widening(layers: Sequence[LayerInfo], frame: Frame, stride_px: int, dtype: torch.dtype) -> WideningPlan | None:
    """Plan the widening of some layers' responses, or return None where plain resampling is faster or more exact.

    That is for other types than bfloat16, on processors that do not multiply tiles, where `F.interpolate` can be used, where
    there are too many cells, and where weights are not exact in this type.

    Args:
        layers: Whose geometry the responses have.
        frame: Canvas and alignment.
        stride_px: Output stride.
        dtype: Type of the responses.
    """
    if dtype != torch.bfloat16 or not layers or not multiplies_tiles():
        return None
    height, width = grid_hw(frame.canvas_hw, stride_px)
    axes = [layer_axes(layer, frame) for layer in layers]
    if any(y.is_resize(frame.canvas_hw[0]) and x.is_resize(frame.canvas_hw[1]) for y, x in axes):
        return None
    if max(sum(pair[axis].cells for pair in axes) for axis in range(2)) > _MOST_CELLS:
        return None
    exact = [_matrix(y, height, stride_px) for y, _ in axes], [_matrix(x, width, stride_px) for _, x in axes]
    rows, columns = ([matrix.to(dtype) for matrix in matrices] for matrices in exact)
    if not all(bool((is_.double() == ought).all()) for is_, ought in zip(rows + columns, exact[0] + exact[1], strict=True)):
        return None
    joined = torch.cat(rows, dim=1)
    return WideningPlan(tuple(columns), tuple(matrix.t().contiguous() for matrix in columns), joined, joined.t().contiguous())


def widen_and_sum(responses: Sequence[Float[Tensor, "b _ _ c"]], plan: WideningPlan) -> Float[Tensor, "b y x c"]:
    """Read responses at the grid's points, and sum them up; differentiable once.

    Args:
        responses: One for each of the plan's layers, (B, h, w, C).
        plan: Of these layers.
    """
    result: Tensor = _Widened.apply(plan, *responses)
    return result


class _Widened(torch.autograd.Function):
    """Columns of each map, then rows of all; and the transpose for the gradient."""

    @staticmethod
    def forward(ctx: Any, plan: WideningPlan, *responses: Tensor) -> Tensor:
        ctx.plan, ctx.heights = plan, [response.shape[1] for response in responses]
        images, channels = len(responses[0]), responses[0].shape[-1]
        between = responses[0].new_empty(images, sum(ctx.heights), len(plan.columns[0]), channels)
        for part, response, columns in zip(torch.split(between, ctx.heights, 1), responses, plan.columns, strict=True):
            _multiply_rows(columns, response, part)
        points_hw = len(plan.rows), between.shape[2]
        return torch.bmm(plan.rows.expand(images, -1, -1), between.flatten(2)).view(images, *points_hw, channels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        plan, gradient = ctx.plan, gradients[0].contiguous()
        images, _, width, channels = gradient.shape
        between = torch.bmm(plan.rows_back.expand(images, -1, -1), gradient.flatten(2)).view(images, -1, width, channels)
        found = []
        for part, columns in zip(torch.split(between, ctx.heights, 1), plan.columns_back, strict=True):
            found.append(gradient.new_empty(images, part.shape[1], len(columns), channels))
            _multiply_rows(columns, part, found[-1])
        return None, *found


def _multiply_rows(matrix: Tensor, values: Tensor, out: Tensor) -> None:
    """Multiply each row (n, c) of maps by a matrix (m, n); an image at a time, where memory is in one piece."""
    for source, target in zip(values, out, strict=True):
        torch.bmm(matrix.expand(len(source), -1, -1), source, out=target)


def _matrix(axis: AxisMap, count: int, stride_px: int) -> Float[Tensor, "points cells"]:
    """Write the interpolation along an axis as a matrix, in double precision."""
    lower, upper, weight = linear_taps(grid_positions(count, stride_px), axis)
    found = torch.zeros(count, axis.cells, dtype=torch.float64)
    found.scatter_add_(1, lower[:, None], 1 - weight.double()[:, None])
    return found.scatter_add_(1, upper[:, None], weight.double()[:, None])
