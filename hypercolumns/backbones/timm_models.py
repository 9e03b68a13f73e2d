"""Networks of the timm library (an extra): convolutional stages, and transformer blocks whose tokens become maps.

Layers are called by the module paths timm declares as a model's features (`layer1`, `stages.2`, `blocks.11`). timm is imported
only when such a network is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from hypercolumns.backbones.graphs import Measurement, Tap, measure_graph, on_meta, still
from hypercolumns.backbones.presets import nearest
from hypercolumns.backbones.receptive_fields import IMAGE, WHOLE, Field, grow, module_window
from hypercolumns.errors import BackboneError, LayerNotFoundError

__all__ = ["TimmNetwork", "TimmTap"]

# What tracing raises where a network's path depends on values (TraceError), or makes tensors or numbers from traced ones.
_UNTRACEABLE = (fx.proxy.TraceError, TypeError, RuntimeError, ValueError, AssertionError)


def _timm(module: str = "timm") -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BackboneError(
            "expected the timm library for a backbone called timm:NAME, got none installed; pip install 'hypercolumns[timm]'"
        ) from error


class TimmTap(Tap):
    """A timm network that stops after the last wanted block."""

    def __init__(self, model: nn.Module, indices: dict[str, int]) -> None:
        super().__init__()
        self.model = model
        self.indices = indices

    def forward(self, images: Tensor | fx.Proxy) -> dict[str, Any]:
        """Compute the tapped features for images of shape (b, 3, H, W), as maps without class or register tokens.

        While the network is traced, stand-ins come in and go out.
        """
        order = sorted(self.indices, key=self.indices.__getitem__)
        maps = self.model.forward_intermediates(  # type: ignore[operator]
            images,
            indices=[self.indices[name] for name in order],
            norm=False,
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        return dict(zip(order, maps, strict=True))

    def subset(self, nodes: Sequence[str]) -> TimmTap:
        """Stop earlier, sharing the parameters."""
        return TimmTap(self.model, {name: self.indices[name] for name in nodes})


class TimmNetwork:
    """A network of the timm library, without its classifier.

    Args:
        name: timm's name, without the prefix ``timm:``.
        canvas_hw: The size of image it shall take; None for its own, if only names are wanted.

    Raises:
        BackboneError: timm is missing, knows no such network, or the network gives no features or not at this size.
    """

    def __init__(self, name: str, canvas_hw: tuple[int, int] | None = None) -> None:
        timm = _timm()
        family = name.partition(".")[0]
        if not timm.is_model(family):
            raise BackboneError(f"expected a network timm knows, got {name!r}{nearest(family, timm.list_models())}")
        self.name, self.canvas_hw = name, canvas_hw
        model = self._create(timm, {})
        self._config: dict[str, Any] = model.default_cfg
        self._resizes = False
        if canvas_hw is not None and tuple(self._config["input_size"][1:]) != canvas_hw:
            # Resizing after loading resamples what the weights say of positions; some can only be built at their size.
            self._resizes = hasattr(model, "set_input_size")
            if not self._resizes and self._config.get("fixed_input_size"):
                model = self._create(timm, {"img_size": canvas_hw})
        if not hasattr(model, "forward_intermediates"):
            raise BackboneError(f"expected a timm network that gives intermediate features, got {name!r}; choose another")
        self.module: nn.Module = still(model)
        self.names = tuple(str(feature["module"]) for feature in model.feature_info)

    def _create(self, timm: Any, arguments: dict[str, Any]) -> Any:
        try:
            return timm.create_model(self.name, pretrained=False, num_classes=0, **arguments)
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            size = f" at a canvas of {self.canvas_hw}" if arguments else ""
            raise BackboneError(f"expected timm to build {self.name!r}{size}, got: {error}") from error

    @property
    def classifier(self) -> tuple[str, ...]:
        """The parameters a complete file may hold beyond this network, by their path."""
        named = self._config.get("classifier") or ()
        return (named,) if isinstance(named, str) else tuple(named)

    def needed(self, nodes: Sequence[str]) -> set[str]:
        """Name the entries of the module's state that these nodes depend on: all but the classifier's."""
        self._check_names(nodes)
        return set(self.module.state_dict())

    def tap(self, nodes: Sequence[str]) -> TimmTap:
        """Fit the network to the canvas, and stop it after the last of these features.

        Raises:
            LayerNotFoundError: a feature is unknown; the nearest are listed.
            BackboneError: the canvas is not a multiple of the patch.
        """
        self._check_names(nodes)
        if self.canvas_hw is not None:
            self._check_patches(self.canvas_hw)
            if self._resizes:
                with torch.no_grad():
                    self.module.set_input_size(img_size=self.canvas_hw)  # type: ignore[operator]
                self._resizes = False
        return TimmTap(still(self.module), {node: self.names.index(node) for node in nodes})

    def _check_names(self, nodes: Sequence[str]) -> None:
        for node in nodes:
            if node not in self.names:
                known = ", ".join(self.names)
                raise LayerNotFoundError(
                    f"expected a feature of timm's {self.name} ({known}), got {node!r}{nearest(node, self.names)}"
                )

    def _check_patches(self, canvas_hw: tuple[int, int]) -> None:
        patch_hw = getattr(getattr(self.module, "patch_embed", None), "patch_size", None)
        if isinstance(patch_hw, tuple) and any(side % patch for side, patch in zip(canvas_hw, patch_hw, strict=True)):
            raise BackboneError(
                f"expected a canvas whose sides are multiples of the patch {patch_hw} of timm's {self.name}, got {canvas_hw}"
            )

    def measure(self, nodes: Sequence[str], canvas_hw: tuple[int, int]) -> dict[str, Measurement]:
        """Run the network up to these features on shapes alone.

        Raises:
            RuntimeError: the network does not fit the canvas.
            AssertionError: timm says so itself.
        """
        tap = self.tap(nodes)
        images = torch.empty(1, 3, *canvas_hw, device="meta")
        maps: dict[str, Tensor] = torch.func.functional_call(tap, on_meta(tap), (images,))
        fields = _traced_fields(tap, canvas_hw)
        patch_field = self._patch_field()
        return {
            name: Measurement(tuple(value.shape), self._field(fields.get(name, WHOLE), value, patch_field, canvas_hw))
            for name, value in maps.items()
        }

    def _patch_field(self) -> Field:
        window = module_window(getattr(getattr(self.module, "patch_embed", None), "proj", nn.Identity()))
        return WHOLE if window is None else grow(IMAGE, window)

    def _field(self, traced: Field, value: Tensor, patch: Field, canvas_hw: tuple[int, int]) -> Field:
        # A token attends to the whole image, but stays at its patch's place as long as the grid is the patches' own.
        if traced.stride_px is not None or patch.stride_px is None:
            return traced
        own_grid = tuple(side // int(stride) for side, stride in zip(canvas_hw, patch.stride_px, strict=True))
        return Field(None, patch.stride_px, patch.offset_px) if tuple(value.shape[2:]) == own_grid else WHOLE


class _Tracer(fx.Tracer):
    """Traces down to torch's own modules, except those that timm knows to be untraceable."""

    def __init__(self, leaves: tuple[type[nn.Module], ...], functions: tuple[Any, ...]) -> None:
        super().__init__(autowrap_functions=functions)
        self.leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.leaves) or super().is_leaf_module(m, module_qualified_name)


def _traced_fields(tap: TimmTap, canvas_hw: tuple[int, int]) -> dict[str, Field]:
    """Work the fields out along the traced network; those of a network that cannot be traced stay unknown."""
    layers = _timm("timm.layers")
    tracer = _Tracer(tuple(layers.get_notrace_modules()), tuple(layers.get_notrace_functions()))
    try:
        graph = fx.GraphModule(tap, tracer.trace(tap)).eval()
        measured = measure_graph(graph, canvas_hw)
    except _UNTRACEABLE:
        return {}
    return {name: measurement.field for name, measurement in measured.items()}
