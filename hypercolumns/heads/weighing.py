"""Weighted sums of a few rows of a table: the one operation by which heads read maps and responses at points.

torch's own `embedding_bag` is as fast as memory, but only while no gradient is asked for, and its gradient sorts all addresses;
here the forward pass is always the fast one, and the gradient adds rows back where they were read.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hypercolumns.columns import weigh

__all__ = ["weigh_rows"]


def weigh_rows(
    table: Float[Tensor, "rows c"], rows: Int[Tensor, "n taps"], weights: Float[Tensor, "n taps"]
) -> Float[Tensor, "n c"]:
    """Sum rows of a table with weights, in float32.

    Args:
        table: The rows, of any floating type; others than float32 are read four taps a point.
        rows: Which ones.
        weights: Their weights, float32; no gradient goes to them.
    """
    if table.dtype != torch.float32:
        return weigh(table[rows.reshape(-1)], weights)
    result: Tensor = _WeighRows.apply(table, rows, weights)
    return result


class _WeighRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights)
        ctx.table_shape = table.shape
        # Detached, or embedding_bag prepares for a gradient of its own.
        return F.embedding_bag(rows, table.detach(), per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        rows, weights = ctx.saved_tensors
        total = gradients[0].new_zeros(ctx.table_shape)
        for tap, weight in zip(rows.unbind(1), weights.unbind(1), strict=True):
            total.index_add_(0, tap, gradients[0] * weight[:, None])
        return total, None, None
