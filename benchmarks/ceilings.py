"""What this machine can do at most: products, interpolation and conversions by torch's own operations, large and undisturbed.

The disk's own speed is measured beside what is compared with it (`benchmarks.stores`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.measuring import Figure, interleaved
from hypercolumns.arithmetic import multiplies_bfloat16

__all__ = ["ceilings"]

_CELLS = 112 * 112
_CHANNELS = 512
_CLASSES = 21
_NUMBERS = 1 << 24
_WIDENED = (256, 28, 224)
"""Channels, and the sides of the map before and after."""


def ceilings() -> list[Figure]:
    """Measure with one of torch's threads, and with all of them."""
    cores, figures = torch.get_num_threads(), []
    for threads in sorted({1, cores}):
        torch.set_num_threads(threads)
        label = f"{threads} thread{'s' if threads > 1 else ''}"
        with torch.inference_mode():
            found = [*_products(), _interpolation(), *_conversions()]
        figures += [Figure(f"ceiling: {what}, {label}", value, None, unit) for what, value, unit in found]
    return figures


def _products() -> list[tuple[str, float, str]]:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        if dtype == torch.bfloat16 and not multiplies_bfloat16():
            continue
        values = torch.randn(_CELLS, _CHANNELS).to(dtype)
        pixels = values.view(1, _CELLS, 1, _CHANNELS).permute(0, 3, 1, 2)
        for outputs in (_CHANNELS, _CLASSES):
            weight = torch.randn(outputs, _CHANNELS).to(dtype)
            times = interleaved(
                lambda p=pixels, w=weight: F.conv2d(p, w[:, :, None, None]), lambda v=values, w=weight: F.linear(v, w)
            )
            operations = 2 * _CELLS * _CHANNELS * outputs
            for form, seconds in zip(("1x1 convolution", "linear layer"), times, strict=True):
                what = f"{str(dtype).removeprefix('torch.')} products, {_CHANNELS} to {outputs} channels, {form}"
                found.append((what, operations / seconds / 1e9, " GFLOP/s"))
    return found


def _interpolation() -> tuple[str, float, str]:
    channels, side, wide = _WIDENED
    values = torch.randn(1, channels, side, side).contiguous(memory_format=torch.channels_last)
    (seconds,) = interleaved(lambda: F.interpolate(values, size=(wide, wide), mode="bilinear", align_corners=False))
    return f"interpolation to {wide} x {wide} of {channels} channels, written", 4 * channels * wide**2 / seconds / 1e9, " GB/s"


def _conversions() -> list[tuple[str, float, str]]:
    halves = torch.randn(_NUMBERS).half()
    times = interleaved(lambda: halves.to(torch.bfloat16), lambda: halves.float().to(torch.bfloat16), halves.float)
    names = ("float16 to bfloat16 in one step", "float16 to bfloat16 by way of float32", "float16 to float32")
    return [(name, _NUMBERS / seconds / 1e9, " G numbers a second") for name, seconds in zip(names, times, strict=True)]
