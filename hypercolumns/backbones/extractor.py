"""The frozen extractor: a backbone spec made into maps, with each layer's place on the canvas.

Weights are found, checked and loaded before anything runs. Images come in already scaled to [0, 1] and normalised by the
spec's mean and standard deviation; reading and fitting them into the canvas happens elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hypercolumns.backbones.graphs import GraphNetwork, Measurement, Network, Tap, build_module
from hypercolumns.backbones.presets import PRESETS, nearest, preset_layers
from hypercolumns.backbones.receptive_fields import merge
from hypercolumns.backbones.state_dicts import fit, read_state
from hypercolumns.backbones.timm_models import TimmNetwork
from hypercolumns.backbones.weights import WeightSource, draw_random, find_weights, seeded, state_sha256
from hypercolumns.errors import BackboneError, LayerNotFoundError
from hypercolumns.specs import BackboneSpec, Precision

__all__ = ["EXTRACTOR_VERSION", "Backbone", "LayerInfo", "build_backbone", "list_layers"]

EXTRACTOR_VERSION = 1
"""Raised whenever the same spec and weights would give other maps."""

_TIMM = "timm:"


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a backbone at one canvas; pairs are (vertical, horizontal).

    Attributes:
        name: The layer's name in the spec.
        channels: Numbers per cell.
        map_hw: Cells of the map.
        stride_px: Canvas pixels between neighbouring cells' centres; None if the layer is one cell for the whole image.
        receptive_field_px: Sides of what a cell sees, in canvas pixels; None if that is the whole image.
        offset_px: Canvas position (pixel 0 has its centre at ½) of the centre of cell 0's receptive field; None as the stride.
    """

    name: str
    channels: int
    map_hw: tuple[int, int]
    stride_px: tuple[float, float] | None
    receptive_field_px: tuple[float, float] | None
    offset_px: tuple[float, float] | None


class Backbone:
    """A frozen network that turns canvases into maps.

    Attributes:
        spec: What it was built from, with its layers spelled out.
        canvas_hw: The only size of image it takes.
        layers: What it gives, in the spec's order.
        weights_sha256: Digest of the weights file's bytes, or of the tensors if they were drawn at random.
        identity: Plain values that decide the maps apart from canvas, preprocessing, precision and layer list; for keys.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        canvas_hw: tuple[int, int],
        precision: Precision,
        tap: Tap,
        layers: tuple[LayerInfo, ...],
        weights_sha256: str,
    ) -> None:
        self.spec = spec
        self.canvas_hw = canvas_hw
        self.precision = precision
        self.layers = layers
        self.weights_sha256 = weights_sha256
        self.identity: dict[str, Any] = {
            "name": spec.name,
            "weights_sha256": weights_sha256,
            "extractor_version": EXTRACTOR_VERSION,
        }
        self._tap = tap.to(memory_format=torch.channels_last)
        if precision == "bfloat16":
            _round_convolutions(self._tap)
        self._subsets: dict[tuple[str, ...], Tap] = {}
        self.device = torch.device("cpu")

    def to(self, device: torch.device | str) -> Self:
        """Move the parameters to a device."""
        self.device = torch.device(device)
        self._tap.to(self.device)
        self._subsets.clear()
        return self

    def __call__(self, images: Float[Tensor, "b 3 H W"], layers: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Compute maps; nothing after the last wanted one is computed.

        Args:
            images: Normalised canvases.
            layers: Names of the wanted layers; by default all of them.

        Returns:
            A map (b, C, h, w) per wanted layer, in their order, channels last in memory, float32 or the autocast's type. They
            are inference tensors: clone one before a gradient is taken through an operation on it.

        Raises:
            BackboneError: the images have another size than the canvas.
            LayerNotFoundError: a wanted layer is not one of this backbone's.
        """
        names = [layer.name for layer in self.layers]
        wanted = list(names if layers is None else layers)
        _check_known(wanted, names)
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.canvas_hw):
            raise BackboneError(
                f"expected images of shape (b, 3, {self.canvas_hw[0]}, {self.canvas_hw[1]}), got {images.shape}"
            )
        tap = self._tap if len(set(wanted)) == len(names) else self._subset(wanted)
        with torch.inference_mode(), self._arithmetic(), _no_tf32(self.device):
            maps = tap(images.to(self.device, memory_format=torch.channels_last))
            return {name: _join([maps[node] for node in name.split("+")]) for name in wanted}

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def _subset(self, layers: Sequence[str]) -> Tap:
        nodes = _nodes(layers)
        if nodes not in self._subsets:
            self._subsets[nodes] = self._tap.subset(nodes)
        return self._subsets[nodes]


def build_backbone(spec: BackboneSpec, canvas_hw: tuple[int, int], *, precision: Precision = "float32") -> Backbone:
    """Build a frozen extractor for one canvas.

    Args:
        spec: Network, weights and layers.
        canvas_hw: Height and width of every image, in pixels.
        precision: Arithmetic: float32, or bfloat16 by autocast.

    Raises:
        BackboneError: the network is unknown, has no layers to choose by itself, or does not fit the canvas.
        LayerNotFoundError: a layer is unknown; the nearest are listed.
        WeightsError: the weights are missing, wrong, or not those of the digest.
    """
    layers = _chosen_layers(spec)
    source = find_weights(spec)
    network, digest = _load(spec, source, _nodes(layers), canvas_hw)
    try:
        measured = network.measure(_nodes(layers), canvas_hw)
    except (RuntimeError, AssertionError) as error:
        raise BackboneError(_does_not_fit(spec.name, canvas_hw, str(error).partition("\n")[0])) from error
    infos = tuple(_layer_info(spec.name, name, measured, canvas_hw) for name in layers)
    tap = network.tap(_nodes(layers))
    return Backbone(spec.model_copy(update={"layers": layers}), canvas_hw, precision, tap, infos, digest)


