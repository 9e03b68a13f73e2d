"""Receptive fields: how the cells of a map lie on the canvas, worked out along a traced network, never typed in.

A field is carried from node to node while the graph runs on shapes only. Windows (convolutions, pools) enlarge it; operations
cell by cell keep it; where branches meet it is their union; everything else (flattening, attention, means over the image) sees
the whole image. An operation unknown here counts as seeing the whole image, so that no number is ever invented.

torchvision takes as long to import as torch, and is imported where a network is looked at, not before.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules import activation

__all__ = ["IMAGE", "WHOLE", "Field", "FieldInterpreter", "Window", "grow", "merge", "module_window"]

Pair = tuple[float, float]


@dataclass(frozen=True)
class Field:
    """How the cells of one map see the canvas; every pair is (vertical, horizontal), in canvas pixels.

    Attributes:
        size_px: Sides of a cell's receptive field; None if it is the whole image.
        stride_px: Distance between the centres of neighbouring cells; None if the cells have no place on the canvas.
        offset_px: Centre of the first cell's field in continuous coordinates (pixel 0 has its centre at ½); None likewise.
    """

    size_px: Pair | None
    stride_px: Pair | None
    offset_px: Pair | None


IMAGE = Field((1.0, 1.0), (1.0, 1.0), (0.5, 0.5))
WHOLE = Field(None, None, None)


@dataclass(frozen=True)
class Window:
    """A sliding window, in cells of its input: extent (dilation included), stride, and cells of padding before the first."""

    extent: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


def grow(field: Field, window: Window) -> Field:
    """Slide a window over a map with this field."""
    if field.stride_px is None or field.offset_px is None:
        return WHOLE
    stride, offset = field.stride_px, field.offset_px
    extent, step, padding = window.extent, window.stride, window.padding
    size = None if field.size_px is None else _pair(lambda i: cast("Pair", field.size_px)[i] + (extent[i] - 1) * stride[i])
    moved = _pair(lambda i: offset[i] + ((extent[i] - 1) / 2 - padding[i]) * stride[i])
    return Field(size, _pair(lambda i: stride[i] * step[i]), moved)


def merge(fields: Sequence[Field]) -> Field:
    """Take the union of the fields of maps that meet cell by cell; a map without a place (a global gate) widens the others."""
    placed = [field for field in fields if field.stride_px is not None and field.offset_px is not None]
    if not placed or len({field.stride_px for field in placed}) > 1:
        return WHOLE
    first = placed[0]
    if len(placed) < len(fields) or any(field.size_px is None for field in placed):
        return Field(None, first.stride_px, first.offset_px)
    ends = [_ends(field) for field in placed]
    low = _pair(lambda i: min(end[0][i] for end in ends))
    high = _pair(lambda i: max(end[1][i] for end in ends))
    return Field(_pair(lambda i: high[i] - low[i]), first.stride_px, _pair(lambda i: (low[i] + high[i]) / 2))


def _ends(field: Field) -> tuple[Pair, Pair]:
    size, offset = cast("Pair", field.size_px), cast("Pair", field.offset_px)
    return _pair(lambda i: offset[i] - size[i] / 2), _pair(lambda i: offset[i] + size[i] / 2)


def _pair(value: Callable[[int], float]) -> Pair:
    return (value(0), value(1))


class FieldInterpreter(fx.Interpreter):
    """Runs a traced network and notes every node's field; on meta tensors that costs nothing."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.fields: dict[fx.Node, Field] = {}
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.channels_axis: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, and note its shape and field."""
        value = super().run_node(n)
        parts = [part for part in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(part, Tensor)]
        if parts:
            self.shapes[n] = tuple(parts[0].shape)
            self.channels_axis[n] = self._channels_axis(n)
        if n.op == "placeholder":
            self.fields[n] = IMAGE
        # Constants (parameters, sizes, and what is made of them alone) carry no field: they do not depend on the image.
        sources = [source for source in n.all_input_nodes if source in self.fields]
        if sources and parts and n.op != "output":
            self.fields[n] = self._field(n, sources)
        return value

    def _channels_axis(self, node: fx.Node) -> int:
        from torchvision.ops import Permute

        # Some networks keep channels last between two permutations; everything else leaves the axes where they are.
        source = next((source for source in node.all_input_nodes if source in self.channels_axis), None)
        axis = self.channels_axis[source] if source is not None else 1
        order: Any = None
        if node.op == "call_module" and isinstance(module := self.fetch_attr(str(node.target)), Permute):
            order = module.dims
        elif node.op == "call_method" and node.target == "permute":
            order = node.args[1] if isinstance(node.args[1], (tuple, list)) else node.args[1:]
        elif node.target is torch.permute:
            order = node.args[1]
        return axis if order is None else [dimension % len(order) for dimension in order].index(axis)

    def _field(self, node: fx.Node, sources: list[fx.Node]) -> Field:
        field = merge([self.fields[source] for source in sources])
        if node.op == "call_module":
            return _through(self.fetch_attr(str(node.target)), field)
        window = _function_window(node)
        if window is not None:
            return grow(field, window)
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        return field if name in _CELLWISE_NAMES or (name in _RESHAPING_NAMES and self._keeps_cells(node, sources)) else WHOLE

    def _keeps_cells(self, node: fx.Node, sources: list[fx.Node]) -> bool:
        # A reshaped, split or joined tensor keeps its cells where its last two sides stay what they were.
        before, after = self.shapes[sources[0]], self.shapes[node]
        return len(after) >= 3 and before[-2:] == after[-2:]


_CELLWISE_NAMES = frozenset(
    {"relu", "relu_", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "sigmoid", "tanh", "leaky_relu", "elu"}
    | {"add", "iadd", "mul", "imul", "sub", "truediv", "permute", "transpose", "contiguous", "clone", "linear"}
    | {"dropout", "stochastic_depth", "batch_norm", "layer_norm"}
)
_RESHAPING_NAMES = frozenset(
    {"view", "reshape", "flatten", "unsqueeze", "squeeze", "getitem", "cat", "concat", "chunk", "split"}
)


def _through(module: nn.Module, field: Field) -> Field:
    if isinstance(module, nn.Sequential):
        return functools.reduce(lambda reached, part: _through(part, reached), module, field)
    from torchvision.ops import SqueezeExcitation

    if type(module) is SqueezeExcitation:
        return merge([field, WHOLE])
    window = module_window(module)
    if window is not None:
        return grow(field, window)
    return field if _is_cellwise(module) else WHOLE


@functools.cache
def _cellwise_modules() -> frozenset[type[nn.Module]]:
    from torchvision.ops import FrozenBatchNorm2d, Permute, StochasticDepth

    ours = {nn.Identity, nn.LocalResponseNorm, nn.Dropout, nn.Dropout2d, nn.Linear}
    return frozenset(ours | {FrozenBatchNorm2d, StochasticDepth, Permute})


def _is_cellwise(module: nn.Module) -> bool:
    kind = type(module)
    if isinstance(module, nn.LayerNorm):
        return len(module.normalized_shape) == 1
    if kind in (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.LogSoftmax):
        return False
    # A batch normalisation may bring its own activation along.
    return kind.__module__ == activation.__name__ or kind in _cellwise_modules() or isinstance(module, nn.BatchNorm2d)


def module_window(module: nn.Module) -> Window | None:
    """Read the window a module slides over its input; None if it is not known to slide one."""
    # Exact types only: a subclass may pad or slide in its own way.
    if type(module) is nn.Conv2d:
        kernel, stride, dilation = _two(module.kernel_size), _two(module.stride), _two(module.dilation)
        spread = (dilation[0] * (kernel[0] - 1), dilation[1] * (kernel[1] - 1))
        if module.padding == "same":
            padding = (spread[0] // 2, spread[1] // 2)
        else:
            padding = (0, 0) if isinstance(module.padding, str) else _two(module.padding)
        return Window((spread[0] + 1, spread[1] + 1), stride, padding)
    if type(module) is nn.MaxPool2d or type(module) is nn.AvgPool2d:
        return _pool_window(module.kernel_size, module.stride, module.padding, getattr(module, "dilation", 1))
    return None


def _function_window(node: fx.Node) -> Window | None:
    names: dict[Any, tuple[str, ...]] = {
        F.max_pool2d: ("kernel_size", "stride", "padding", "dilation"),
        F.avg_pool2d: ("kernel_size", "stride", "padding"),
    }
    if node.op != "call_function" or node.target not in names:
        return None
    given = dict(zip(names[node.target], node.args[1:], strict=False)) | dict(node.kwargs)
    return _pool_window(given["kernel_size"], given.get("stride"), given.get("padding", 0), given.get("dilation", 1))


def _pool_window(kernel: Any, stride: Any, padding: Any, dilation: Any) -> Window:
    # Ceil mode adds cells after the last one: it moves none of the others, so it does not show here.
    size, spread = _two(kernel), _two(dilation)
    extent = (spread[0] * (size[0] - 1) + 1, spread[1] * (size[1] - 1) + 1)
    return Window(extent, size if stride is None else _two(stride), _two(padding))


def _two(value: Any) -> tuple[int, int]:
    return (operator.index(value), operator.index(value)) if not isinstance(value, (tuple, list)) else (value[0], value[-1])
