"""Hypercolumns three ways, all exact: gathered at sparse pixels, upsampled and stacked, and classified before upsampling.

Maps are channels last, (batch, height, width, channels), as the feature store keeps them: a column is then contiguous, and a
linear layer is one matrix product. What a map coordinate means is `hypercolumns.geometry`'s business; reading maps from a
store or computing them is a map source's (`hypercolumns.sources`).

Source: Hariharan et al., CVPR 2015, sec. 3: f_i = Σ_k α_ik F_k. A linear layer commutes with this interpolation,
W f_i = Σ_j up(W⁽ʲ⁾ F⁽ʲ⁾), so it may be applied at a map's native resolution and its few outputs upsampled (sec. 3.3 there).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hypercolumns.backbones import LayerInfo
from hypercolumns.errors import GeometryError
from hypercolumns.geometry import AxisMap, axis_map, grid_hw, grid_positions, linear_taps
from hypercolumns.kernels.gathering import KEPT, finite_error, gather_columns
from hypercolumns.resampling import plan_phases, resample_phases

__all__ = [
    "Frame",
    "check_map",
    "coordinate_columns",
    "coordinate_grid",
    "gather",
    "gather_kept",
    "layer_axes",
    "point_taps",
    "resample",
    "resample_linear",
    "stack",
]


@dataclass(frozen=True)
class Frame:
    """What relates maps to the canvas: its size and the alignment of cells.

    Attributes:
        canvas_hw: Size of the canvas in pixels.
        alignment: ``resize``, ``receptive_field`` or ``corners`` (see `hypercolumns.geometry`).
    """

    canvas_hw: tuple[int, int]
    alignment: str = "resize"


def layer_axes(layer: LayerInfo, frame: Frame) -> tuple[AxisMap, AxisMap]:
    """Relate a layer's map to the canvas, rows first.

    Raises:
        GeometryError: the alignment needs a stride that the layer does not have.
    """
    axes = []
    for axis in range(2):
        axes.append(
            axis_map(
                frame.canvas_hw[axis],
                layer.map_hw[axis],
                stride_px=None if layer.stride_px is None else layer.stride_px[axis],
                offset_px=None if layer.offset_px is None else layer.offset_px[axis],
                alignment=frame.alignment,
            )
        )
    return axes[0], axes[1]


def point_taps(
    points_xy: Float[Tensor, "n 2"], layers: Sequence[LayerInfo], frame: Frame
) -> tuple[Int[Tensor, "l n 4"], Float[Tensor, "l n 4"]]:
    """Find the four cells around each point in each layer's map, and their weights α_ik.

    Args:
        points_xy: Canvas positions (n, 2); the centre of pixel (x, y) is (x+½, y+½).
        layers: The layers whose maps are read.
        frame: Canvas and alignment.

    Returns:
        Flat cell numbers y·w + x (layers, n, 4) and their weights (layers, n, 4), which sum to one.
    """
    # All layers and both axes at once: for a few points the number of operations is what takes time.
    axes, neighbours = (part.to(points_xy.device) for part in _axes_table(tuple(layers), frame))
    scale, shift, last, last_lower, pitch = axes
    coordinate = (points_xy.to(torch.float64) * scale + shift).clamp(min=0).minimum(last)
    lower = coordinate.floor().minimum(last_lower)
    cells = (lower * pitch).sum(-1, keepdim=True) + neighbours
    first, growth = _SHARES.to(points_xy.device)
    along_x, along_y = (first + growth * (coordinate - lower).unsqueeze(-2)).unbind(-1)
    return cells.long(), (along_x * along_y).float()


_KEPT_AS = {
    (torch.float32, True): "float32",
    (torch.float16, True): "float16",
    (torch.bfloat16, True): "uint16",
}
"""What kernels take some kinds of maps for."""

_SHARES = torch.tensor([[[1, 1], [0, 1], [1, 0], [0, 0]], [[-1, -1], [1, -1], [-1, 1], [1, 1]]], dtype=torch.float64)
"""The shares that the four cells have of a point on the first one, along x and y, and by how much they grow up to the next."""


@lru_cache(maxsize=64)
def _axes_table(layers: tuple[LayerInfo, ...], frame: Frame) -> tuple[Tensor, Tensor]:
    """Tabulate the layers' axes, x before y.

    Returns:
        Scale, shift, last cell, last cell that has a next one (or the only cell), and by how much a flat cell number grows with
        the cell (5, layers, 1, 2); what the four cells around a point add to the first one's number (layers, 1, 4).
    """
    rows, neighbours = [], []
    for layer in layers:
        y, x = layer_axes(layer, frame)
        pitch = (1, x.cells)
        rows.append([[a.scale, a.shift, a.cells - 1, max(a.cells - 2, 0), p] for a, p in zip((x, y), pitch, strict=True)])
        right, below = min(x.cells - 1, 1), min(y.cells - 1, 1) * x.cells
        neighbours.append([0, right, below, below + right])
    table = torch.tensor(rows, dtype=torch.float64).reshape(len(layers), 1, 2, 5)
    return table.movedim(-1, 0).contiguous(), torch.tensor(neighbours, dtype=torch.float64).reshape(len(layers), 1, 4)


def gather(
    maps: Sequence[Float[Tensor, "_ _ _"]], points_xy: Float[Tensor, "n 2"], layers: Sequence[LayerInfo], frame: Frame
) -> Float[Tensor, "n d"]:
    """Read the hypercolumns at sparse points of one image, touching four cells a point and layer.

    Args:
        maps: One map per layer, each (h, w, C).
        points_xy: Canvas positions (n, 2).
        layers: The maps' layers, shallow to deep.
        frame: Canvas and alignment.

    Returns:
        Hypercolumns (n, ΣC) in float32.

    Raises:
        GeometryError: a map has another size than its layer's, or a position is not finite.

    Source: Hariharan et al., CVPR 2015, sec. 3.
    """
    for values, layer in zip(maps, layers, strict=True):
        check_map(values.shape[:2], layer)
    kinds = {_kind(values) for values in maps}
    if len(kinds) == 1 and not points_xy.requires_grad and (kept_as := _KEPT_AS.get(kinds.pop())) is not None:
        addresses, channels = [values.data_ptr() for values in maps], [values.shape[2] for values in maps]
        return _gather_at(addresses, kept_as, channels, points_xy, layers, frame)
    if not points_xy.isfinite().all():
        raise finite_error(points_xy)
    cells, weights = point_taps(points_xy, layers, frame)
    # Where each point's cells begin: torch would reckon it again for every layer.
    starts = torch.arange(0, 4 * len(points_xy), 4, device=points_xy.device)
    columns = [_gather_cells(m.flatten(0, 1), c, w, starts) for m, c, w in zip(maps, cells, weights, strict=True)]
    return torch.cat([torch.empty(len(points_xy), 0, device=points_xy.device), *columns], dim=1)


def gather_kept(
    maps: Sequence[np.ndarray], points_xy: Float[Tensor, "n 2"], layers: Sequence[LayerInfo], frame: Frame
) -> Float[Tensor, "n d"]:
    """Read the hypercolumns at sparse points of one image from maps as a feature store keeps them.

    Args:
        maps: One per layer, each (h, w, C), all of one type: float32, float16, bfloat16 as its bits (uint16), or bytes, which
            are read as the numbers 0 to 255.
        points_xy: Canvas positions (n, 2).
        layers: The maps' layers, shallow to deep.
        frame: Canvas and alignment.

    Returns:
        Hypercolumns (n, ΣC) in float32.

    Raises:
        GeometryError: a map has another size than its layer's, they are of several types or another one, or a position is not
            finite.
    """
    for values, layer in zip(maps, layers, strict=True):
        check_map(values.shape[:2], layer)
    if not maps:
        return torch.empty(len(points_xy), 0)
    kinds = sorted({values.dtype.str for values in maps})
    if len(kinds) > 1 or not maps[0].dtype.isnative or maps[0].dtype.name not in KEPT:
        raise GeometryError(f"expected maps of one type out of {', '.join(KEPT)}, got {', '.join(kinds)}")
    whole = [np.ascontiguousarray(values) for values in maps]
    addresses = [values.__array_interface__["data"][0] for values in whole]
    return _gather_at(addresses, whole[0].dtype.name, [values.shape[2] for values in whole], points_xy, layers, frame)


def _kind(values: Tensor) -> tuple[torch.dtype, bool]:
    """Return what decides whether a kernel can read a map: its type, and whether it is all there, where kernels can see it."""
    return values.dtype, values.is_cpu and values.is_contiguous() and not values.requires_grad


def _gather_at(
    addresses: Sequence[int],
    kept_as: str,
    channels: Sequence[int],
    points_xy: Tensor,
    layers: Sequence[LayerInfo],
    frame: Frame,
) -> Tensor:
    points = points_xy.to("cpu", torch.float64)
    return gather_columns(addresses, kept_as, channels, points, _axes_table(tuple(layers), frame)[0])


def _gather_cells(values: Tensor, cells: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
    """Sum four cells (n, 4) of a flat map (h·w, C) with their weights, in float32."""
    if values.dtype == torch.float32:
        return F.embedding_bag(cells.flatten(), values, starts, per_sample_weights=weights.flatten(), mode="sum")
    return weigh(values[cells.reshape(-1)], weights)


def weigh(values: Float[Tensor, "four_n c"], weights: Float[Tensor, "n 4"]) -> Float[Tensor, "n c"]:
    """Sum the four neighbours of each point with their weights, in float32."""
    grouped = values.reshape(weights.shape[0], 4, values.shape[1]).to(torch.float32)
    return torch.bmm(weights[:, None, :], grouped)[:, 0]


def resample(values: Float[Tensor, "b h w c"], layer: LayerInfo, frame: Frame, stride_px: int) -> Float[Tensor, "b y x c"]:
    """Read a map at the grid points s·(j+½) of the canvas.

    Args:
        values: A map (B, h, w, C), of the layer or of what a linear layer made of it.
        layer: Whose geometry the map has.
        frame: Canvas and alignment.
        stride_px: Output stride s ≥ 1, a divisor of the canvas; 1 reads every pixel's centre.

    Raises:
        GeometryError: the stride does not divide the canvas, or the map has another size than the layer's.
    """
    check_map(values.shape[1:3], layer)
    out_hw = grid_hw(frame.canvas_hw, stride_px)
    rows, columns = layer_axes(layer, frame)
    if rows.is_resize(frame.canvas_hw[0]) and columns.is_resize(frame.canvas_hw[1]):
        return _interpolate(values, out_hw)
    return _resample_axis(_resample_axis(values, 1, rows, out_hw[0], stride_px), 2, columns, out_hw[1], stride_px)


def _resample_axis(values: Tensor, dim: int, axis: AxisMap, count: int, stride_px: int) -> Tensor:
    plan = plan_phases(axis, count, stride_px)
    if plan is None:
        return resample_linear(values, dim, axis, grid_positions(count, stride_px))
    return resample_phases(values, dim, plan)


def check_map(map_hw: tuple[int, ...], layer: LayerInfo) -> None:
    """Refuse a map that has another size than its layer's.

    Raises:
        GeometryError: it has.
    """
    if map_hw != layer.map_hw:
        raise GeometryError(f"layer {layer.name}: expected a map of {layer.map_hw} cells, got {tuple(map_hw)}")


def _interpolate(values: Tensor, out_hw: tuple[int, int]) -> Tensor:
    if tuple(values.shape[1:3]) == out_hw:
        return values
    out = F.interpolate(values.permute(0, 3, 1, 2), size=out_hw, mode="bilinear", align_corners=False)
    return out.permute(0, 2, 3, 1)


def resample_linear(values: Tensor, dim: int, axis: AxisMap, positions: Tensor) -> Tensor:
    """Read a tensor at canvas positions along one of its dimensions, linearly between cells, clamped at the ends."""
    lower, upper, weight = linear_taps(positions, axis)
    shape = [1] * values.dim()
    shape[dim] = -1
    low = values.index_select(dim, lower.to(values.device))
    high = values.index_select(dim, upper.to(values.device))
    return torch.lerp(low, high, weight.to(values).reshape(shape).expand_as(low))


def stack(
    maps: Sequence[Float[Tensor, "b _ _ _"]], layers: Sequence[LayerInfo], frame: Frame, stride_px: int = 1
) -> Float[Tensor, "b y x d"]:
    """Upsample every map to the grid and concatenate: the hypercolumns themselves, at every grid point.

    This is the plain definition, and large: 224x224 pixels of 1472 channels are 295 MB. The heads avoid it.

    Source: Hariharan et al., CVPR 2015, sec. 3.
    """
    return torch.cat([resample(m.float(), layer, frame, stride_px) for m, layer in zip(maps, layers, strict=True)], dim=-1)


def coordinate_columns(points_xy: Float[Tensor, "n 2"], canvas_hw: tuple[int, int]) -> Float[Tensor, "n 2"]:
    """Normalise canvas positions to [-1, 1]: the coordinate layer at sparse points, x then y."""
    height, width = canvas_hw
    size = torch.tensor([width, height], dtype=points_xy.dtype, device=points_xy.device)
    return points_xy / size * 2 - 1


def coordinate_grid(canvas_hw: tuple[int, int], stride_px: int) -> Float[Tensor, "y x 2"]:
    """Return the coordinate layer at every grid point, (H/s, W/s, 2) in float32."""
    height, width = grid_hw(canvas_hw, stride_px)
    y, x = torch.meshgrid(grid_positions(height, stride_px), grid_positions(width, stride_px), indexing="ij")
    points = torch.stack([x, y], dim=-1).reshape(-1, 2)
    return coordinate_columns(points, canvas_hw).reshape(height, width, 2).float()
