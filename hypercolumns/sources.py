"""Where maps come from: the protocol that heads and training loops read through, and the sources that need no store.

A source knows a list of images and their views; what it hands out are maps of one shape per layer, channels last. Training and
evaluation never know whether maps were read from a feature store or computed on the fly: that is how the library works alone
in a notebook, and how a pipeline plugs its store in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from hypercolumns import columns
from hypercolumns.backbones import Backbone, LayerInfo
from hypercolumns.canvas import flip_view, normalise
from hypercolumns.columns import Frame
from hypercolumns.errors import LayerNotFoundError

__all__ = ["BackboneSource", "CanvasLoader", "Item", "LayerMap", "MapSource", "PixelSource", "SourceApart", "select_layers"]

Item = tuple[int, str]
"""An image's number in the source, and the view of it (identity or hflip)."""

CanvasLoader = Callable[[int], NDArray[np.uint8]]
"""Loads image `i` fitted into the canvas: (H, W, 3) uint8."""


LayerMap = Tensor | Sequence[Tensor]
"""A layer's maps of some images: (B, h, w, C), or (h, w, C) for each of them, wherever it lies."""


@runtime_checkable
class MapSource(Protocol):
    """Maps of a list of images, read by number and view."""

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        """The layers whose maps this source gives, shallow to deep."""
        ...

    @property
    def canvas_hw(self) -> tuple[int, int]:
        """Size of the canvas in pixels."""
        ...

    def maps(self, items: Sequence[Item]) -> list[Tensor]:
        """Return one map per layer, each (len(items), h, w, C)."""
        ...

    def gather(self, item: Item, points_xy: Float[Tensor, "n 2"], frame: Frame) -> Float[Tensor, "n d"]:
        """Return the hypercolumns of one image at canvas positions (n, 2), in float32."""
        ...

    def select(self, names: Sequence[str]) -> MapSource:
        """Return a source of some of the layers, which alone are read.

        Raises:
            LayerNotFoundError: there is no such layer.
        """
        ...


@runtime_checkable
class SourceApart(Protocol):
    """A source that can leave the maps of several images where they are."""

    def maps_apart(self, items: Sequence[Item]) -> list[LayerMap]:
        """Return what `MapSource.maps` does, uncopied where that can be."""
        ...


class BackboneSource:
    """Maps recomputed by the backbone whenever they are asked for."""

    def __init__(self, backbone: Backbone, load: CanvasLoader, layers: Sequence[str] | None = None) -> None:
        self._backbone = backbone
        self._load = load
        self.layers = select_layers(backbone.layers, layers)
        self.canvas_hw = backbone.canvas_hw

    def maps(self, items: Sequence[Item]) -> list[Tensor]:
        """Return one map per layer, each (len(items), h, w, C), in the processor's memory.

        They are float32; in inference mode what the backbone computed, uncopied, in its own type.
        """
        batch = np.stack([flip_view(self._load(index), view) for index, view in items])
        spec = self._backbone.spec
        found = self._backbone(
            normalise(torch.from_numpy(batch), spec.mean_rgb, spec.std_rgb), [layer.name for layer in self.layers]
        )
        maps = [found[layer.name].permute(0, 2, 3, 1) for layer in self.layers]
        if torch.is_inference_mode_enabled():
            return [values.to("cpu") for values in maps]
        # Copied out of inference mode: gradients of a head may then be taken through what it does with them.
        return [values.to("cpu", torch.float32, copy=True) for values in maps]

    def gather(self, item: Item, points_xy: Float[Tensor, "n 2"], frame: Frame) -> Float[Tensor, "n d"]:
        """Return the hypercolumns of one image at canvas positions."""
        return columns.gather([values[0] for values in self.maps([item])], points_xy, self.layers, frame)

    def select(self, names: Sequence[str]) -> BackboneSource:
        """Return a source of some of the layers; nothing above the last of them is computed."""
        return BackboneSource(self._backbone, self._load, [layer.name for layer in select_layers(self.layers, names)])


class PixelSource:
    """The image itself as a layer of three channels at full resolution: the raw RGB baseline."""

    def __init__(self, load: CanvasLoader, canvas_hw: tuple[int, int]) -> None:
        self._load = load
        self.canvas_hw = canvas_hw
        self.layers = (LayerInfo("rgb", 3, canvas_hw, (1.0, 1.0), (1.0, 1.0), (0.5, 0.5)),)

    def maps(self, items: Sequence[Item]) -> list[Tensor]:
        """Return the canvases as one map (len(items), H, W, 3) in float32, 0 to 1."""
        batch = np.stack([flip_view(self._load(index), view) for index, view in items])
        return [torch.from_numpy(batch).float() / 255]

    def gather(self, item: Item, points_xy: Float[Tensor, "n 2"], frame: Frame) -> Float[Tensor, "n d"]:
        """Return the colours of one image at canvas positions."""
        return columns.gather([values[0] for values in self.maps([item])], points_xy, self.layers, frame)

    def select(self, names: Sequence[str]) -> PixelSource:
        """Return this source: it has one layer."""
        if select_layers(self.layers, names) != self.layers:
            raise LayerNotFoundError(f"expected the one layer rgb, got {list(names)}")
        return self


def select_layers(layers: Sequence[LayerInfo], names: Sequence[str] | None) -> tuple[LayerInfo, ...]:
    """Pick layers by name, keeping them shallow to deep; None picks all.

    Raises:
        LayerNotFoundError: a name is not among them; lists those that are.
    """
    if names is None:
        return tuple(layers)
    known = [layer.name for layer in layers]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise LayerNotFoundError(f"expected layers out of {known}, got {unknown}")
    return tuple(layer for layer in layers if layer.name in set(names))
