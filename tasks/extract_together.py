"""Extract on a fleet: the missing rows are cut where shards are cut, and every part fills its own into the one store.

A part is a range of rows by their place in the experiment's order. Who may write which shard is decided by the store's leases,
so that a part may be done twice, by two workers at once, or not at all, and done by whoever comes next.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain

from hypercolumns.allocator import keep_freed_memory
from tasks.cluster import ClusterError, Fleet, Terms
from tasks.extract import fill_store, open_extraction
from tasks.jobs import Extracted, Job, Message, Prepared

__all__ = ["ExtractPart", "PartExtracted", "extract_part", "extract_together"]


class ExtractPart(Message):
    """Some of the rows an experiment wants extracted."""

    job: Job
    prepared: Prepared
    terms: Terms
    store_key: str
    ranges: tuple[tuple[int, int], ...]
    """Places of row keys in the order in which the experiment wants them, half-open."""


class PartExtracted(Message):
    """What a worker computed of a part: nothing, if somebody had done it."""

    images: int
    seconds: float


def extract_together(job: Job, prepared: Prepared, fleet: Fleet) -> Extracted:
    """Compute and store every missing row of the experiment's images, views and layers on a fleet.

    Raises:
        ClusterError: the fleet was lost, or came to its end without everything being there.
    """
    start = time.perf_counter()
    opened = open_extraction(job, prepared)
    store, work = opened.store, opened.work
    hits = store.hits(work.keys, opened.layers)
    portions = store.portions(work.keys, opened.layers)
    places = {key: place for place, key in enumerate(work.keys)}
    parts = [
        ExtractPart(
            job=job, prepared=prepared, terms=fleet.terms, store_key=store.key, ranges=_ranges(places[key] for key in keys)
        )
        for keys in _grouped(portions, fleet.parts)
    ]
    fleet.run(extract_part, parts)
    if left := store.missing(work.keys, opened.layers):
        raise ClusterError(
            f"{len(left)} images are still not in store {store.key} although every part came to its end; run again: it resumes"
        )
    return opened.summed_up(prepared, hits, sum(map(len, portions)), time.perf_counter() - start)


def extract_part(part: ExtractPart) -> PartExtracted:
    """Compute and store what is missing of a part; wait for what others are computing of it.

    Raises:
        ClusterError: this worker differs from the flow, and would fill another store.
    """
    start = time.perf_counter()
    part.terms.refuse_unfit()
    keep_freed_memory()
    opened = open_extraction(part.job, part.prepared)
    if opened.store.key != part.store_key:
        raise ClusterError(
            f"expected to fill store {part.store_key}, got {opened.store.key} here: this worker's weights or code are others "
            "than the flow's. Remedy: give every machine the same weights file and release"
        )
    keys = tuple(chain.from_iterable(opened.work.keys[first:stop] for first, stop in part.ranges))
    work = replace(opened.work, keys=keys)
    batch_images = part.job.spec.store.batch_images
    images = fill_store(opened.store, work, opened.backbone, opened.load, batch_images, lambda count: None)
    return PartExtracted(images=images, seconds=time.perf_counter() - start)


def _grouped(portions: Sequence[tuple[str, ...]], parts: int) -> Iterable[tuple[str, ...]]:
    """Put neighbouring portions together until there are about as many groups as parts are wanted."""
    each = max(1, len(portions) // max(1, parts))
    for first in range(0, len(portions), each):
        yield tuple(chain.from_iterable(portions[first : first + each]))


def _ranges(places: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Say rising numbers as half-open ranges."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and found[-1][1] == place:
            found[-1] = (found[-1][0], place + 1)
        else:
            found.append((place, place + 1))
    return tuple(found)
