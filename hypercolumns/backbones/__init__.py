"""Frozen networks whose inner activations are the features.

`build_backbone` makes a `BackboneSpec` into a `Backbone`: a callable from canvases to maps that knows each layer's channels,
stride, receptive field and offset. Nothing here reads images or writes files.
"""

from __future__ import annotations

from hypercolumns.backbones.extractor import EXTRACTOR_VERSION, Backbone, LayerInfo, build_backbone, list_layers
from hypercolumns.backbones.presets import PRESETS, preset_layers

__all__ = ["EXTRACTOR_VERSION", "PRESETS", "Backbone", "LayerInfo", "build_backbone", "list_layers", "preset_layers"]
