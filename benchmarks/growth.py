"""How costs grow: with the rows, layers and runs of a workspace, and with the classes, pixels and channels of a dense head.

A figure is a slope on doubly logarithmic axes: 1 where the cost is proportional, near 0 where it does not depend on the size.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.growing import NEW, fill, name_store
from benchmarks.measuring import Figure, interleaved, scratch
from hypercolumns.backbones import LayerInfo
from hypercolumns.columns import Frame
from hypercolumns.heads import PixelMLP, convert
from hypercolumns.specs import HeadSpec
from storage.features import FeatureStore
from storage.garbage import sweep
from storage.workspace import Workspace

__all__ = ["growth"]

ROWS = (100, 1_000, 10_000, 100_000)
FLAT = 0.3
"""The steepest slope of what should not grow. Ten times the rows cost less than twice the time, as deeper trees do."""
PROPORTIONAL = 1.1
"""The steepest slope of what may be proportional: 1, and what two measurements differ by."""
MEMORY = 1.1

_PROCESSES = 9
"""More than repeats elsewhere: what one question takes in a new process is short, and easily disturbed."""

_FLAT = {
    "open": "opening a store",
    "hits": f"looking up {NEW} images",
    "append": f"appending {NEW} images",
    "info": "describing a store",
    "read": "reading one random row",
    "gc": "looking for garbage",
}
_ROOT = Path(__file__).parent.parent


def growth() -> list[Figure]:
    """Measure all slopes; every size of a row is measured in turn."""
    return [*_with_rows(), *_with_layers(), *_with_runs(), *_heads()]


def _with_rows() -> list[Figure]:
    """Do the same to stores of 100 to 100 000 rows, each time in a new process: only the disk remembers."""
    with scratch() as folder:
        build = [_child("build", folder / str(rows), rows)["build"] for rows in ROWS]
        found: dict[str, list[list[float]]] = {}
        for repeat in range(_PROCESSES + 1):
            for position, rows in enumerate(ROWS):
                done = {**_child("ask", folder / str(rows), rows), **_child("append", folder / str(rows), rows)}
                for name, value in done.items() if repeat else ():
                    found.setdefault(name, [[] for _ in ROWS])[position].append(value)
    medians = {name: [statistics.median(values) for values in columns] for name, columns in found.items()}
    figures = [_last_decade(f"{what}, against rows", medians[name]) for name, what in _FLAT.items()]
    figures.append(_slope("weighing its files, against rows", ROWS, medians["du"], "seconds"))
    figures.append(_slope(f"finding {NEW} new images among all, against rows", ROWS, medians["missing"], "seconds"))
    figures.append(_slope("filling a store, against rows", ROWS, build, "seconds"))
    peaks = [peak / 1e6 for peak in medians["peak_bytes"]]
    details = {"rows": ROWS, "megabytes": peaks}
    figures.append(
        Figure(
            "growth: peak memory of opening and appending, most rows of fewest", peaks[-1] / peaks[0], MEMORY, "", True, details
        )
    )
    return figures


def _child(work: str, workspace: Path, rows: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.growing", work, str(workspace), str(rows)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=_ROOT)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _with_layers() -> list[Figure]:
    """Append images to stores of 1 to 64 layers."""
    sizes = (1, 4, 16, 64)
    with scratch() as folder:
        stores = []
        for layers in sizes:
            store = FeatureStore.create_or_open(folder, {"layers": layers}, shard_images=NEW)
            store.declare_layers({f"layer {number}": (2, 2, 4) for number in range(layers)})
            stores.append(store)
        work = [lambda store=store: fill(store, tuple(uuid.uuid4().hex for _ in range(NEW))) for store in stores]
        return [_slope(f"appending {NEW} images, against layers", sizes, interleaved(*work), "seconds")]


def _with_runs() -> list[Figure]:
    """Look for garbage among the things of 10 to 1000 runs."""
    sizes = (10, 100, 1000)
    with scratch() as folder:
        workspaces = [Workspace(folder / str(runs)) for runs in sizes]
        for workspace, runs in zip(workspaces, sizes, strict=True):
            for number in range(runs):
                name_store(workspace, f"run-{number}", f"{number:020x}")
        times = interleaved(*(lambda place=place: sweep(place, 0, remove=False) for place in workspaces))
    return [_slope("looking for garbage, against runs", sizes, times, "seconds")]


def _heads() -> list[Figure]:
    """Classify every pixel: with more classes, pixels, channels and layers, everything else being the same."""
    classes, sides = (10, 20, 40, 80), (112, 224, 448, 896)
    channels, layers = (256, 512, 1024, 2048), (1, 2, 4, 8)
    pixels = [side * side for side in sides]
    return [
        _slope("dense head, against classes", classes, _times(_head, [{"classes": n} for n in classes]), "seconds"),
        _slope("dense head, against pixels", pixels, _times(_head, [{"side": n} for n in sides]), "seconds"),
        _slope("dense head, against channels", channels, _times(_head, [{"channels": n} for n in channels]), "seconds"),
        _slope("dense head, against layers", layers, _times(_head, [{"layers": n} for n in layers]), "seconds"),
    ]


def _times(make: Callable[..., Callable[[], Any]], cases: Sequence[dict[str, int]]) -> tuple[float, ...]:
    with torch.inference_mode():
        return interleaved(*(make(**case) for case in cases))


def _head(side: int = 224, classes: int = 21, channels: int = 256, layers: int = 3) -> Callable[[], torch.Tensor]:
    """Return the pass of a head with 64 hidden units, over maps of a quarter of the side."""
    map_hw, stride, centre = (side // 4, side // 4), (4.0, 4.0), (2.0, 2.0)
    infos = [LayerInfo(f"layer {number}", channels, map_hw, stride, stride, centre) for number in range(layers)]
    conv = convert(PixelMLP(infos, classes, HeadSpec(hidden=64, output_stride=1), Frame((side, side))))
    maps = [torch.randn(1, *info.map_hw, channels) for info in infos]
    return lambda: conv(maps)


def _slope(what: str, sizes: Sequence[int], values: Sequence[float], unit: str) -> Figure:
    """Fit the slope over all sizes, where the cost may be proportional."""
    slope = float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
    return Figure(f"growth: {what}", slope, PROPORTIONAL, "", True, {"sizes": sizes, unit: values})


def _last_decade(what: str, values: Sequence[float]) -> Figure:
    """Take the slope from the last size but one to the last, where a part that grows shows best beside one that does not."""
    slope = float(np.log(values[-1] / values[-2]) / np.log(ROWS[-1] / ROWS[-2]))
    return Figure(f"growth: {what}", slope, FLAT, "", True, {"rows": ROWS, "seconds": values})
