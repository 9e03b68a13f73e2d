"""The pixel classifier in its two forms: an MLP on sampled hypercolumns, and the same function as 1x1 convolutions on maps.

`PixelMLP` is what sparse pretraining fits; `convert` turns it into a `PixelConv`, which computes the same logits at every grid
point without ever building a hypercolumn: the first linear layer runs at each map's native resolution and only its few
outputs are upsampled and summed (classify, then upsample). Equality of the two is certified by `hypercolumns.certificate`.

Dense training may widen the converted classifier by context on the coarse maps (`hypercolumns.heads.context`); it starts at
zero, so that conversion stays exact.

Source: Hariharan et al., CVPR 2015, sec. 3.3 (linear classifiers commute with upsampling); Bansal et al., "PixelNet", 2017
(an MLP on sparsely sampled hypercolumns).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hypercolumns.backbones import LayerInfo
from hypercolumns.columns import (
    Frame,
    check_map,
    coordinate_columns,
    coordinate_grid,
    layer_axes,
    resample,
)
from hypercolumns.errors import GeometryError
from hypercolumns.geometry import axis_map, grid_hw
from hypercolumns.heads.context import NeighbourContext, PooledContext
from hypercolumns.heads.products import add_linear, join_as, linear
from hypercolumns.heads.remembering import Remembered
from hypercolumns.heads.strips import classify_in_strips
from hypercolumns.kernels.plans import Widening, plan_taps
from hypercolumns.kernels.widening import can_read, can_widen
from hypercolumns.sources import LayerMap
from hypercolumns.specs import HeadSpec

__all__ = ["PixelConv", "PixelMLP", "convert"]

COORDINATES = 2
_SMALLEST_STD = 1e-6
_MAP = ("h", "w", "C")


class _Classifier(nn.Module):
    """What both forms share: two linear layers on standardised hypercolumns, and where those come from."""

    mean: Tensor
    std: Tensor
    logit_offset: Tensor

    def __init__(self, layers: Sequence[LayerInfo], classes: int, spec: HeadSpec, frame: Frame) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.spec = spec
        self.frame = frame
        self.classes = classes
        self.columns = sum(layer.channels for layer in layers) + (COORDINATES if spec.coordinates else 0)
        if self.columns == 0:
            raise GeometryError("expected at least one layer, or coordinates, to classify; got none")
        self.first = nn.Linear(self.columns, spec.hidden or classes)
        self.second = nn.Linear(spec.hidden, classes) if spec.hidden else None
        self.register_buffer("mean", torch.zeros(self.columns))
        self.register_buffer("std", torch.ones(self.columns))
        self.register_buffer("logit_offset", torch.zeros(classes))

    def set_statistics(self, mean: Float[Tensor, " d"], std: Float[Tensor, " d"]) -> None:
        """Set the standardisation: channels that hardly vary keep a standard deviation of one."""
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > _SMALLEST_STD, std, torch.ones_like(std)))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Fold the standardisation into the first layer: W/σ and b - (W/σ)μ, for raw hypercolumns."""
        weight = self.first.weight / self.std
        return weight, self.first.bias - weight @ self.mean

    def _after_first(self, hidden: Tensor, *, ours: bool = False) -> Tensor:
        """Return logits of the first layer's output; one that is ours alone is written over."""
        offset = self.logit_offset.to(hidden.dtype)
        if self.second is None:
            return hidden + offset
        hidden = F.dropout(F.relu(hidden, inplace=ours), self.spec.dropout, self.training)
        return linear(hidden, self.second.weight.to(hidden.dtype), self.second.bias.to(hidden.dtype) + offset)


