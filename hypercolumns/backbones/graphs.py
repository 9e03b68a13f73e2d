"""Networks that torch.fx can trace (torchvision's classifiers and ours), cut off after the last activation that is wanted.

Tracing, cutting and measuring live here; nothing is loaded and nothing is run on images. torchvision takes as long to import as
torch does, and is imported where a network is built, not before.
"""

from __future__ import annotations

import abc
import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from hypercolumns.backbones.caffenet import CaffeNet
from hypercolumns.backbones.presets import nearest
from hypercolumns.backbones.receptive_fields import WHOLE, Field, FieldInterpreter
from hypercolumns.errors import BackboneError, LayerNotFoundError

__all__ = [
    "GraphNetwork",
    "GraphTap",
    "Measurement",
    "Network",
    "Tap",
    "build_module",
    "known_names",
    "measure_graph",
    "on_meta",
    "still",
]

# These two rescale their input from ImageNet's statistics to [-1, 1], which all their published weights expect.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False, "transform_input": True},
    "inception_v3": {"init_weights": False, "transform_input": True},
}


@dataclass(frozen=True)
class Measurement:
    """What one tapped node gives for one image.

    Attributes:
        shape: The activation's shape, with the batch first.
        field: How its cells see the canvas.
        channels_axis: Which axis holds the channels.
    """

    shape: tuple[int, ...]
    field: Field
    channels_axis: int = 1


class Tap(nn.Module, abc.ABC):
    """A network cut down to some of its nodes: images (b, 3, H, W) in, a dict of activations out."""

    @abc.abstractmethod
    def subset(self, nodes: Sequence[str]) -> Tap:
        """Cut down further, sharing the parameters."""


class Network(Protocol):
    """A network whose inner activations have names."""

    module: nn.Module
    names: tuple[str, ...]

    @property
    def classifier(self) -> tuple[str, ...]:
        """Paths of what a complete weights file may hold beyond the module's own state."""
        ...

    def needed(self, nodes: Sequence[str]) -> set[str]:
        """Name the entries of the module's state that these nodes depend on."""
        ...

    def tap(self, nodes: Sequence[str]) -> Tap:
        """Cut the network down to what these nodes need."""
        ...

    def measure(self, nodes: Sequence[str], canvas_hw: tuple[int, int]) -> dict[str, Measurement]:
        """Run the network up to these nodes on shapes alone."""
        ...


def known_names() -> list[str]:
    """List the networks that can be built by `build_module`."""
    from torchvision import models

    return sorted({"caffenet", *models.list_models(module=models)})


def build_module(name: str) -> nn.Module:
    """Build caffenet or a torchvision classifier with the library's own initial values.

    Raises:
        BackboneError: there is no network of that name.
    """
    if name not in known_names():
        raise BackboneError(
            f"expected a preset, a torchvision classification model or timm:NAME, got {name!r}{nearest(name, known_names())}"
        )
    if name == "caffenet":
        return CaffeNet()
    from torchvision import models

    module: nn.Module = models.get_model(name, weights=None, **_ARGUMENTS.get(name, {}))
    return module


def still(module: nn.Module) -> nn.Module:
    """Freeze a network, and stop its activations from working in place: they would overwrite tapped values."""
    for part in module.modules():
        if getattr(part, "inplace", False) is True:
            part.inplace = False  # type: ignore[assignment]
    return module.eval().requires_grad_(False)


class GraphTap(Tap):
    """A traced network cut off after the wanted nodes."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the tapped nodes for images of shape (b, 3, H, W)."""
        maps: dict[str, Tensor] = self.graph(images)
        return maps

    def subset(self, nodes: Sequence[str]) -> GraphTap:
        """Cut the graph after some of the tapped nodes, sharing the parameters."""
        graph = copy.deepcopy(self.graph.graph)
        output = graph.output_node()
        tapped: dict[str, fx.Node] = output.args[0]  # type: ignore[assignment]
        output.args = ({name: tapped[name] for name in nodes},)
        smaller = fx.GraphModule(self.graph, graph)
        return GraphTap(_pruned(smaller))


