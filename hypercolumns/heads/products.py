"""The linear layer of the heads, by the fastest product at hand.

On CPUs torch multiplies float32 matrices with MKL, which on some makes (AMD's) runs at 40 % of what oneDNN's convolutions reach
on the same core; with channels last a 1x1 convolution is the same product of the same memory. The gradient of its weights is
another matter: there oneDNN reaches a third of MKL's rate on processors without AVX-512. Measured in docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from llvmlite.binding import get_host_cpu_name
from torch import Tensor

from hypercolumns.kernels.halving import convert_halves
from hypercolumns.sources import LayerMap

__all__ = ["add_linear", "add_weight_gradient", "join_as", "linear"]

_BATCH = 16
"""Images from which on torch hands 1x1 convolutions of one thread to oneDNN; fewer go to MKL after all."""

_HAS_SLOW_MKL = get_host_cpu_name().startswith(("znver", "bdver", "btver", "amdfam"))
"""Whether MKL has slow code for this make of processor: AMD's."""

_HAS_ONEDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]

_USES_CONVOLUTIONS = _HAS_ONEDNN and _HAS_SLOW_MKL

_MATRIX_GRADIENTS = torch.backends.cpu.get_cpu_capability() != "AVX512"
"""Whether gradients of weights are products of matrices, and not those of convolutions."""


def linear(
    values: Float[Tensor, "*points c"], weight: Float[Tensor, "k c"], bias: Float[Tensor, " k"] | None = None
) -> Float[Tensor, "*points k"]:
    """Apply a linear layer to the last dimension: `torch.nn.functional.linear`, to rounding; the result lies in one piece."""
    if not _by_convolution(values):
        return F.linear(values, weight, bias)
    # Under autocast the product is of another type than its arguments, which torch sees to.
    if torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"):
        result: Tensor = _Linear.apply(values, weight, bias)
        return result
    return _convolved(values, weight, bias)


def add_linear(
    total: Float[Tensor, "b *points k"], values: Float[Tensor, "_ *points c"], weight: Float[Tensor, "k c"]
) -> Float[Tensor, "b *points k"]:
    """Return `total + linear(values, weight)`, one image's values for all or each its own.

    Where no gradient goes through it, it may be written over `total`.
    """
    alike = values.shape[:-1] == total.shape[:-1] and total.is_contiguous()
    if torch.is_grad_enabled() or _by_convolution(values) or not alike:
        return total + linear(values, weight)
    total.view(-1, total.shape[-1]).addmm_(values.flatten(0, -2), weight.t())
    return total


def add_weight_gradient(
    total: Float[Tensor, "k c"], outputs: Float[Tensor, "*points k"], inputs: Float[Tensor, "*points c"]
) -> None:
    """Add to a weight's gradient what some points of `linear` contribute, given the gradient of its outputs there."""
    if _MATRIX_GRADIENTS or not _by_convolution(outputs):
        total.addmm_(outputs.flatten(0, -2).t(), inputs.flatten(0, -2))
        return
    total.add_(_convolved_gradient(outputs, inputs, total))