class PixelMLP(_Classifier):
    """Classify hypercolumns gathered at sparse pixels: D -> hidden -> classes with a ReLU, or linear when hidden is 0."""

    def forward(self, columns: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        """Return logits of raw (not standardised) hypercolumns, whose last two columns are coordinates if the spec has them."""
        standard = (columns.to(self.mean.dtype) - self.mean) / self.std
        return self._after_first(linear(standard, self.first.weight, self.first.bias))

    def with_coordinates(self, columns: Float[Tensor, "n c"], points_xy: Float[Tensor, "n 2"]) -> Float[Tensor, "n d"]:
        """Append the coordinate layer to gathered columns, if the spec has it."""
        if not self.spec.coordinates:
            return columns
        return torch.cat([columns, coordinate_columns(points_xy, self.frame.canvas_hw).to(columns.dtype)], dim=1)


class PixelConv(_Classifier):
    """Classify every grid point from maps at their native resolutions, then upsample and sum.

    Args:
        layers: The maps' layers, shallow to deep.
        classes: Number of classes.
        spec: Hidden units, coordinates, and what dense training may add on coarse maps.
        frame: Canvas and alignment.
        dtype: Arithmetic of the products (``torch.bfloat16`` is several times faster on recent CPUs and GPUs).
    """

    def __init__(
        self,
        layers: Sequence[LayerInfo],
        classes: int,
        spec: HeadSpec,
        frame: Frame,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(layers, classes, spec, frame)
        self.dtype = dtype
        self._groups = _group_by_map(self.layers)
        self._plans: dict[tuple[tuple[str, ...], int], Widening] = {}
        self._weights: Remembered[tuple[Tensor, list[Tensor]]] = Remembered()
        self.context = nn.ModuleDict()
        for name, members in self._groups.items():
            if spec.context != "none" and _is_coarse(self.layers[members[0]], frame):
                kind = NeighbourContext if spec.context == "kernel3" else PooledContext
                self.context[name] = kind(sum(self.layers[m].channels for m in members), self.first.out_features)

    def forward(self, maps: Sequence[LayerMap], stride_px: int | None = None) -> Float[Tensor, "b k y x"]:
        """Return logits at the grid points s·(j+½).

        Args:
            maps: One map per layer, in order, in any floating type: (B, h, w, C), or (h, w, C) for each image.
            stride_px: Output stride; by default the spec's.

        Raises:
            GeometryError: maps and layers disagree, or the stride does not divide the canvas.
        """
        stride = self.spec.output_stride if stride_px is None else stride_px
        if len(maps) != len(self.layers):
            raise GeometryError(f"expected {len(self.layers)} maps, one per layer, got {len(maps)}")
        _check_images(maps)
        if self._fits_strips(maps):
            logits = self._in_strips(self._parts(maps, stride), stride)
        else:
            whole = [values if isinstance(values, Tensor) else torch.stack(list(values)) for values in maps]
            logits = self._at_once(self._parts(whole, stride), stride)
        return logits.permute(0, 3, 1, 2)

    def forward_stacked(self, hypercolumns: Float[Tensor, "b y x d"]) -> Float[Tensor, "b k y x"]:
        """Return logits of explicit hypercolumns (with coordinates, if any) by plain 1x1 convolutions: the reference form."""
        if self.context:
            raise GeometryError(f"expected context none: {self.spec.context} has no form on single hypercolumns")
        weight, bias = self.folded()
        hidden = F.conv2d(hypercolumns.permute(0, 3, 1, 2), weight[..., None, None], bias)
        return self._after_first(hidden.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _fits_strips(self, maps: Sequence[LayerMap]) -> bool:
        """Say whether strips of rows compute the same.

        They do not on accelerators, where every run draws its own dropout, where maps want a gradient, and under autocast,
        which changes the types of products.
        """
        drops = self.training and self.spec.dropout > 0 and self.second is not None
        known = can_widen(self.mean.device, self.dtype) and not torch.is_autocast_enabled("cpu")
        return known and not drops and not any(values.requires_grad for layer in maps for values in _each(layer))

    def _parts(self, maps: Sequence[LayerMap], stride: int) -> _Parts:
        """Return what sums up to the first layer's output.

        A linear layer and the interpolation commute; the cheaper one goes first. Maps at least as large as the grid are to be
        read at its points before the weights are applied; of the others there is the response, still to be upsampled.
        """
        parameters = (self.first.weight, self.first.bias, self.mean, self.std)
        bias, weights = self._weights.value(parameters, self.dtype, self._fold)
        height, width = grid_hw(self.frame.canvas_hw, stride)
        parts = _Parts(bias, [], [])
        for (name, members), weight in zip(self._groups.items(), weights, strict=False):
            layer = self.layers[members[0]]
            for m in members:
                check_map(_each(maps[m])[0].shape[-3:-1], self.layers[m])
            if name not in self.context and layer.map_hw[0] * layer.map_hw[1] >= height * width:
                parts.fine.append((layer, [maps[m] for m in members], weight))
                continue
            values = join_as([maps[m] for m in members], self.dtype)
            response = linear(values, weight)
            if name in self.context:
                response = response + self.context[name](values, *self._statistics(members[0], values.shape[-1]))
            parts.coarse.append((layer, response))
        if self.spec.coordinates:
            grid = coordinate_grid(self.frame.canvas_hw, stride).to(bias.device, self.dtype)[None]
            parts.fine.append((None, [grid], weights[-1]))
        return parts

    def _fold(self) -> tuple[Tensor, list[Tensor]]:
        """Return the bias, and the weights of each group of maps and of the coordinates, in the type of the products."""
        weight, bias = self.folded()
        sizes = [sum(self.layers[m].channels for m in members) for members in self._groups.values()]
        parts = torch.split(weight.to(self.dtype), [*sizes, *[COORDINATES] * self.spec.coordinates], dim=1)
        return bias.to(self.dtype), [part.contiguous() for part in parts]

    def _at_once(self, parts: _Parts, stride: int) -> Tensor:
        fine = []
        for layer, members, weight in parts.fine:
            values = join_as(members, self.dtype)
            fine.append((values if layer is None else resample(values, layer, self.frame, stride), weight))
        # Weights of an interpolation sum to one: the bias is added where there are the fewest cells.
        sizes = [response.numel() for _, response in parts.coarse]
        smallest = sizes.index(min(sizes)) if sizes else None
        upsampled = [
            resample(response + parts.bias if number == smallest else response, layer, self.frame, stride)
            for number, (layer, response) in enumerate(parts.coarse)
        ]
        if not upsampled:
            upsampled = [parts.bias, *(linear(values, weight) for values, weight in fine)]
            fine = []
        total = _summed(upsampled)
        for values, weight in fine:
            total = add_linear(total, values, weight)
        return self._after_first(total, ours=len(upsampled) + len(fine) > 1)

    def _in_strips(self, parts: _Parts, stride: int) -> Tensor:
        fine = [
            (
                [values if can_read(values.dtype) else values.to(self.dtype) for values in _each(member)],
                self._plan([layer], stride),
            )
            for layer, members, _ in parts.fine
            for member in members
        ]
        offset = self.logit_offset.to(self.dtype)
        return classify_in_strips(
            grid_hw(self.frame.canvas_hw, stride),
            self._plan([layer for layer, _ in parts.coarse], stride),
            [response for _, response in parts.coarse],
            fine,
            _joined([weight for _, _, weight in parts.fine]) if fine else None,
            parts.bias if self.second is not None else parts.bias + offset,
            None if self.second is None else self.second.weight.to(self.dtype),
            None if self.second is None else self.second.bias.to(self.dtype) + offset,
        )

    def _plan(self, layers: Sequence[LayerInfo | None], stride: int) -> Widening:
        """Plan the reading of some layers' maps; None has the grid's own size."""
        key = (tuple("" if layer is None else layer.name for layer in layers), stride)
        if key not in self._plans:
            height, width = grid_hw(self.frame.canvas_hw, stride)
            own = axis_map(self.frame.canvas_hw[0], height), axis_map(self.frame.canvas_hw[1], width)
            axes = [own if layer is None else layer_axes(layer, self.frame) for layer in layers]
            rows, columns = plan_taps([y for y, _ in axes], height, stride), plan_taps([x for _, x in axes], width, stride)
            self._plans[key] = Widening(rows, columns)
        return self._plans[key]

    def _statistics(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation of so many channels from a layer on."""
        start = sum(layer.channels for layer in self.layers[:first])
        return self.mean[start : start + count], self.std[start : start + count]


def convert(mlp: PixelMLP, dtype: torch.dtype = torch.float32) -> PixelConv:
    """Convert a sparse classifier into its convolutional form: the same function of a hypercolumn, at every grid point.

    Args:
        mlp: The classifier, trained or not.
        dtype: Arithmetic of the converted form.
    """
    conv = PixelConv(mlp.layers, mlp.classes, mlp.spec, mlp.frame, dtype)
    conv.load_state_dict(mlp.state_dict(), strict=not conv.context)
    return conv


@dataclass(frozen=True)
class _Parts:
    """What sums up to the first layer's output.

    Attributes:
        bias: (H,).
        fine: Layer (None: of the grid's own size), maps (B, h, w, C) as they came, and the weights to be applied to them.
        coarse: Layer and response (B, h, w, H).
    """

    bias: Tensor
    fine: list[tuple[LayerInfo | None, list[LayerMap], Tensor]]
    coarse: list[tuple[LayerInfo, Tensor]]


def _check_images(maps: Sequence[LayerMap]) -> None:
    """Refuse maps that are not of the same images.

    Raises:
        GeometryError: a layer has neither one tensor nor one map an image, or layers are of different numbers of images.
    """
    shapes = [[tuple(values.shape) for values in layer] for layer in maps]
    if any(len(shape) != len(_MAP) or shape != layer[0] for layer in shapes for shape in layer):
        raise GeometryError(f"expected for each image a map {_MAP}, all of a layer alike, got {shapes}")
    counts = [len(layer) for layer in shapes]
    if len(set(counts) - {1}) > 1 or (not all(counts) and not all(isinstance(layer, Tensor) for layer in maps)):
        raise GeometryError(f"expected for each image a map of each layer, or one for all images, got {counts} of the layers")


def _each(layer: LayerMap) -> list[Tensor]:
    """Return a layer's tensors: one, or one an image."""
    return [layer] if isinstance(layer, Tensor) else list(layer)


def _summed(parts: Sequence[Tensor]) -> Tensor:
    """Add tensors up; only the first sum is a new one."""
    return reduce(Tensor.add_, parts[2:], parts[0] + parts[1]) if len(parts) > 1 else parts[0]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Join tensors along their channels, which come last; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=-1)


def _group_by_map(layers: Sequence[LayerInfo]) -> dict[str, list[int]]:
    """Group neighbouring layers that share map size and geometry: one product and one upsampling serve them all."""
    groups: dict[str, list[int]] = {}
    keyed = groupby(range(len(layers)), key=lambda i: (layers[i].map_hw, layers[i].stride_px, layers[i].offset_px))
    for number, (_, members) in enumerate(keyed):
        groups[f"group{number}"] = list(members)
    return groups


def _is_coarse(layer: LayerInfo, frame: Frame) -> bool:
    """Say whether a map is coarse enough for context to be cheap: at least 16 pixels a cell, and more than one cell."""
    cells = layer.map_hw[0] * layer.map_hw[1]
    return cells > 1 and frame.canvas_hw[0] * frame.canvas_hw[1] >= 15 * 15 * cells
