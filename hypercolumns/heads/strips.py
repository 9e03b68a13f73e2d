"""Upsample, sum and classify a few rows of the grid at a time: what lies between never leaves the cache.

At full resolution the hidden units of every grid point are hundreds of megabytes, written and read once per layer. Here each
strip of rows is finished before the next one begins: interpolate its share of every response and add up
(`hypercolumns.kernels.widening`), apply the second linear layer, keep the logits alone. The gradient does the same again
instead of remembering, where that would be much, and is written over the responses, a row as soon as no later strip reads it:
memory stays that of the responses.

Source: recomputing instead of remembering follows Chen et al., "Training deep nets with sublinear memory cost", 2016, sec. 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hypercolumns.heads.products import add_weight_gradient, linear
from hypercolumns.kernels.spreading import spread_back
from hypercolumns.kernels.widening import Widening, add_widened, read_rows

__all__ = ["classify_in_strips"]

_STRIP_BYTES = 1 << 21
"""Hidden units of a strip, for each thread: they and what is made of them stay in the caches of its core."""

_MOST_THREADS = 8
"""That are reckoned with: strips save memory too."""

_LOGITS_BYTES = 1 << 20
"""The same for all threads together where there is no second layer: little else is held then."""

_REMEMBERED_BYTES = 1 << 23
"""Hidden units of an image up to which they are remembered for the gradient, which then takes a quarter less time."""

_FEWEST_ROWS = 8
"""Of a strip for each thread, however wide: products of few points are slow."""


def classify_in_strips(
    grid_hw: tuple[int, int],
    plan: Widening,
    responses: Sequence[Tensor],
    fine: Sequence[tuple[Tensor, Widening]],
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
        fine: Maps (B, h, w, C), or (1, h, w, C) for all images, to which the first linear layer is still to be applied, of any
            type that can be read (`can_read`), and how each is read. No gradient goes to them.
        first: Weights (H, sum of C) for them; None where there are none.
        bias: (H,), added to the sum.
        second: Weights (K, H) of the second linear layer, after a ReLU; None returns the sum itself.
        second_bias: (K,); None with `second`.
    """
    maps, plans = [values.contiguous() for values, _ in fine], tuple(reading for _, reading in fine)
    images = next((len(values) for values in [*maps, *responses] if len(values) != 1), 1)
    # One image's response for all is written out: each image's gradient lands in a place of its own.
    whole = [values.expand(images, -1, -1, -1).contiguous() for values in responses]
    logits: Tensor = _Strips.apply(grid_hw, plan, plans, first, bias, second, second_bias, *maps, *whole)
    return logits


class _Strips(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, grid_hw: tuple[int, int], plan: Widening, fine_plans: tuple[Widening, ...], *tensors: Tensor | None
    ) -> Tensor:
        work = _Work(grid_hw, plan, fine_plans, tensors)
        ctx.grid_hw, ctx.plan, ctx.fine_plans, ctx.rows = grid_hw, plan, fine_plans, work.rows
        outputs = work.bias if work.second is None else work.second
        logits = work.bias.new_empty((work.images, *work.grid_hw, len(outputs)))
        kept = []
        if work.second is None:
            for image in range(work.images):
                work.sum(image, 0, grid_hw[0], out=logits[image])
        else:
            remembered = any(ctx.needs_input_grad) and work.image_bytes <= _REMEMBERED_BYTES
            for image, start, stop in work.strips():
                hidden = work.sum(image, start, stop)
                logits[image, start:stop] = linear(hidden, work.second, work.second_bias)
                if remembered:
                    kept.append(hidden)
                # Else it would live on until the next strip's is there.
                del hidden
        ctx.inputs = len(tensors)
        ctx.save_for_backward(*tensors, *kept)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        work = _Work(ctx.grid_hw, ctx.plan, ctx.fine_plans, saved[: ctx.inputs])
        # Whatever the number of threads is now.
        work.rows = ctx.rows
        found, kept = _Gradients(work), iter(saved[ctx.inputs :])
        for image, start, stop in work.strips():
            found.add(gradients[0][image, start:stop].contiguous(), image, start, stop, next(kept, None))
        return (None, None, None, *found.all())


