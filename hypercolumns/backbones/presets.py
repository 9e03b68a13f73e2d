"""The presets: which activations of which well-known network make up a hypercolumn. Names only; no network is built here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hypercolumns.errors import BackboneError

__all__ = ["PRESETS", "Activation", "Preset", "nearest", "preset_layers"]

Activation = Literal["post_relu", "pre_relu"]


@dataclass(frozen=True)
class Preset:
    """The layers of one network, shallow to deep, before and after their ReLU.

    Attributes:
        post_relu: Node names of the rectified activations.
        pre_relu: Node names of the same activations before the ReLU; ``A+B`` concatenates two nodes.
        default: Which of the two a spec without layers gets.
        canvas_hw: The only canvas at which the network's fully connected layers exist; None where every layer is a map.
    """

    post_relu: tuple[str, ...]
    pre_relu: tuple[str, ...]
    default: Activation
    canvas_hw: tuple[int, int] | None = None


def _vgg(convolutions: tuple[int, ...], default: Activation) -> Preset:
    # In torchvision's VGG a ReLU directly follows every convolution.
    post_relu = tuple(f"features.{index + 1}" for index in convolutions)
    return Preset(post_relu, tuple(f"features.{index}" for index in convolutions), default)


def _squeezenet(fires: tuple[int, ...], default: Activation) -> Preset:
    # A fire module concatenates its two expanding convolutions after their ReLUs; before them it has no single node.
    post_relu = ("features.1", *(f"features.{index}.cat" for index in fires))
    pre_relu = ("features.0", *(f"features.{index}.expand1x1+features.{index}.expand3x3" for index in fires))
    return Preset(post_relu, pre_relu, default)


PRESETS: dict[str, Preset] = {
    "vgg11": _vgg((0, 3, 8, 13, 18), "pre_relu"),
    "vgg16": _vgg((2, 7, 14, 21, 28), "post_relu"),
    "squeezenet1_0": _squeezenet((3, 4, 7, 9, 12), "pre_relu"),
    "squeezenet1_1": _squeezenet((3, 4, 6, 7, 9, 10, 11, 12), "post_relu"),
    "caffenet": Preset(("pool2", "relu4", "relu7"), ("pool2", "conv4", "fc7"), "post_relu", canvas_hw=(227, 227)),
}


def preset_layers(name: str, activation: Activation | None = None) -> tuple[str, ...]:
    """Return the layers of a preset, shallow to deep.

    Args:
        name: One of `PRESETS`.
        activation: Before or after the ReLU; by default what the preset is defined with.

    Raises:
        BackboneError: there is no such preset.

    Source:
        Hariharan et al., "Hypercolumns for object segmentation and fine-grained localization", CVPR 2015, sec. 4, for
        caffenet's pool2, conv4 and fc7.
    """
    preset = PRESETS.get(name)
    if preset is None:
        raise BackboneError(f"expected a preset ({', '.join(sorted(PRESETS))}), got {name!r}{nearest(name, PRESETS)}")
    chosen = preset.default if activation is None else activation
    return preset.post_relu if chosen == "post_relu" else preset.pre_relu


def nearest(name: str, known: Iterable[str], count: int = 5) -> str:
    """Say which known names are nearest to a misspelt one, as the tail of an error message; empty if none is near."""
    found = difflib.get_close_matches(name, list(known), n=count, cutoff=0.4)
    return f"; nearest: {', '.join(found)}" if found else ""