class _Recorder(nn.Module):
    """Runs a graph node by node from inside a module, so that its parameters can be swapped for shapes."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, images: Tensor) -> dict[str, Measurement]:
        runner = FieldInterpreter(self.graph)
        runner.run(images)
        tapped: dict[str, fx.Node] = self.graph.graph.output_node().args[0]  # type: ignore[assignment]
        return {
            name: Measurement(runner.shapes.get(node, ()), runner.fields.get(node, WHOLE), runner.channels_axis.get(node, 1))
            for name, node in tapped.items()
        }


def on_meta(module: nn.Module) -> dict[str, Tensor]:
    """Give a module's parameters and buffers as shapes only."""
    return {key: value.to("meta") for key, value in (*module.named_parameters(), *module.named_buffers())}


def measure_graph(graph: fx.GraphModule, canvas_hw: tuple[int, int]) -> dict[str, Measurement]:
    """Run a traced network, whose output is a dict of nodes, on shapes alone.

    Raises:
        RuntimeError: the network does not fit the canvas.
    """
    recorder = _Recorder(graph)
    images = torch.empty(1, 3, *canvas_hw, device="meta")
    measured: dict[str, Measurement] = torch.func.functional_call(recorder, on_meta(recorder), (images,))
    return measured


class GraphNetwork:
    """A network traced by torch.fx; its activations are called by torchvision's node names."""

    def __init__(self, module: nn.Module) -> None:
        from torchvision.models.feature_extraction import get_graph_node_names

        self.module = still(module)
        with warnings.catch_warnings():
            # Tracing in training mode, which torchvision insists on, trips over asserts that evaluation never meets.
            warnings.simplefilter("ignore")
            self.names = tuple(get_graph_node_names(module, suppress_diff_warning=True)[1])

    @property
    def classifier(self) -> tuple[str, ...]:
        """Paths of what a complete file may hold beyond the module's state: nothing, the module is complete."""
        return ()

    def needed(self, nodes: Sequence[str]) -> set[str]:
        """Name the entries of the module's state that these nodes depend on."""
        return set(self._cut(nodes).state_dict())

    def tap(self, nodes: Sequence[str]) -> GraphTap:
        """Cut the network off after the last of these nodes.

        Raises:
            LayerNotFoundError: a node is unknown; the nearest are listed.
        """
        return GraphTap(self._cut(nodes))

    def measure(self, nodes: Sequence[str], canvas_hw: tuple[int, int]) -> dict[str, Measurement]:
        """Run the network up to these nodes on shapes alone.

        Raises:
            RuntimeError: the network does not fit the canvas.
        """
        return measure_graph(self._cut(nodes), canvas_hw)

    def _cut(self, nodes: Sequence[str]) -> fx.GraphModule:
        from torchvision.models.feature_extraction import create_feature_extractor

        for node in nodes:
            # As in torchvision, a module's path stands for its last node.
            if not any(name == node or name.startswith(f"{node}.") for name in self.names):
                raise LayerNotFoundError(
                    f"expected a node of {type(self.module).__name__}, got {node!r}{nearest(node, self.names)}; "
                    "list_layers(spec) lists them all"
                )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            both = create_feature_extractor(
                self.module, eval_return_nodes=list(nodes), train_return_nodes=[], suppress_diff_warning=True
            ).eval()
        graph = both.eval_graph
        for node in graph.nodes:
            if node.kwargs.get("inplace"):
                node.kwargs = {**node.kwargs, "inplace": False}
        return _pruned(fx.GraphModule(both, graph))


def _pruned(graph: fx.GraphModule) -> fx.GraphModule:
    # An in-place or random operation counts as impure for fx, which would keep everything before it alive.
    graph.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph.eval()
