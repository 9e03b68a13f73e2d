"""Upsample, sum and classify a few rows of the grid at a time: what lies between never leaves the cache.

At full resolution the hidden units of every grid point are hundreds of megabytes, written and read once per layer. Here each
strip of rows is finished before the next one begins: interpolate its share of every response, add up, apply the second linear
layer, keep the logits alone. The gradient does the same again instead of remembering, and is written over the responses, a row
as soon as no later strip reads it: memory stays that of the responses.

A strip needs few rows of each map: they are widened to the grid, then interpolated along the rows by a product with a matrix of
two entries a row (`hypercolumns.geometry`).

Source: recomputing instead of remembering follows Chen et al., "Training deep nets with sublinear memory cost", 2016, sec. 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hypercolumns.geometry import AxisMap, grid_positions, linear_taps
from hypercolumns.heads.products import add_weight_gradient, linear

__all__ = ["StripPlan", "classify_in_strips", "plan_strips"]

_STRIP_BYTES = 3 << 19
"""Hidden units of a strip, for each thread: they and what is made of them stay in the caches of its core."""

_MOST_THREADS = 8
"""That are reckoned with: strips save memory too."""

_LOGITS_BYTES = 1 << 19
"""The same for all threads together where there is no second layer: sums are written where logits are wanted then, so that a
strip is most of what is held besides."""

_FEWEST_ROWS = 8
"""Of a strip for each thread, however wide: coarse rows that two strips share are interpolated twice."""


@dataclass(frozen=True)
class StripPlan:
    """How the grid reads a map.

    Attributes:
        weights: (grid rows, map rows), at most two entries a row.
        lower: First map row that each grid row reads.
        upper: Last map row that each grid row reads.
        widen: Interpolates some rows (1, n, w, H) along their columns: (1, n, x, H).
        narrow: The transpose of that, for the gradient.
    """

    weights: Tensor
    lower: tuple[int, ...]
    upper: tuple[int, ...]
    widen: Callable[[Tensor], Tensor]
    narrow: Callable[[Tensor], Tensor]

    def read(self, start: int, stop: int) -> tuple[Tensor, slice]:
        """Return the weights of grid rows start to stop, and the map rows they go with."""
        needed = slice(self.lower[start], self.upper[stop - 1] + 1)
        return self.weights[start:stop, needed], needed


def plan_strips(
    axis: AxisMap,
    rows: int,
    stride_px: int,
    dtype: torch.dtype,
    widen: Callable[[Tensor], Tensor],
    narrow: Callable[[Tensor], Tensor],
) -> StripPlan:
    """Plan the reading of a map at the grid positions s·(j+½).

    Args:
        axis: Of its rows.
        rows: Of the grid.
        stride_px: Output stride s.
        dtype: Type of the responses.
        widen: Sees to its columns.
        narrow: The transpose of that.
    """
    lower, upper, weight = linear_taps(grid_positions(rows, stride_px), axis)
    weights = torch.zeros(rows, axis.cells, dtype=torch.float64)
    index = torch.arange(rows)
    weights[index, lower] += 1 - weight
    weights[index, upper] += weight
    # A neighbour of no weight is not read.
    lower, upper = torch.where(weight < 1, lower, upper), torch.where(weight > 0, upper, lower)
    return StripPlan(weights.to(dtype), tuple(lower.tolist()), tuple(upper.tolist()), widen, narrow)


def classify_in_strips(
    grid_hw: tuple[int, int],
    plans: Sequence[StripPlan],
    responses: Sequence[Tensor],
    fine: Tensor | None,
    first: Tensor | None,
    bias: Tensor,
    second: Tensor | None,
    second_bias: Tensor | None,
) -> Tensor:
    """Return logits (B, y, x, K) of the sum of all maps.

    Args:
        grid_hw: Points of the grid.
        plans: How each response is read.
        responses: (B, h, w, H): the first linear layer's, at the maps' own sizes. Unless the graph is retained, the gradient
            is written over them.
        fine: A map (B, y, x, C) of the grid's own size, to which the first linear layer is still to be applied; or None. No
            gradient goes to it.
        first: Weights (H, C) for it.
        bias: (H,), added to the sum.
        second: Weights (K, H) of the second linear layer, after a ReLU; None returns the sum itself.
        second_bias: (K,); None with `second`.
    """
    logits: Tensor = _Strips.apply(grid_hw, tuple(plans), fine, first, bias, second, second_bias, *responses)
    return logits


class _Strips(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid_hw: tuple[int, int], plans: tuple[StripPlan, ...], *tensors: Tensor | None) -> Tensor:
        work = _Work(grid_hw, plans, tensors)
        ctx.grid_hw, ctx.plans = grid_hw, plans
        ctx.save_for_backward(*tensors)
        outputs = work.bias if work.second is None else work.second
        logits = work.bias.new_empty((work.images, *work.grid_hw, len(outputs)))
        for image, start, stop in work.strips():
            if work.second is None:
                work.sum(image, start, stop, out=logits[image, start:stop])
            else:
                hidden = work.sum(image, start, stop)
                logits[image, start:stop] = linear(hidden.relu_(), work.second, work.second_bias)
                # Else it would live on until the next strip's is there.
                del hidden
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        work = _Work(ctx.grid_hw, ctx.plans, ctx.saved_tensors)
        found = _Gradients(work)
        for image, start, stop in work.strips():
            found.add(gradients[0][image, start:stop].contiguous(), image, start, stop)
        return (None, None, None, *found.all())


class _Work:
    """The tensors of one call, and how they are cut into strips."""

    def __init__(self, grid_hw: tuple[int, int], plans: Sequence[StripPlan], tensors: Sequence[Tensor | None]) -> None:
        self.plans = plans
        self.fine, self.first, bias, self.second, self.second_bias, *responses = tensors
        if bias is None:
            raise ValueError("expected a bias, got none")
        self.bias = bias
        self.responses = [values for values in responses if values is not None]
        whole = self.responses[0] if self.fine is None else self.fine
        self.images = whole.shape[0]
        self.grid_hw = grid_hw
        row = grid_hw[1] * len(bias) * bias.element_size()
        each = max(_FEWEST_ROWS, (_LOGITS_BYTES if self.second is None else _STRIP_BYTES) // row)
        self.rows = each if self.second is None else each * min(torch.get_num_threads(), _MOST_THREADS)

    def strips(self) -> Iterator[tuple[int, int, int]]:
        """Yield image, first row and row after the last one."""
        for image in range(self.images):
            for start in range(0, self.grid_hw[0], self.rows):
                yield image, start, min(start + self.rows, self.grid_hw[0])

    def sum(self, image: int, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """Return the strip's hidden units before the ReLU (n, x, H), in `out` if there is one."""
        if self.fine is None or self.first is None:
            total = self.bias.expand(stop - start, self.grid_hw[1], -1)
            total = total.contiguous() if out is None else out.copy_(total)
        elif out is None:
            total = linear(self.fine[image, start:stop].to(self.bias.dtype), self.first, self.bias)
        else:
            total, values = out, self.fine[image, start:stop].to(self.bias.dtype)
            torch.addmm(self.bias, values.flatten(0, 1), self.first.t(), out=out.flatten(0, 1))
        flat = total.flatten(1)
        for plan, values in zip(self.plans, self.responses, strict=True):
            weights, needed = plan.read(start, stop)
            flat.addmm_(weights, plan.widen(values[image : image + 1, needed])[0].flatten(1))
        return total


