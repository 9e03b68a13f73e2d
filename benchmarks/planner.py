"""The planner's predictions against what then happens: bytes, times, and whether storing pays.

Each network is planned, then extracted, read and recomputed in earnest; nothing that the plan measured is used again.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import Figure, scratch
from benchmarks.pipelines import experiment
from hypercolumns.extraction import MOST_STREAMS, Batch, extract_maps
from tasks.extract import extract_features
from tasks.jobs import Job, Prepared
from tasks.manifests import load_manifest
from tasks.plan import Planned, plan_extraction
from tasks.stores import canvas_loader, experiment_backbone, open_source

__all__ = ["planner"]

_NETWORKS: dict[str, tuple[int, dict[str, Any]]] = {
    "vgg11": (64, {"name": "vgg11", "weights": "random:0"}),
    "vgg16": (32, {"name": "vgg16", "weights": "random:0"}),
    "squeezenet1_0": (256, {"name": "squeezenet1_0", "weights": "random:0"}),
    "ViT-S/16": (
        64,
        {"name": "timm:vit_small_patch16_224", "weights": "random:0", "layers": ["blocks.3", "blocks.7", "blocks.11"]},
    ),
}
"""Images, and the backbone; maps of the ViT are small, so that storing them pays most."""

_PASSES = (1, 2, 3, 5, 10, 30)
_BATCH = 8


def planner() -> list[Figure]:
    """Plan, then do it: four networks uncompressed, and each type of store compressed."""
    with scratch() as folder:
        figures: list[Figure] = []
        for name, (images, backbone) in _NETWORKS.items():
            figures += _network(folder / name.partition("/")[0], name, images, backbone)
        for dtype in ("float16", "float32", "bfloat16", "uint8"):
            for compression, most in (("none", 0.01), ("zstd", 0.05)):
                figures.append(_bytes(folder / f"{dtype}-{compression}", dtype, compression, most))
        return figures


def _network(folder: Path, name: str, images: int, backbone: dict[str, Any]) -> list[Figure]:
    job, prepared, count = experiment(folder, images, backbone=backbone)
    planned = plan_extraction(job, prepared)
    start = time.perf_counter()
    extracted = extract_features(job, prepared)
    seconds = time.perf_counter() - start
    written = sum(extracted.layer_bytes.values())
    forward, read = _forward(job, prepared), _read(job, prepared)
    real = {"extract": seconds / count, "forward": forward, "read": read}
    shutil.rmtree(folder)
    return [
        _error(f"planner, {name}: bytes", planned.bytes_needed, written, 0.01),
        _error(f"planner, {name}: extraction time", planned.eta_seconds, seconds, 0.25),
        _error(f"planner, {name}: recomputing an image", planned.forward_seconds_per_image, forward, 0.25),
        _error(f"planner, {name}: reading an image", planned.read_seconds_per_image, read, 0.25),
        _advice(name, planned, real),
    ]


def _bytes(folder: Path, dtype: str, compression: str, most: float) -> Figure:
    backbone = {"name": "squeezenet1_1", "weights": "shapes"}
    job, prepared, _ = experiment(folder, 48, backbone=backbone, store={"dtype": dtype, "compression": compression})
    planned = plan_extraction(job, prepared, seconds=0.5)
    extracted = extract_features(job, prepared)
    figure = _error(f"planner, {dtype}, {compression}: bytes", planned.bytes_needed, sum(extracted.layer_bytes.values()), most)
    shutil.rmtree(folder)
    return figure


def _error(what: str, planned: float | None, real: float, most: float) -> Figure:
    planned = planned or 0.0
    return Figure(what, abs(planned / real - 1), most, "", at_most=True, details={"planned": planned, "measured": real})


def _advice(name: str, planned: Planned, real: dict[str, float]) -> Figure:
    """Count the numbers of passes for which the planner says the same as the clock; a difference below 5 % is a tie."""
    right = 0
    for passes in _PASSES:
        stored, recomputed = real["extract"] + passes * real["read"], passes * real["forward"]
        tie = abs(stored - recomputed) <= 0.05 * recomputed
        says_store = planned.break_even_passes is not None and passes >= planned.break_even_passes
        right += tie or says_store == (stored < recomputed)
    details = {"break_even_passes": planned.break_even_passes, **{f"{key}_seconds": value for key, value in real.items()}}
    return Figure(f"planner, {name}: right advice, of {len(_PASSES)}", right, len(_PASSES), "", details=details)


def _forward(job: Job, prepared: Prepared) -> float:
    manifest = load_manifest(prepared.path)
    entries = manifest.splits["train"]
    backbone, load = experiment_backbone(job.spec), canvas_loader(manifest, entries, job.spec)
    names = [layer.name for layer in backbone.layers]
    # In whole rounds of the streams, as a data set of any size is computed but for its end.
    turn = _BATCH * min(torch.get_num_threads(), MOST_STREAMS)
    items = [(index, "identity") for index in range(len(entries) // turn * turn or len(entries))]
    batches = [Batch(items[first : first + _BATCH], names) for first in range(0, len(items), _BATCH)]

    def compute(wanted: list[Batch]) -> None:
        for _ in extract_maps(backbone, load, wanted):
            pass

    compute(batches[:2])
    return statistics.median(_seconds(lambda: compute(batches)) for _ in range(2)) / len(items)


def _read(job: Job, prepared: Prepared) -> float:
    manifest = load_manifest(prepared.path)
    source = open_source(job, manifest, "train", passes=1 + job.spec.train.epochs)
    count = len(manifest.splits["train"])

    def read() -> None:
        for index in range(count):
            for values in source.maps([(index, "identity")]):
                values.to(torch.float32, copy=True)

    read()
    return statistics.median(_seconds(read) for _ in range(3)) / count


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
