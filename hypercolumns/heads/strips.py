"""Upsample, sum and classify a few rows of the grid at a time: what lies between never leaves the cache.

At full resolution the hidden units of every grid point are hundreds of megabytes, written and read once per layer. Here each
strip of rows is finished before the next one begins: interpolate its share of every response and add up, apply the second
linear layer, keep the logits alone. The gradient does the same again instead of remembering, where that would be much, and is
written over the responses, a row as soon as no later strip reads it: memory stays that of the responses.

Source: recomputing instead of remembering follows Chen et al., "Training deep nets with sublinear memory cost", 2016, sec. 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hypercolumns.heads.strip_products import classify_by_products, gradients_by_products, rows_by_products
from hypercolumns.heads.strip_tiles import classify_in_tiles, fits_tiles, gradients_in_tiles
from hypercolumns.heads.strip_work import WITH_IMAGES, Cut, Work
from hypercolumns.kernels.plans import Widening

__all__ = ["classify_in_strips"]

REMEMBERED_BYTES = 1 << 23
"""Hidden units of an image up to which they are remembered for the gradient, which then takes a quarter less time."""


def classify_in_strips(
    grid_hw: tuple[int, int],
    plan: Widening,
    responses: Sequence[Tensor],
    fine: Sequence[tuple[Sequence[Tensor], Widening]],
    first: Tensor | None,
    bias: Tensor,
    second: Tensor | None,
    second_bias: Tensor | None,
) -> Tensor:
    """Return logits (B, y, x, K) of the sum of all maps.

    Args:
        grid_hw: Points of the grid.
        plan: How the responses are read.
        responses: (B, h, w, H) or (1, h, w, H), float32 or bfloat16: the first linear layer's, at the maps' own sizes. Unless
            the graph is retained, the gradient is written over them.
        fine: Maps to which the first linear layer is still to be applied, of any type that can be read (`can_read`), and how
            each is read: one tensor (B, h, w, C), or (1, h, w, C) for all images, or (h, w, C) for each. They get no gradient.
        first: Weights (H, sum of C) for them; None where there are none.
        bias: (H,), added to the sum.
        second: Weights (K, H) of the second linear layer, after a ReLU; None returns the sum itself.
        second_bias: (K,); None with `second`.
    """
    maps, plans = [[values.contiguous() for values in tensors] for tensors, _ in fine], tuple(reading for _, reading in fine)
    counts = [len(tensors[0]) if tensors[0].dim() == WITH_IMAGES else len(tensors) for tensors in maps]
    images = next((count for count in [*counts, *map(len, responses)] if count != 1), 1)
    # One image's response for all is written out: each image's gradient lands in a place of its own.
    whole = [values.expand(images, -1, -1, -1).contiguous() for values in responses]
    cut = Cut(grid_hw, images, plan, plans, tuple(len(tensors) for tensors in maps))
    logits: Tensor = _Strips.apply(cut, first, bias, second, second_bias, *chain(*maps), *whole)
    return logits


class _Strips(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cut: Cut, *tensors: Tensor | None) -> Tensor:
        work = Work(cut, tensors)
        # Strips stay the same whatever the number of threads is by the time of the gradient; tiles have none.
        rows = None if fits_tiles(work) else rows_by_products(work)
        few = work.second is not None and work.hidden_bytes(cut.grid_hw[0]) <= REMEMBERED_BYTES
        remember = few and any(ctx.needs_input_grad)
        logits = work.bias.new_empty((cut.images, *cut.grid_hw, work.outputs))
        if rows is None:
            kept = classify_in_tiles(work, logits, remember=remember)
        else:
            kept = classify_by_products(work, rows, logits, remember=remember)
        ctx.cut, ctx.rows, ctx.inputs = cut, rows, len(tensors)
        ctx.save_for_backward(*tensors, *kept)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        work, kept = Work(ctx.cut, saved[: ctx.inputs]), list(saved[ctx.inputs :])
        if ctx.rows is None:
            layers, responses = gradients_in_tiles(work, gradients[0], kept)
        else:
            layers, responses = gradients_by_products(work, ctx.rows, gradients[0], kept)
        return (None, *layers, *[None] * sum(ctx.cut.fine_tensors), *responses)
