"""What dense training may add to a converted classifier: a look around each cell of the coarse maps.

Every addition starts at zero, so that conversion stays exact, and works on standardised maps at their native resolution, where
it is cheap. It adds to the first layer's response before that is upsampled.

Source: pooled context follows Zhao et al., "Pyramid scene parsing network", CVPR 2017, sec. 3.2, with sliding windows and the
global mean in place of fixed bins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hypercolumns.heads.products import linear

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

    def forward(self, values: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w k"]:
        """Return the response of a standardised map: zero padding at its border stands for the mean activation."""
        response = F.conv2d(values.permute(0, 3, 1, 2), self.kernel.weight.to(values.dtype), padding=1)
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

    def forward(self, values: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w k"]:
        """Return the response of a standardised map; windows are cut off at its border."""
        # A linear layer and a mean commute: its few outputs are pooled, not the map's many channels.
        responses = linear(values, self.windows.weight.to(values.dtype)).permute(0, 3, 1, 2)
        pooled = [
            _window_mean(part, side) for part, side in zip(torch.chunk(responses, len(_WINDOWS), 1), _WINDOWS, strict=True)
        ]
        whole = linear(values.mean((1, 2), keepdim=True), self.whole.weight.to(values.dtype))
        return torch.stack(pooled).sum(0).permute(0, 2, 3, 1) + whole


def _window_mean(maps: Tensor, side: int) -> Tensor:
    # Rows, then columns: the same mean as over the square, for 2·side additions a cell.
    rows = F.avg_pool2d(maps, (side, 1), 1, (side // 2, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), 1, (0, side // 2), count_include_pad=False)