class _Work:
    """The tensors of one call, and how they are cut into strips."""

    def __init__(
        self, grid_hw: tuple[int, int], plan: Widening, fine_plans: Sequence[Widening], tensors: Sequence[Tensor | None]
    ) -> None:
        self.plan, self.fine_plans = plan, fine_plans
        self.first, bias, self.second, self.second_bias, *maps = tensors
        if bias is None:
            raise ValueError("expected a bias, got none")
        self.bias = bias
        whole = [values for values in maps if values is not None]
        self.fine, self.responses = whole[: len(fine_plans)], whole[len(fine_plans) :]
        self.images = next((len(values) for values in whole if len(values) != 1), 1)
        self.grid_hw = grid_hw
        row = grid_hw[1] * len(bias) * bias.element_size()
        self.image_bytes = grid_hw[0] * row
        threads = min(torch.get_num_threads(), _MOST_THREADS)
        strip = _LOGITS_BYTES if self.second is None else _STRIP_BYTES * threads
        self.rows = max(_FEWEST_ROWS * threads, strip // row)

    def strips(self) -> Iterator[tuple[int, int, int]]:
        """Yield image, first row and row after the last one."""
        for image in range(self.images):
            for start in range(0, self.grid_hw[0], self.rows):
                yield image, start, min(start + self.rows, self.grid_hw[0])

    def read_fine(self, image: int, start: int, stop: int) -> Tensor:
        """Return the fine maps at the strip's points, (n, x, C)."""
        maps = [values[image if len(values) > 1 else 0] for values in self.fine]
        if len(maps) == 1 and self.fine_plans[0].is_plain and maps[0].dtype == self.bias.dtype:
            return maps[0][start:stop]
        channels = [values.shape[2] for values in maps]
        found = self.bias.new_empty(stop - start, self.grid_hw[1], sum(channels))
        for out, values, plan in zip(torch.split(found, channels, dim=2), maps, self.fine_plans, strict=True):
            read_rows(out, values, plan, start)
        return found

    def sum(self, image: int, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """Return the strip's hidden units (n, x, H), after the ReLU if a second layer follows, in `out` if there is one."""
        onto = self.bias
        if self.first is not None:
            values = self.read_fine(image, start, stop)
            if out is None:
                onto = out = linear(values, self.first, self.bias)
            else:
                torch.addmm(self.bias, values.flatten(0, 1), self.first.t(), out=out.flatten(0, 1))
                onto = out
        if out is None:
            out = self.bias.new_empty(stop - start, self.grid_hw[1], len(self.bias))
        maps = [values[image] for values in self.responses]
        add_widened(out, maps, self.plan, start, onto, relu=self.second is not None)
        return out


class _Gradients:
    """Sums of the gradients over all strips."""

    def __init__(self, work: _Work) -> None:
        self.work = work
        self.first, self.second = (None if w is None else torch.zeros_like(w) for w in (work.first, work.second))
        self.second_bias = None if work.second_bias is None else torch.zeros_like(work.second_bias)
        self.bias = torch.zeros_like(work.bias, dtype=torch.float32)
        # A graph that is kept will be asked for the same responses again.
        keep = torch._C._autograd._get_current_graph_task_keep_graph()
        self.responses = [_InPlace(values.clone() if keep else values) for values in work.responses]

    def add(self, gradient: Tensor, image: int, start: int, stop: int, active: Tensor | None) -> None:
        """Add a strip's part, given the gradient of its logits (n, x, K), and its hidden units if they were remembered."""
        work = self.work
        if work.second is not None and self.second is not None and self.second_bias is not None:
            active = work.sum(image, start, stop) if active is None else active
            add_weight_gradient(self.second, gradient, active)
            self.second_bias.add_(gradient.sum((0, 1)))
            gradient = linear(gradient, work.second.t())
        pieces, bias = spread_back(gradient, work.plan, start, active)
        self.bias.add_(bias)
        if self.first is not None:
            add_weight_gradient(self.first, gradient, work.read_fine(image, start, stop))
        for parts, total in zip(pieces, self.responses, strict=True):
            for needed, part in parts:
                total.add(image, needed, part)

    def all(self) -> tuple[Tensor | None, ...]:
        responses = [total.finished() for total in self.responses]
        fine = [None] * len(self.work.fine)
        return (self.first, self.bias.to(self.work.bias.dtype), self.second, self.second_bias, *fine, *responses)


class _InPlace:
    """The gradient of a response, written over it: a row as soon as no later strip reads it.

    Args:
        values: (B, h, w, H), which strips read from first to last.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._image = 0
        self._start = 0
        self._rows = values.new_empty((0, *values.shape[2:]), dtype=torch.float32)

    def add(self, image: int, needed: slice, gradient: Tensor) -> None:
        """Add the gradient (n, w, H) of rows, none of them before those that were added last; it may be written over."""
        if image != self._image:
            self._write(self._values.shape[1])
            self._image, self._start, self._rows = image, 0, gradient[:0]
        shared = max(0, self._start + len(self._rows) - needed.start)
        gradient[:shared] += self._rows[len(self._rows) - shared :]
        self._write(needed.start)
        self._start, self._rows = needed.start, gradient

    def finished(self) -> Tensor:
        """Return the whole gradient (B, h, w, H)."""
        if len(self._values):
            self._write(self._values.shape[1])
        return self._values

    def _write(self, stop: int) -> None:
        """Put all rows before `stop` in their place; those that no strip read have no gradient."""
        count = min(len(self._rows), stop - self._start)
        self._values[self._image, self._start : self._start + count] = self._rows[:count]
        self._values[self._image, self._start + count : stop] = 0