class _Gradients:
    """Sums of the gradients over all strips."""

    def __init__(self, work: _Work) -> None:
        self.work = work
        self.first, self.second = (None if w is None else torch.zeros_like(w) for w in (work.first, work.second))
        self.second_bias = None if work.second_bias is None else torch.zeros_like(work.second_bias)
        self.bias = torch.zeros_like(work.bias)
        # A graph that is kept will be asked for the same responses again.
        keep = torch._C._autograd._get_current_graph_task_keep_graph()
        self.responses = [_InPlace(values.clone() if keep else values) for values in work.responses]

    def add(self, gradient: Tensor, image: int, start: int, stop: int) -> None:
        """Add a strip's part, given the gradient of its logits (n, x, K)."""
        work = self.work
        if work.second is not None and self.second is not None and self.second_bias is not None:
            active = work.sum(image, start, stop).relu_()
            add_weight_gradient(self.second, gradient, active)
            self.second_bias.add_(gradient.sum((0, 1)))
            gradient = linear(gradient, work.second.t()).mul_(active.sign_())
        self.bias.add_(gradient.sum((0, 1)))
        if self.first is not None and work.fine is not None:
            add_weight_gradient(self.first, gradient, work.fine[image, start:stop].to(gradient.dtype))
        flat = gradient.flatten(1)
        for plan, total in zip(work.plans, self.responses, strict=True):
            weights, needed = plan.read(start, stop)
            wide = torch.mm(weights.t(), flat).view(1, -1, *gradient.shape[1:])
            # Of its own memory: it is added to, and kept until no later strip reads these rows.
            total.add(image, needed, plan.narrow(wide)[0].contiguous())

    def all(self) -> tuple[Tensor | None, ...]:
        return (self.first, self.bias, self.second, self.second_bias, *(total.finished() for total in self.responses))


class _InPlace:
    """The gradient of a response, written over it: a row as soon as no later strip reads it.

    Args:
        values: (B, h, w, H), which strips read from first to last.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._image = 0
        self._start = 0
        self._rows = values.new_empty((0, *values.shape[2:]))

    def add(self, image: int, needed: slice, gradient: Tensor) -> None:
        """Add the gradient (n, w, H) of rows, none of them before those that were added last."""
        if image != self._image:
            self._write(self._values.shape[1])
            self._image, self._start, self._rows = image, 0, gradient[:0]
        shared = max(0, self._start + len(self._rows) - needed.start)
        gradient[:shared] += self._rows[len(self._rows) - shared :]
        self._write(needed.start)
        self._start, self._rows = needed.start, gradient

    def finished(self) -> Tensor:
        """Return the whole gradient (B, h, w, H)."""
        self._write(self._values.shape[1])
        return self._values

    def _write(self, stop: int) -> None:
        """Put all rows before `stop` in their place; those that no strip read have no gradient."""
        count = min(len(self._rows), stop - self._start)
        self._values[self._image, self._start : self._start + count] = self._rows[:count]
        self._values[self._image, self._start + count : stop] = 0