def _convolved_gradient(outputs: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of a weight, of which the shape alone counts."""
    images = _images(outputs.numel() // outputs.shape[-1])
    gradient, values = (_as_pixels(tensor, images) for tensor in (outputs, inputs))
    mask = [False, True, False]
    _, found, _ = torch.ops.aten.convolution_backward(
        gradient, values, weight[..., None, None], None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, mask
    )
    result: Tensor = found[..., 0, 0]
    return result


class _Linear(torch.autograd.Function):
    """`linear` whose gradients are products too, each by the library that is fast at it; they have gradients themselves.

    The weights are kept for the gradient of the values alone: torch's own convolutions keep them in any case.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(values, weight if ctx.needs_input_grad[0] else None)
        return _convolved(values, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, weight = ctx.saved_tensors
        (gradient,) = gradients
        rows, weights = gradient.flatten(0, -2), None
        if ctx.needs_input_grad[1] and _MATRIX_GRADIENTS:
            weights = rows.t() @ values.flatten(0, -2)
        elif ctx.needs_input_grad[1]:
            weights = _convolved_gradient(gradient, values, values.new_empty(gradient.shape[-1], values.shape[-1]))
        return (
            None if weight is None else linear(gradient, weight.t()),
            weights,
            rows.sum(0) if ctx.needs_input_grad[2] else None,
        )


def _by_convolution(values: Tensor) -> bool:
    return values.dtype == torch.float32 and values.device.type == "cpu" and _USES_CONVOLUTIONS and values.numel() > 0


def _convolved(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    images = _images(values.numel() // values.shape[-1])
    result = F.conv2d(_as_pixels(values, images), weight[:, :, None, None], bias)
    # How a convolution leaves images one pixel wide is for torch to choose: channels may come first.
    return result.permute(0, 2, 3, 1).reshape(*values.shape[:-1], len(weight)).contiguous()


def _images(points: int) -> int:
    """Return the number of images as which points are handed over."""
    return _BATCH if torch.get_num_threads() == 1 and points % _BATCH == 0 else 1


def _cast(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a tensor."""
    if (values.dtype, dtype) != (torch.float16, torch.bfloat16):
        return values.to(dtype)
    if values.requires_grad:
        # By way of float32, which CPUs do at twice the speed.
        return values.float().to(dtype)
    converted = torch.empty_like(values, dtype=dtype)
    _fill(converted, values)
    return converted


def join_as(maps: Sequence[LayerMap], dtype: torch.dtype) -> Tensor:
    """Join maps along their channels, which come last, and convert them; one that is as it should be is not copied."""
    if not all(isinstance(part, Tensor) for part in maps):
        return _join_apart([part if isinstance(part, Tensor) else list(part) for part in maps], dtype)
    parts = [part for part in maps if isinstance(part, Tensor)]
    if len(parts) == 1:
        return _cast(parts[0], dtype)
    images = next((len(part) for part in parts if len(part) != 1), 1)
    if any(part.requires_grad for part in parts):
        return torch.cat([_cast(part, dtype).expand(images, *part.shape[1:]) for part in parts], dim=-1)
    joined = parts[0].new_empty((images, *parts[0].shape[1:-1], sum(part.shape[-1] for part in parts)), dtype=dtype)
    for part, target in zip(parts, torch.split(joined, [part.shape[-1] for part in parts], dim=-1), strict=True):
        _fill(target, part)
    return joined


def _join_apart(maps: Sequence[Tensor | list[Tensor]], dtype: torch.dtype) -> Tensor:
    """Join maps some of which are one tensor an image."""
    images = next((len(part) for part in maps if len(part) != 1), 1)
    shape = (images, *maps[0][0].shape[:-1], sum(part[0].shape[-1] for part in maps))
    joined = torch.empty(shape, dtype=dtype, device=maps[0][0].device)
    for part, target in zip(maps, torch.split(joined, [part[0].shape[-1] for part in maps], dim=-1), strict=True):
        for number, out in enumerate(target):
            _fill(out, part[number if len(part) > 1 else 0])
    return joined


def _fill(target: Tensor, values: Tensor) -> None:
    """Copy numbers into a tensor of another type."""
    halves = (values.dtype, target.dtype) == (torch.float16, torch.bfloat16)
    if halves and values.shape == target.shape and values.is_contiguous() and values.device.type == "cpu":
        convert_halves(values, target)
    else:
        target.copy_(values.float() if halves else values)


def _as_pixels(values: Float[Tensor, "*points c"], images: int = 1) -> Float[Tensor, "b c n 1"]:
    """View points as the pixels of narrow images, which their number must divide; channels last in memory."""
    return values.reshape(images, -1, 1, values.shape[-1]).permute(0, 3, 1, 2)
