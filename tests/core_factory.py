"""Layers and map sources made by hand, and references for reading them that share no code with the library."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hypercolumns.backbones import LayerInfo
from hypercolumns.columns import Frame, gather
from hypercolumns.sources import Item


@contextlib.contextmanager
def torch_threads(count):
    """Have torch take so many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_layer(
    name: str,
    channels: int,
    map_hw: tuple[int, int],
    stride_px: tuple[float, float] | None = None,
    offset_px: tuple[float, float] | None = None,
) -> LayerInfo:
    """Describe a layer; its receptive field, which nothing here reads, is left out."""
    return LayerInfo(name, channels, map_hw, stride_px, None, offset_px)


def make_maps(layers: Sequence[LayerInfo], batch: int, seed: int = 0, scale: float = 1.0) -> list[Tensor]:
    """Draw one float32 map (batch, h, w, C) per layer."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, *layer.map_hw, layer.channels, generator=generator) * scale for layer in layers]


def relative_difference(value: Tensor, reference: Tensor) -> float:
    """Return max|a-b| / max|b|, b in double precision."""
    return float((value.detach().double() - reference.detach().double()).abs().max() / reference.detach().abs().max())


def torch_stack(maps: Sequence[Tensor], out_hw: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Upsample and concatenate in double precision with torch alone: (b, y, x, ΣC)."""
    upsampled = [
        F.interpolate(values.double().permute(0, 3, 1, 2), size=out_hw, mode="bilinear", align_corners=align_corners)
        for values in maps
    ]
    return torch.cat(upsampled, 1).permute(0, 2, 3, 1)


def loop_interpolate(values: np.ndarray, centres_y: np.ndarray, centres_x: np.ndarray, points_xy: np.ndarray) -> np.ndarray:
    """Read a map (h, w, C), whose cells lie at given positions, at points (n, 2): numpy's interpolation, axis by axis."""
    found = np.empty((len(points_xy), values.shape[2]))
    for number, (x, y) in enumerate(points_xy):
        for channel in range(values.shape[2]):
            rows = [np.interp(x, centres_x, row) for row in values[:, :, channel]]
            found[number, channel] = np.interp(y, centres_y, rows)
    return found


def grid_points(canvas_hw: tuple[int, int], stride: int) -> np.ndarray:
    """List the grid points s(j+1/2) of a canvas row by row, (n, 2) as x, y."""
    return np.array(
        [
            ((column + 0.5) * stride, (row + 0.5) * stride)
            for row in range(canvas_hw[0] // stride)
            for column in range(canvas_hw[1] // stride)
        ]
    )


class MemorySource:
    """A map source of maps kept in memory; the mirrored view of an image has mirrored maps."""

    def __init__(self, layers: Sequence[LayerInfo], canvas_hw: tuple[int, int], images: int = 1, seed: int = 0) -> None:
        self.layers = tuple(layers)
        self.canvas_hw = canvas_hw
        self.values = make_maps(layers, images, seed)

    def maps(self, items: Sequence[Item]) -> list[Tensor]:
        """Return one map per layer, each (len(items), h, w, C)."""
        return [
            torch.stack([values[index].flip(1) if view == "hflip" else values[index] for index, view in items])
            for values in self.values
        ]

    def gather(self, item: Item, points_xy: Tensor, frame: Frame) -> Tensor:
        """Return the hypercolumns of one image at canvas positions."""
        return gather([values[0] for values in self.maps([item])], points_xy, self.layers, frame)

    def select(self, names: Sequence[str]) -> MemorySource:
        """Return a source of some of the layers."""
        chosen = copy.copy(self)
        chosen.layers = tuple(layer for layer in self.layers if layer.name in set(names))
        chosen.values = [values for layer, values in zip(self.layers, self.values, strict=True) if layer in chosen.layers]
        return chosen
