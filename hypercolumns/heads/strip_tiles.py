"""Images by kernels of our own: a thread finishes a few points before it begins the next, and hidden units stay in its core.

The way of float32 where registers hold sixteen numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hypercolumns.heads.strip_work import Work
from hypercolumns.kernels.classifying import Image, classify_image, hidden_like
from hypercolumns.kernels.fine import FineMaps
from hypercolumns.kernels.layers import Layers
from hypercolumns.kernels.learning import Learned

__all__ = ["classify_in_tiles", "fits_tiles", "gradients_in_tiles"]

WIDE_REGISTERS = torch.backends.cpu.get_cpu_capability() == "AVX512"
"""Whether products of our own keep up with the library's."""


def fits_tiles(work: Work) -> bool:
    """Say whether kernels of our own are the faster ones."""
    return WIDE_REGISTERS and work.bias.dtype == torch.float32


def classify_in_tiles(work: Work, logits: Tensor, *, remember: bool) -> list[Tensor]:
    """Write the logits (B, y, x, K); return each image's hidden units, if they are to be remembered."""
    layers = _layers(work)
    kept = [hidden_like(layers, work.grid_hw) for _ in range(work.images if remember else 0)]
    for number in range(work.images):
        classify_image(logits[number], _image(work, layers, number, kept))
    return kept


def gradients_in_tiles(work: Work, gradient: Tensor, kept: list[Tensor]) -> tuple[list[Tensor | None], list[Tensor]]:
    """Return the gradients of both layers' weights and biases, and of the responses."""
    layers = _layers(work)
    learned, responses = Learned(layers), work.written_over()
    for number in range(work.images):
        learned.add(gradient[number], _image(work, layers, number, kept))
    has_second = work.second is not None
    return [
        None if work.first is None else learned.first,
        learned.bias,
        learned.second if has_second else None,
        learned.second_bias if has_second else None,
    ], responses


def _layers(work: Work) -> Layers:
    return Layers.of(work.first, work.bias, work.second, work.second_bias)


def _image(work: Work, layers: Layers, number: int, kept: list[Tensor]) -> Image:
    fine = FineMaps(work.fine_of(number), work.fine_plans)
    return Image(layers, fine, work.responses_of(number), work.plan, kept[number] if kept else None)
