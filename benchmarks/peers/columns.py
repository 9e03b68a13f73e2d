"""Hypercolumns as one would write them in plain torch: hooks on a frozen squeezenet1_1, and bilinear sampling of its maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import squeezenet1_1

from benchmarks.peers.gradients import as_batch
from benchmarks.peers.scene import IMAGE_HW, read_image

__all__ = ["COLUMNS", "Taps", "at_points", "column_statistics", "on_grid"]

_TAPS = (1, 3, 4, 6, 7, 9, 10, 11, 12)
"""The first convolution and every fire, after their ReLUs: what the project's preset takes too."""

COLUMNS = 64 + 2 * (128 + 256) + 2 * (384 + 512)


class Taps(nn.Module):
    """The frozen backbone: an image batch to nine maps.

    Args:
        weights: state dict of torchvision's squeezenet1_1.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        network = squeezenet1_1(weights=None)
        network.load_state_dict(torch.load(weights, weights_only=True))
        self.features = network.features.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps, shallow to deep, each (b, c, h, w)."""
        found = []
        for number, part in enumerate(self.features):
            images = part(images)
            if number in _TAPS:
                found.append(images)
        return found


def at_points(maps: Sequence[Tensor], points_xy: Tensor) -> Tensor:
    """Return the hypercolumns (m, D) of one image at positions in its pixels.

    Args:
        maps: the image's maps, each (1, c, h, w).
        points_xy: float (m, 2); a pixel's centre is at its index plus one half.
    """
    height, width = IMAGE_HW
    grid = (points_xy / torch.tensor([width, height]) * 2 - 1)[None, None]
    parts = [functional.grid_sample(m.float(), grid, padding_mode="border", align_corners=False)[0, :, 0].T for m in maps]
    return torch.cat(parts, 1)


def on_grid(maps: Sequence[Tensor], stride: int) -> Tensor:
    """Return one image's hypercolumns (h·w, D) at a grid of points, row by row."""
    size = (IMAGE_HW[0] // stride, IMAGE_HW[1] // stride)
    widened = [functional.interpolate(m.float(), size=size, mode="bilinear", align_corners=False) for m in maps]
    return torch.cat(widened, 1)[0].permute(1, 2, 0).reshape(size[0] * size[1], -1)


def column_statistics(taps: Taps, images: Sequence[Path]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every channel (D,), from the maps of some images."""
    columns: list[NDArray[np.float32]] = [on_grid(taps(as_batch([read_image(path)])), 16).numpy() for path in images]
    stacked = torch.from_numpy(np.concatenate(columns))
    return stacked.mean(0), stacked.std(0).clamp_min(1e-3)
