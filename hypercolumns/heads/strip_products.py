"""Strips by the library's products: each operation on a strip is one of torch's or one kernel, and all threads do it together.

The way of bfloat16, whose products are instructions of their own on many processors, and of float32 without wide registers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hypercolumns.heads.products import add_weight_gradient, linear
from hypercolumns.heads.strip_work import InPlace, Work
from hypercolumns.kernels.spreading import spread_back
from hypercolumns.kernels.widening import add_widened

__all__ = ["classify_by_products", "gradients_by_products", "rows_by_products"]

LOGITS_BYTES = 1 << 20
"""Of a strip, for all threads together, where there is no second layer: little else is held then."""


def rows_by_products(work: Work) -> int:
    """Return how many rows make a strip."""
    return work.rows_in(work.hidden_bytes(1), LOGITS_BYTES if work.second is None else None)


def classify_by_products(work: Work, rows: int, logits: Tensor, *, remember: bool) -> list[Tensor]:
    """Write the logits (B, y, x, K); return the hidden units (n, x, H) of each strip of so many rows, if wanted."""
    kept: list[Tensor] = []
    if work.second is None:
        for image in range(work.images):
            _sum(work, image, 0, work.grid_hw[0], out=logits[image])
        return kept
    for image, start, stop in work.strips(rows):
        hidden = _sum(work, image, start, stop)
        logits[image, start:stop] = linear(hidden, work.second, work.second_bias)
        if remember:
            kept.append(hidden)
        # Else it would live on until the next strip's is there.
        del hidden
    return kept


def gradients_by_products(
    work: Work, rows: int, gradient: Tensor, kept: list[Tensor]
) -> tuple[list[Tensor | None], list[Tensor]]:
    """Return the gradients of both layers' weights and biases, and of the responses."""
    sums, left = _Gradients(work), iter(kept)
    for image, start, stop in work.strips(rows):
        sums.add(gradient[image, start:stop].contiguous(), image, start, stop, next(left, None))
    layers = [sums.first, sums.bias.to(work.bias.dtype), sums.second, sums.second_bias]
    return layers, [total.finished() for total in sums.responses]


def _sum(work: Work, image: int, start: int, stop: int, out: Tensor | None = None) -> Tensor:
    """Return the strip's hidden units (n, x, H), after the ReLU if a second layer follows, in `out` if there is one."""
    onto = work.bias
    if work.first is not None:
        values = work.read_fine(image, start, stop)
        if out is None:
            onto = out = linear(values, work.first, work.bias)
        else:
            torch.addmm(work.bias, values.flatten(0, 1), work.first.t(), out=out.flatten(0, 1))
            onto = out
    if out is None:
        out = work.bias.new_empty(stop - start, work.grid_hw[1], len(work.bias))
    add_widened(out, work.responses_of(image), work.plan, start, onto, relu=work.second is not None)
    return out


class _Gradients:
    """Sums of the gradients over all strips."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.first, self.second = (None if w is None else torch.zeros_like(w) for w in (work.first, work.second))
        self.second_bias = None if work.second_bias is None else torch.zeros_like(work.second_bias)
        self.bias = torch.zeros_like(work.bias, dtype=torch.float32)
        self.responses = [InPlace(values) for values in work.written_over()]

    def add(self, gradient: Tensor, image: int, start: int, stop: int, active: Tensor | None) -> None:
        """Add a strip's part, given the gradient of its logits (n, x, K), and its hidden units if they were remembered."""
        work = self.work
        if work.second is not None and self.second is not None and self.second_bias is not None:
            active = _sum(work, image, start, stop) if active is None else active
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
