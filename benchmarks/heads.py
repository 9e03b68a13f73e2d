"""The heads against what a good notebook does: gather against stack and index, classify-then-upsample against the reverse."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measuring import Figure, interleaved, ratio
from hypercolumns.arithmetic import multiplies_bfloat16
from hypercolumns.backbones import LayerInfo, build_backbone
from hypercolumns.columns import Frame, gather, stack
from hypercolumns.heads import PixelMLP, convert
from hypercolumns.specs import BackboneSpec, HeadSpec

__all__ = ["dense_heads", "peak_memory", "sparse_gather", "training_step"]

CLASSES = 21
CANVAS = (224, 224)
FRAME = Frame(CANVAS)
_STREET = (360, 480)
_HIDDEN = (0, 64, 256, 512)
_FORWARD = (15.0, 12.0, 9.0, 8.0)
_BOTH = (10.0, 9.0, 7.0, 6.0)
_MEMORY = (100.0, 35.0, 12.0, 8.0)


def vgg_maps() -> tuple[tuple[LayerInfo, ...], list[Tensor]]:
    """Return the layers of vgg11 at 224 pixels, 1472 channels in all, and one image's maps, channels last."""
    backbone = build_backbone(BackboneSpec(name="vgg11", weights="random:0"), CANVAS)
    found = backbone(torch.randn(1, 3, *CANVAS))
    return backbone.layers, [found[layer.name].permute(0, 2, 3, 1).clone() for layer in backbone.layers]


