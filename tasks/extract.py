"""Extract: fill the feature store with what the experiment lacks, and nothing else.

Any number of processes may run this on one store at once: each claims shards, and what another one is computing is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from hypercolumns.backbones import Backbone
from hypercolumns.extraction import Batch, Part, extract_maps
from hypercolumns.sources import CanvasLoader
from storage.features import Busy, FeatureStore, ShardWriter
from tasks.arrays import as_array, cast_numbers
from tasks.jobs import CacheCount, Extracted, Job, Prepared
from tasks.manifests import load_manifest
from tasks.shard_writing import ShardWriting
from tasks.stores import canvas_loader, experiment_backbone, experiment_store
from tasks.work import Work, wanted_work

__all__ = ["Extraction", "extract_features", "fill_store", "open_extraction"]

_LONGEST_WAIT_SECONDS = 2.0


def extract_features(job: Job, prepared: Prepared) -> Extracted:
    """Compute and store every missing row of the experiment's images, views and layers.

    Raises:
        NonFiniteError: an activation does not fit the store's type; nothing of its shard is committed.
        DiskSpaceError: the disk is full; what was committed is safe, and a rerun resumes.
    """
    start = time.perf_counter()
    opened = open_extraction(job, prepared)
    store, work = opened.store, opened.work
    hits = store.hits(work.keys, opened.layers)
    bar = tqdm(total=len(store.missing(work.keys, opened.layers)), unit="img", desc="extract", disable=None)
    with bar:
        computed = fill_store(store, work, opened.backbone, opened.load, job.spec.store.batch_images, bar.update)
    return opened.summed_up(prepared, hits, computed, time.perf_counter() - start)


@dataclass(frozen=True)
class Extraction:
    """What an experiment extracts, with what, and into which store."""

    store: FeatureStore
    backbone: Backbone
    work: Work
    load: CanvasLoader

    @property
    def layers(self) -> list[str]:
        """The names of the backbone's layers."""
        return [layer.name for layer in self.backbone.layers]

    def summed_up(self, prepared: Prepared, hits: dict[str, int], computed: int, seconds: float) -> Extracted:
        """Say what was done.

        Args:
            prepared: The data set.
            hits: How many rows each layer had before.
            computed: How many images were computed.
            seconds: How long it took.
        """
        found = self.store.info()["layers"]
        return Extracted(
            key=self.store.key,
            path=self.store.path,
            cached=computed == 0,
            seconds=seconds,
            cache={name: CacheCount(hits=hit, misses=len(self.work.keys) - hit) for name, hit in hits.items()},
            layer_bytes={name: found[name]["bytes"] for name in self.layers},
            split_images=prepared.images,
            images_computed=computed,
        )


def open_extraction(job: Job, prepared: Prepared) -> Extraction:
    """List what an experiment wants, build what computes it, and open or create the store that is to hold it."""
    manifest = load_manifest(prepared.path)
    backbone = experiment_backbone(job.spec)
    work = wanted_work(job, manifest)
    return Extraction(experiment_store(job, backbone), backbone, work, canvas_loader(manifest, work.entries, job.spec))


def fill_store(
    store: FeatureStore, work: Work, backbone: Backbone, load: CanvasLoader, batch_images: int, advance: Callable[[int], Any]
) -> int:
    """Compute and store what a store lacks; what others are computing is waited for.

    Args:
        store: Has the backbone's layers.
        work: The rows wanted.
        backbone: Computes them.
        load: Loads one of the work's entries, fitted into the canvas.
        batch_images: Images a forward pass.
        advance: Told how many images were computed, as they are.

    Returns:
        How many images were computed here.
    """
    names = [layer.name for layer in backbone.layers]
    shards = _Shards(store, work, names, batch_images)
    with ShardWriting() as writing:
        while (claim := store.claim(work.keys, names)) is not None:
            if isinstance(claim, Busy):
                time.sleep(min(_LONGEST_WAIT_SECONDS, max(0.05, claim.seconds_left / 10)))
                continue
            for part in extract_maps(backbone, load, shards.batches(claim, writing)):
                advance(shards.write(part, writing))
            # What we are still writing ourselves would be busy too.
            writing.settle()
    return shards.computed


class _Shards:
    """Shards claimed one after the other, as batches are asked for: the backbone does not stop between two of them."""

    def __init__(self, store: FeatureStore, work: Work, layers: Sequence[str], batch_images: int) -> None:
        self._store, self._work, self._layers, self._batch_images = store, work, layers, batch_images
        self._places: list[tuple[ShardWriter, int]] = []
        self.computed = 0

    def batches(self, claim: ShardWriter | Busy | None, writing: ShardWriting) -> Iterator[Batch]:
        """Cut a claimed shard and those that can be claimed after it into batches."""
        self._places.clear()
        while isinstance(claim, ShardWriter):
            writing.open(claim)
            for first in range(0, len(claim.row_keys), self._batch_images):
                self._places.append((claim, first))
                keys = claim.row_keys[first : first + self._batch_images]
                yield Batch([self._work.items[key] for key in keys], claim.layers)
            claim = self._store.claim(self._work.keys, self._layers)

    def write(self, part: Part, writing: ShardWriting) -> int:
        """Hand maps over to their shard's writer, and the shard on to be committed when these were its last.

        Returns:
            Of how many images they are.
        """
        claim, first = self._places[part.batch]
        maps = {name: as_array(values) for name, values in part.maps.items()}
        count = len(next(iter(maps.values())))
        writing.put(claim.write, first + part.first, maps, cast_numbers)
        self.computed += count
        if first + part.first + count == len(claim.row_keys):
            writing.commit(claim)
        return count
