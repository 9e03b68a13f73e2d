"""Extraction against the bare network, and how much of its rate could be kept at most, given what storing alone costs."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measuring import Figure, interleaved, scratch
from benchmarks.pipelines import SIDE, experiment
from hypercolumns.arithmetic import multiplies_bfloat16
from hypercolumns.backbones import Backbone, build_backbone
from hypercolumns.canvas import normalise
from hypercolumns.specs import BackboneSpec, Precision
from tasks.extract import extract_features, fill_store, open_extraction
from tasks.jobs import Job, Prepared

__all__ = ["extraction", "extraction_parts"]

_SECONDS = 2.5
"""Of a turn: a rate is asked for, and beginning and end take about 0.13 s of ours, however long it is."""
_BATCH = 8
_IMAGES = 64
"""Whose parts are measured by themselves."""


def extraction() -> list[Figure]:
    """Decode, run, cast and write, against the bare network on images that lie in memory."""
    with scratch() as folder:
        return [_extraction(folder, *case) for case in _cases()]


def extraction_parts() -> list[Figure]:
    """What each part of extraction costs the processor by itself, and which share of the bare network's rate that leaves."""
    with scratch() as folder:
        return [figure for name, precision, _ in _cases() for figure in _parts(folder, name, precision)]


def _cases() -> list[tuple[str, Precision, float]]:
    cases: list[tuple[str, Precision, float]] = [("vgg11", "float32", 0.95), ("squeezenet1_0", "float32", 0.92)]
    if multiplies_bfloat16():
        return [*cases, ("vgg11", "bfloat16", 0.92), ("squeezenet1_0", "bfloat16", 0.85)]
    print("# extraction in bfloat16: not measured, as this processor has no products of it")
    return cases


def _extraction(folder: Path, name: str, precision: Precision, target: float) -> Figure:
    backbone, batch = _network(name, precision)
    job, prepared, images = _work(folder, backbone, _BATCH * _batches_in(_SECONDS, backbone, batch))
    ours, bare = interleaved(
        lambda: extract_features(job, prepared),
        lambda: _run_bare(backbone, batch, images // _BATCH),
        before=lambda: shutil.rmtree(job.places.stores, ignore_errors=True),
    )
    rate, bare_rate = images / ours, images // _BATCH * _BATCH / bare
    details = {"images": images, "images_a_second": rate, "bare_images_a_second": bare_rate}
    return Figure(f"extraction, {name} {precision}: rate kept", rate / bare_rate, target, "", details=details)


def _parts(folder: Path, name: str, precision: Precision) -> list[Figure]:
    """Measure the network in as many streams as extraction has, storing without a network, and the bare network."""
    backbone, batch = _network(name, precision)
    job, prepared, images = _work(folder, backbone, _IMAGES)
    ready = _Ready(backbone, batch)
    threads, batches = torch.get_num_threads(), images // _BATCH
    spent: dict[str, list[float]] = {"network": [], "storing": []}
    _, _, bare = interleaved(
        lambda: spent["network"].append(_processor_seconds(lambda: _run_streams(backbone, batch, batches))),
        lambda: spent["storing"].append(_storing_seconds(job, prepared, ready)),
        lambda: _run_bare(backbone, batch, batches),
        before=lambda: shutil.rmtree(job.places.stores, ignore_errors=True),
    )
    network, storing = (1000 * statistics.median(seconds[1:]) / images for seconds in spent.values())
    shortest = max(network / threads, (network + storing) / len(os.sched_getaffinity(0)))
    what = f"extraction, {name} {precision}"
    return [
        Figure(f"{what}: processor time of the network in streams", network, None, " ms an image"),
        Figure(f"{what}: processor time of decoding, casting, checking and writing", storing, None, " ms an image"),
        Figure(f"{what}: rate kept if no moment of either were lost", 1000 * bare / images / shortest, None, ""),
    ]


def _network(name: str, precision: Precision) -> tuple[Backbone, Tensor]:
    """Build a network, and draw a batch for it."""
    backbone = build_backbone(BackboneSpec(name=name, weights="random:0"), (SIDE, SIDE), precision=precision)
    images = torch.randint(0, 255, (_BATCH, SIDE, SIDE, 3), dtype=torch.uint8)
    return backbone, normalise(images, (0.5,) * 3, (0.2,) * 3)


def _work(folder: Path, backbone: Backbone, images: int) -> tuple[Job, Prepared, int]:
    spec = {"name": backbone.spec.name, "weights": "random:0"}
    return experiment(folder, images, backbone=spec, store={"precision": backbone.precision})


class _Ready(Backbone):
    """A network that takes no time: its maps are there already, the same ones for every batch."""

    def __init__(self, backbone: Backbone, batch: Tensor) -> None:
        vars(self).update(vars(backbone))
        self._maps = backbone(batch)

    def __call__(self, images: Tensor, layers: Sequence[str] | None = None) -> dict[str, Tensor]:
        return {name: self._maps[name][: len(images)] for name in layers or self._maps}


def _storing_seconds(job: Job, prepared: Prepared, backbone: Backbone) -> float:
    """Fill the store with what a network gives, and return what that costs all cores together."""
    opened = open_extraction(job, prepared)
    size = job.spec.store.batch_images
    return _processor_seconds(lambda: fill_store(opened.store, opened.work, backbone, opened.load, size, lambda _: None))


def _processor_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def _run_streams(backbone: Backbone, batch: Tensor, batches: int) -> None:
    """Run batches side by side, each with one of torch's threads."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        list(executor.map(backbone, [batch] * batches))
    torch.set_num_threads(threads)


def _batches_in(seconds: float, backbone: Backbone, batch: Tensor) -> int:
    """Say how many batches this machine runs in about so long."""
    _run_bare(backbone, batch, 1)
    start = time.perf_counter()
    _run_bare(backbone, batch, 2)
    return max(4, round(2 * seconds / (time.perf_counter() - start)))


def _run_bare(backbone: Backbone, batch: Tensor, batches: int) -> None:
    for _ in range(batches):
        backbone(batch)
