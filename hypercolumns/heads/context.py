"""What dense training may add to a converted classifier: a look around each cell of the coarse maps.

Every addition starts at zero, so that conversion stays exact, and sees standardised maps at their native resolution, where that
is cheap. It adds to the first layer's response before that is upsampled.

Source: pooled context follows Zhao et al., "Pyramid scene parsing network", CVPR 2017, sec. 3.2, with sliding windows and the
global mean in place of fixed bins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hypercolumns.heads.products import linear
from hypercolumns.heads.remembering import Remembered

__all__ = ["NeighbourContext", "PooledContext"]

_WINDOWS = (5, 11)
"""Sides of the sliding windows in cells; the mean over the whole map comes beside them."""


class NeighbourContext(nn.Module):
    """A 3x3 kernel on a map.

    Args:
        channels: Channels of the map.
        outputs: Channels of the response.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.kernel = nn.Conv2d(channels, outputs, 3, padding=1, bias=False)
        nn.init.zeros_(self.kernel.weight)

    def forward(self, values: Float[Tensor, "b h w c"], mean: Float[Tensor, " c"], std: Float[Tensor, " c"]) -> Tensor:
        """Return the response (B, h, w, K) of a map, given its statistics: what is beyond its border counts as the mean."""
        standard = (values - mean.to(values)) / std.to(values)
        response = F.conv2d(standard.permute(0, 3, 1, 2), self.kernel.weight.to(values.dtype), padding=1)
        return response.permute(0, 2, 3, 1)


class PooledContext(nn.Module):
    """A linear layer on means over windows around each cell, and over the whole map.

    Args:
        channels: Channels of the map.
        outputs: Channels of the response.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.windows = nn.Linear(channels, outputs * len(_WINDOWS), bias=False)
        self.whole = nn.Linear(channels, outputs, bias=False)
        nn.init.zeros_(self.windows.weight)
        nn.init.zeros_(self.whole.weight)
        self._folded: Remembered[tuple[Tensor, ...]] = Remembered()

    def forward(self, values: Float[Tensor, "b h w c"], mean: Float[Tensor, " c"], std: Float[Tensor, " c"]) -> Tensor:
        """Return the response (B, h, w, K) of a map, given its statistics; windows are cut off at its border."""
        parameters = (self.windows.weight, self.whole.weight, mean, std)
        windows, whole, bias = self._folded.value(parameters, values.dtype, lambda: self._fold(mean, std, values.dtype))
        # A linear layer and a mean commute: its few outputs are pooled, not the map's many channels.
        responses = linear(values, windows).permute(0, 3, 1, 2)
        parts = torch.chunk(responses, len(_WINDOWS), 1)
        total = linear(values.mean((1, 2), keepdim=True), whole, bias).permute(0, 3, 1, 2)
        for part, side in zip(parts, _WINDOWS, strict=True):
            total = total + _window_mean(part, side)
        return total.permute(0, 2, 3, 1)

    def _fold(self, mean: Tensor, std: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Fold the standardisation into the weights, as the mean of a constant is that constant, whatever the window."""
        windows, whole = (layer.weight / std for layer in (self.windows, self.whole))
        bias = torch.stack([*torch.chunk(windows @ mean, len(_WINDOWS)), whole @ mean]).sum(0).neg()
        return windows.to(dtype), whole.to(dtype), bias.to(dtype)


def _window_mean(maps: Tensor, side: int) -> Tensor:
    # Rows, then columns: the same mean as over the square, for 2·side additions a cell.
    rows = F.avg_pool2d(maps, (side, 1), 1, (side // 2, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), 1, (0, side // 2), count_include_pad=False)
