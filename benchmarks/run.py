"""`make bench`: ratios measured side by side in one process, interleaved, medians over repeats.

Every row pits a form of ours against the plain one a good notebook would use, on the same threads and the same data.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import zarr
from torch import Tensor, nn

from benchmarks.outcome import Check, print_checks, write_results
from hypercolumns.backbones import build_backbone
from hypercolumns.columns import Frame, gather, stack
from hypercolumns.heads import PixelMLP, convert
from hypercolumns.specs import BackboneSpec, HeadSpec
from storage.features import FeatureStore, ShardWriter

REPEATS = 5
CLASSES = 21
CANVAS = (224, 224)
FRAME = Frame(CANVAS)


def main() -> int:
    """Run the chosen rows; print and keep them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="rows whose name contains this")
    options = parser.parse_args()
    rows: dict[str, Any] = {}
    checks: list[Check] = []
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        for name, (measure, target) in ROWS.items():
            if options.only and options.only not in name:
                continue
            label = f"{name}, {threads} thread{'s' if threads > 1 else ''}"
            ours, plain = measure()
            ratio = plain / ours
            rows[label] = {"ours_seconds": ours, "baseline_seconds": plain, "ratio": ratio}
            checks.append(Check(label, ratio, f">= {target:g}x", ratio >= target))
    print_checks(checks)
    print(f"kept in {write_results('bench', rows, checks)}")
    return 0


def interleaved(ours: Callable[[], Any], plain: Callable[[], Any], repeats: int = REPEATS) -> tuple[float, float]:
    """Time two functions in turn and return the median seconds of each; the first round warms up and is dropped."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for function, kept in zip((ours, plain), times, strict=True):
            start = time.perf_counter()
            function()
            kept.append(time.perf_counter() - start)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


def _maps(images: int = 1) -> tuple[tuple[Any, ...], list[Tensor]]:
    backbone = build_backbone(BackboneSpec(name="vgg11", weights="random:0"), CANVAS)
    found = backbone(torch.randn(images, 3, *CANVAS))
    return backbone.layers, [found[layer.name].permute(0, 2, 3, 1).clone() for layer in backbone.layers]


def sparse_gather() -> tuple[float, float]:
    """Gather 63 hypercolumns of vgg11, against upsampling, stacking and indexing."""
    layers, maps = _maps()
    cells = torch.randint(0, CANVAS[0] * CANVAS[1], (63,))
    points = torch.stack([cells % CANVAS[1] + 0.5, cells // CANVAS[1] + 0.5], dim=1).double()
    return interleaved(
        lambda: gather([m[0] for m in maps], points, layers, FRAME),
        lambda: stack(maps, layers, FRAME).reshape(-1, sum(layer.channels for layer in layers))[cells],
    )


def _plain_head(channels: int, hidden: int) -> nn.Module:
    if hidden == 0:
        return nn.Conv2d(channels, CLASSES, 1)
    return nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, CLASSES, 1))


def dense_head(hidden: int, *, backward: bool) -> tuple[float, float]:
    """Classify before upsampling, against upsampling, concatenating and 1x1 convolutions, both in channels-last order."""
    layers, maps = _maps()
    ours = convert(PixelMLP(layers, CLASSES, HeadSpec(hidden=hidden, output_stride=1), FRAME))
    plain = _plain_head(sum(layer.channels for layer in layers), hidden).to(memory_format=torch.channels_last)
    native = [m.permute(0, 3, 1, 2) for m in maps]

    def upsampled() -> Tensor:
        return torch.cat([F.interpolate(m, size=CANVAS, mode="bilinear", align_corners=False) for m in native], dim=1)

    def run(function: Callable[[], Tensor]) -> None:
        if backward:
            function().sum().backward()  # type: ignore[no-untyped-call]
        else:
            with torch.inference_mode():
                function()

    return interleaved(lambda: run(lambda: ours(maps)), lambda: run(lambda: plain(upsampled())))


def warm_read() -> tuple[float, float]:
    """Read single random images of a store, against stock zarr on the same files; the page cache is warm."""
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore.create_or_open(Path(folder), {"made": "for a benchmark"})
        store.declare_layers({"layer": (56, 56, 256)})
        keys = tuple(f"{number:064x}:identity" for number in range(64))
        maps = np.random.default_rng(0).standard_normal((len(keys), 56, 56, 256), np.float32)
        while isinstance(writer := store.claim(keys, ["layer"]), ShardWriter):
            with writer:
                chosen = [keys.index(key) for key in writer.row_keys]
                writer.write(0, {"layer": maps[chosen]})
        rows = store.rows(keys, ["layer"])
        order = np.random.default_rng(1).permutation(rows)
        reader = store.reader(["layer"])
        array = zarr.open_array(str(store.array_path("layer")), mode="r")
        return interleaved(
            lambda: [np.array(reader.read("layer", [row])) for row in order],
            lambda: [np.asarray(array[int(row)]) for row in order],
        )


ROWS: dict[str, tuple[Callable[[], tuple[float, float]], float]] = {
    "sparse gather of 63 pixels, vgg11": (sparse_gather, 1000),
    **{
        f"dense head, hidden {hidden}, {'forward+backward' if backward else 'forward'}": (
            lambda hidden=hidden, backward=backward: dense_head(hidden, backward=backward),
            target,
        )
        for backward, targets in ((False, (15, 12, 9, 8)), (True, (10, 9, 7, 6)))
        for hidden, target in zip((0, 64, 256, 512), targets, strict=True)
    },
    "warm read of single images (first-touch checksums), against zarr": (warm_read, 4),
}


if __name__ == "__main__":
    sys.exit(main())
