"""A trial: what an image of this experiment costs here, measured on a few of them with the parts that will do the work.

Maps are written to a store in a folder of its own beside the real ones, on the same disk, and removed again.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from hypercolumns.backbones import Backbone
from hypercolumns.extraction import MOST_STREAMS, Batch, extract_maps
from hypercolumns.sources import CanvasLoader
from storage.features import FeatureStore
from storage.publish import PARTIAL_SUFFIX
from tasks.extract import fill_store
from tasks.jobs import Job
from tasks.manifests import Manifest
from tasks.stores import canvas_loader, experiment_backbone, read_tensor
from tasks.work import Work

__all__ = ["Costs", "forward_seconds", "try_out"]

_MOST_BYTES = 2 * 10**9
_READS = 3


@dataclass(frozen=True)
class Costs:
    """What an image costs, measured on this machine.

    Attributes:
        extract_seconds: Decode, run the backbone, and store the maps.
        forward_seconds: Decode and run the backbone.
        read_seconds: Read the maps from the store, as float32.
        stored_share: Bytes on the disk for each byte of maps: less than 1 if compression helps.
    """

    extract_seconds: float
    forward_seconds: float
    read_seconds: float
    stored_share: float = 1.0

    @property
    def break_even_passes(self) -> int | None:
        """The smallest number of passes E with extract + E·read < E·forward; None if reading is no faster."""
        if self.read_seconds >= self.forward_seconds:
            return None
        return int(self.extract_seconds / (self.forward_seconds - self.read_seconds)) + 1


def try_out(job: Job, manifest: Manifest, *, images: int, keep_cached: bool, seconds: float = 3.0) -> Costs:
    """Extract a few images for a few seconds, read them back, and recompute them.

    Args:
        job: The experiment.
        manifest: Its images.
        images: How many are to be extracted in earnest: no more are tried.
        keep_cached: Whether maps are going to be read from the page cache.
        seconds: About how long each of the measurements takes.
    """
    backbone = experiment_backbone(job.spec)
    entries = next(iter(manifest.splits.values()))
    load = canvas_loader(manifest, entries, job.spec)
    batch = job.spec.store.batch_images
    # Named so that `store gc` finds what a killed process leaves.
    with TemporaryDirectory(dir=job.places.stores, prefix="trial-", suffix=PARTIAL_SUFFIX) as folder:
        store = _trial_store(Path(folder), job, backbone)
        names = [layer.name for layer in backbone.layers]
        room = min(_MOST_BYTES, shutil.disk_usage(folder).free // 8)
        most = max(1, min(images, room // sum(store.bytes_of(name, 1) for name in names)))

        def fill(first: int, count: int) -> None:
            items = {f"trial {first + number}": ((first + number) % len(entries), "identity") for number in range(count)}
            fill_store(store, Work(entries, items, tuple(items)), backbone, load, batch, lambda _: None)

        # In whole rounds of the streams: in a part of one some stand still, and a short trial would take that for the rate.
        turn = batch * min(torch.get_num_threads(), MOST_STREAMS)
        first = min(most, 2 * turn)
        # The first pass also builds what is built once.
        fill(0, first)
        each = _seconds(lambda: fill(first, first)) / first
        count = min(most, int(seconds / each) // turn * turn)
        if count > first:
            each = _seconds(lambda: fill(2 * first, count)) / count
        forward = forward_seconds(backbone, load, len(entries), batch, seconds)
        read = _read_seconds(store, names, keep_cached=keep_cached)
        plain = sum(store.bytes_of(name, len(store.committed_rows(names[0]))) for name in names)
        return Costs(each, forward, read, sum(store.du()["layers"].values()) / plain if store.compression != "none" else 1.0)


def forward_seconds(backbone: Backbone, load: CanvasLoader, images: int, batch_images: int, seconds: float) -> float:
    """Decode images and run the backbone on them as extraction does, for about `seconds`; return the time an image takes."""
    streams = min(torch.get_num_threads(), MOST_STREAMS)

    def run(batches: int) -> float:
        items = [[((batch * batch_images + i) % images, "identity") for i in range(batch_images)] for batch in range(batches)]
        names = [layer.name for layer in backbone.layers]
        return _seconds(lambda: [None for _ in extract_maps(backbone, load, [Batch(each, names) for each in items])])

    run(streams)
    batches = 2 * streams
    taken = run(batches)
    if taken < seconds:
        batches = max(batches, int(seconds / taken * 2) * streams)
        taken = run(batches)
    return taken / (batches * batch_images)


def _trial_store(folder: Path, job: Job, backbone: Backbone) -> FeatureStore:
    spec = job.spec.store
    store = FeatureStore.create_or_open(
        folder, {"trial": True}, dtype=spec.dtype, compression=spec.compression, shard_images=spec.shard_images
    )
    store.declare_layers({layer.name: (*layer.map_hw, layer.channels) for layer in backbone.layers})
    return store


def _read_seconds(store: FeatureStore, names: list[str], *, keep_cached: bool) -> float:
    reader = store.reader(names, keep_cached=keep_cached)
    rows = store.committed_rows(names[0])

    def read() -> None:
        for row in rows:
            # All maps of an image, then what is done with them, as in training: map by map it takes two thirds of the time.
            for values in [read_tensor(reader, name, [int(row)]) for name in names]:
                values.to(torch.float32, copy=True)

    if keep_cached:
        # The first time they come from the disk, and are compared with their checksums.
        read()
    return statistics.median(_seconds(read) for _ in range(_READS)) / len(rows)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
