"""The linear layer of the heads, by the fastest product at hand.

On CPUs torch multiplies float32 matrices with MKL, which on some makes (AMD's) runs at 40 % of what oneDNN's convolutions reach
on the same core; with channels last a 1x1 convolution is the same product of the same memory. Measured in docs/performance.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["as_pixels", "cast", "linear"]

_BATCH = 16
"""Images from which on torch hands 1x1 convolutions of one thread to oneDNN; fewer go to MKL after all."""

_HAS_ONEDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def linear(
    values: Float[Tensor, "*points c"], weight: Float[Tensor, "k c"], bias: Float[Tensor, " k"] | None = None
) -> Float[Tensor, "*points k"]:
    """Apply a linear layer to the last dimension: `torch.nn.functional.linear`, to rounding."""
    if values.dtype != torch.float32 or values.device.type != "cpu" or not _HAS_ONEDNN:
        return F.linear(values, weight, bias)
    points = values.numel() // max(1, values.shape[-1])
    images = _BATCH if torch.get_num_threads() == 1 and points and points % _BATCH == 0 else 1
    result = F.conv2d(as_pixels(values, images), weight[:, :, None, None], bias)
    return result.permute(0, 2, 3, 1).reshape(*values.shape[:-1], len(weight))


def cast(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a tensor; from half precision to bfloat16 by way of float32, which CPUs do at twice the speed."""
    if values.dtype == torch.float16 and dtype == torch.bfloat16:
        values = values.float()
    return values.to(dtype)


def as_pixels(values: Float[Tensor, "*points c"], images: int = 1) -> Float[Tensor, "b c n 1"]:
    """View points as the pixels of narrow images, which their number must divide; channels last in memory."""
    return values.reshape(images, -1, 1, values.shape[-1]).permute(0, 3, 1, 2)