def list_layers(spec: BackboneSpec) -> tuple[str, ...]:
    """List the names of everything that can be a layer of a spec's network, in the order of computation.

    Raises:
        BackboneError: the network is unknown.
    """
    return _network(spec.name, None, on_meta=True).names


def _chosen_layers(spec: BackboneSpec) -> tuple[str, ...]:
    if spec.layers is not None:
        return spec.layers
    if spec.name in PRESETS:
        return preset_layers(spec.name)
    names = list_layers(spec)
    if spec.name.startswith(_TIMM):
        return names[-1:]
    raise BackboneError(
        f"layers: expected node names, since {spec.name} is not a preset ({', '.join(PRESETS)}), got none; "
        "list_layers(spec) lists the names to choose from"
    )


def _network(name: str, canvas_hw: tuple[int, int] | None, *, on_meta: bool) -> Network:
    # On the meta device nothing is allocated or drawn: a mould that a file then fills. Only the presets are known to
    # have constructors that compute nothing from their tensors.
    with torch.device("meta" if on_meta and name in PRESETS else "cpu"):
        if name.startswith(_TIMM):
            return TimmNetwork(name.removeprefix(_TIMM), canvas_hw)
        return GraphNetwork(build_module(name))


def _load(spec: BackboneSpec, source: WeightSource, nodes: tuple[str, ...], canvas_hw: tuple[int, int]) -> tuple[Network, str]:
    if source.path is None or source.sha256 is None:
        with seeded(int(source.seed or 0)):
            network = _network(spec.name, canvas_hw, on_meta=False)
            draw_random(network.module)
        return network, state_sha256(network.module.state_dict().items())
    network = _network(spec.name, canvas_hw, on_meta=True)
    state = read_state(source.path)
    own = {key: value for key, value in state.items() if not key.startswith(tuple(f"{path}." for path in network.classifier))}
    fitting = fit(own, network.module.state_dict(), network.needed(nodes), str(source.path))
    network.module.load_state_dict(fitting, strict=False, assign=True)
    network.module.requires_grad_(False)
    return network, source.sha256


def _round_convolutions(tap: Tap) -> None:
    """Round the weights of convolutions once, as autocast otherwise does for every batch: the maps are the same to the bit."""
    for module in tap.modules():
        # Of this very type: others may use their weights in other ways than by the convolution that autocast knows.
        if type(module) is nn.Conv2d:
            module.to(torch.bfloat16)


def _layer_info(model: str, name: str, measured: Mapping[str, Measurement], canvas_hw: tuple[int, int]) -> LayerInfo:
    parts = [measured[node] for node in name.split("+")]
    for node, part in zip(name.split("+"), parts, strict=True):
        if len(part.shape) not in (2, 4) or part.channels_axis != 1:
            raise BackboneError(
                f"layer {node} of {model}: expected an activation of shape (b, C, h, w) or (b, C), got {part.shape} "
                f"with channels on axis {part.channels_axis}; "
                "choose another node (transformers are served by timm:NAME)"
            )
    sizes = {tuple(part.shape[2:]) or (1, 1) for part in parts}
    if len(sizes) > 1:
        raise BackboneError(f"layer {name} of {model}: expected maps of equal size to concatenate, got {sorted(sizes)}")
    map_hw = sizes.pop()
    if min(map_hw) < 1:
        raise BackboneError(_does_not_fit(model, canvas_hw, f"layer {name} has a map of {map_hw}"))
    field = merge([part.field for part in parts])
    preset = PRESETS.get(model)
    if field.size_px is None and preset is not None and preset.canvas_hw not in (None, canvas_hw):
        raise BackboneError(_does_not_fit(model, canvas_hw, f"layer {name} is fully connected"))
    channels = sum(part.shape[1] for part in parts)
    return LayerInfo(name, channels, (map_hw[0], map_hw[1]), field.stride_px, field.size_px, field.offset_px)


def _does_not_fit(model: str, canvas_hw: tuple[int, int], reason: str) -> str:
    preset = PRESETS.get(model)
    own = preset.canvas_hw if preset is not None else None
    remedy = f"a canvas of {own[0]} x {own[1]}, or without its fully connected layers" if own else "a larger canvas"
    return f"expected a canvas that fits {model}, got {canvas_hw[0]} x {canvas_hw[1]} pixels ({reason}); use {remedy}"


def _nodes(layers: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(node for layer in layers for node in layer.split("+")))


def _check_known(wanted: Sequence[str], names: Sequence[str]) -> None:
    for name in wanted:
        if name not in names:
            raise LayerNotFoundError(
                f"expected a layer of this backbone ({', '.join(names)}), got {name!r}{nearest(name, names)}"
            )


def _no_tf32(device: torch.device) -> AbstractContextManager[None]:
    # cuDNN would round convolutions' inputs to 10 bits by default; maps must not depend on the device that much. These flags
    # are the whole process's: threads that run on the processor side by side must not restore each other's.
    if device.type == "cpu":
        return nullcontext()
    cudnn = torch.backends.cudnn
    flags: AbstractContextManager[None] = cudnn.flags(
        enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
    )
    return flags


def _join(activations: Sequence[Tensor]) -> Tensor:
    maps = [value if value.ndim == 4 else value[:, :, None, None] for value in activations]
    return maps[0] if len(maps) == 1 else torch.cat(maps, 1)