def sparse_gather() -> list[Figure]:
    """Gather 8 and 63 hypercolumns of an image, against upsampling, stacking and indexing, and against sampling each map."""
    layers, maps = vgg_maps()
    native, image = [m.permute(0, 3, 1, 2) for m in maps], [m[0] for m in maps]
    figures = []
    for count in (8, 63):
        cells = torch.randint(0, CANVAS[0] * CANVAS[1], (count,))
        points = torch.stack([cells % CANVAS[1] + 0.5, cells // CANVAS[1] + 0.5], dim=1).double()

        def ours(points: Tensor = points) -> Tensor:
            return gather(image, points, layers, FRAME)

        def plain(cells: Tensor = cells) -> Tensor:
            return stack(maps, layers, FRAME).reshape(-1, sum(layer.channels for layer in layers))[cells]

        def sampled(points: Tensor = points) -> Tensor:
            grid = (points.float() / torch.tensor(CANVAS[::-1]) * 2 - 1)[None, None]
            found = [F.grid_sample(m, grid, padding_mode="border", align_corners=False)[0, :, 0].T for m in native]
            return torch.cat(found, dim=1)

        expected = plain()
        differences = [float((found() - expected).abs().max() / expected.abs().max()) for found in (ours, sampled)]
        # A call of ours is too short to be timed by itself.
        many, some, few = interleaved(
            lambda f=ours: _repeat(f, 100), lambda f=sampled: _repeat(f, 20), lambda f=plain: _repeat(f, 2)
        )
        details = {"difference": differences[0], "grid_sample_difference": differences[1]}
        figures.append(ratio(f"sparse gather of {count} pixels", 1000, many / 100, few / 2, **details))
        figures.append(ratio(f"sparse gather of {count} pixels, against grid_sample", None, many / 100, some / 20))
    return figures


def dense_heads() -> list[Figure]:
    """Classify before upsampling, against upsampling, concatenating and 1x1 convolutions, both channels last."""
    figures = []
    for hidden, forward_target, both_target in zip(_HIDDEN, _FORWARD, _BOTH, strict=True):
        ours, plain = _forms(hidden)
        times = interleaved(lambda f=ours: _infer(f), lambda f=plain: _infer(f))
        figures.append(ratio(f"dense head, hidden {hidden}: forward", forward_target, *times))
        times = interleaved(lambda f=ours: _train(f), lambda f=plain: _train(f))
        figures.append(ratio(f"dense head, hidden {hidden}: forward + backward", both_target, *times))
    return figures


def training_step() -> list[Figure]:
    """Forward, loss and gradients at CamVid's sizes, in the arithmetic that `automatic` chooses, against the stacked form."""
    dtype = torch.bfloat16 if multiplies_bfloat16() else torch.float32
    backbone = build_backbone(BackboneSpec(name="squeezenet1_1", weights="random:0"), _STREET)
    found = backbone(torch.randn(2, 3, *_STREET))
    layers, maps = backbone.layers, [found[layer.name].permute(0, 2, 3, 1).to(dtype).clone() for layer in backbone.layers]
    spec = HeadSpec(hidden=256, output_stride=4, alignment="receptive_field", context="none")
    conv = convert(PixelMLP(layers, CLASSES, spec, Frame(_STREET, spec.alignment)), dtype)
    plain = _plain_head(sum(layer.channels for layer in layers), spec.hidden).to(dtype, memory_format=torch.channels_last)
    native = [m.permute(0, 3, 1, 2) for m in maps]
    grid = (_STREET[0] // spec.output_stride, _STREET[1] // spec.output_stride)
    labels = torch.randint(0, CLASSES, (2, *grid))

    def ours() -> None:
        F.cross_entropy(conv(maps).float(), labels).backward()  # type: ignore[no-untyped-call]

    def stacked() -> None:
        columns = torch.cat([F.interpolate(m, size=grid, mode="bilinear", align_corners=False) for m in native], dim=1)
        F.cross_entropy(plain(columns).float(), labels).backward()  # type: ignore[no-untyped-call]

    name = f"dense step of two images, 480x360, {str(dtype).removeprefix('torch.')}, hidden 256, stride 4"
    return [ratio(name, None, *interleaved(ours, stacked))]


def peak_memory() -> list[Figure]:
    """Peak memory of a training step beyond maps and weights, each form in a process of its own."""
    figures = []
    for hidden, target in zip(_HIDDEN, _MEMORY, strict=True):
        ours, plain = (_peak_bytes(hidden, form) for form in ("ours", "plain"))
        details = {"ours_megabytes": ours / 1e6, "baseline_megabytes": plain / 1e6}
        figures.append(Figure(f"dense head, hidden {hidden}: peak memory", plain / ours, target, details=details))
    return figures


def _forms(hidden: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    layers, maps = vgg_maps()
    conv = convert(PixelMLP(layers, CLASSES, HeadSpec(hidden=hidden, output_stride=1), FRAME))
    plain = _plain_head(sum(layer.channels for layer in layers), hidden).to(memory_format=torch.channels_last)
    native = [m.permute(0, 3, 1, 2) for m in maps]

    def upsampled() -> Tensor:
        columns = torch.cat([F.interpolate(m, size=CANVAS, mode="bilinear", align_corners=False) for m in native], dim=1)
        result: Tensor = plain(columns)
        return result

    return lambda: conv(maps), upsampled


def _plain_head(channels: int, hidden: int) -> nn.Module:
    if hidden == 0:
        return nn.Conv2d(channels, CLASSES, 1)
    return nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, CLASSES, 1))


def _repeat(function: Callable[[], Tensor], times: int) -> None:
    for _ in range(times):
        function()


def _infer(function: Callable[[], Tensor]) -> None:
    with torch.inference_mode():
        function()


def _train(function: Callable[[], Tensor]) -> None:
    function().sum().backward()  # type: ignore[no-untyped-call]


def _peak_bytes(hidden: int, form: str) -> float:
    command = [sys.executable, "-m", "benchmarks.heads", str(hidden), form]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _print_peak(hidden: int, form: str) -> None:
    """Print the most bytes that torch held at once in a step, beyond what it held before."""
    ours, plain = _forms(hidden)
    function = ours if form == "ours" else plain
    _train(function)
    with torch.profiler.profile(profile_memory=True) as profile:
        _train(function)
    print(_highest(profile))


def _highest(profile: Any) -> int:
    """Add up the allocations and releases of a profile in the order of time."""
    held = highest = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


if __name__ == "__main__":
    _print_peak(int(sys.argv[1]), sys.argv[2])
