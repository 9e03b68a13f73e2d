"""Extract: fill the feature store with what the experiment lacks, and nothing else.

Any number of processes may run this on one store at once: each claims shards, and what another one is computing is waited for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import torch
from tqdm import tqdm

from hypercolumns.extraction import extract_maps
from storage.features import Busy, ShardWriter
from tasks.jobs import CacheCount, Extracted, Job, Prepared
from tasks.manifests import Manifest, load_manifest
from tasks.stores import canvas_loader, experiment_backbone, experiment_store
from tasks.work import Work, wanted_work

__all__ = ["extract_features"]

_LONGEST_WAIT_SECONDS = 2.0
_WRITES_AHEAD = 2


def extract_features(job: Job, prepared: Prepared) -> Extracted:
    """Compute and store every missing row of the experiment's images, views and layers.

    Raises:
        NonFiniteError: an activation does not fit the store's type; nothing of its shard is committed.
        DiskSpaceError: the disk is full; what was committed is safe, and a rerun resumes.
    """
    start = time.perf_counter()
    manifest = load_manifest(prepared.path)
    backbone = experiment_backbone(job.spec)
    store = experiment_store(job, backbone)
    work = wanted_work(job, manifest)
    names = [layer.name for layer in backbone.layers]
    hits = store.hits(work.keys, names)
    computed = 0
    bar = tqdm(total=len(store.missing(work.keys, names)), unit="img", desc="extract", disable=None)
    with bar, _Writing() as writing:
        while (claim := store.claim(work.keys, names)) is not None:
            if isinstance(claim, Busy):
                # What we are still writing ourselves is busy too.
                if not writing.settle():
                    time.sleep(min(_LONGEST_WAIT_SECONDS, max(0.05, claim.seconds_left / 10)))
                continue
            _fill(claim, work, manifest, job, bar.update, writing)
            computed += len(claim.row_keys)
    weights = store.du()["layers"]
    return Extracted(
        key=store.key,
        path=store.path,
        cached=computed == 0,
        seconds=time.perf_counter() - start,
        cache={name: CacheCount(hits=hit, misses=len(work.keys) - hit) for name, hit in hits.items()},
        layer_bytes={name: weights[name] for name in names},
        split_images=prepared.images,
        images_computed=computed,
    )


def _fill(
    claim: ShardWriter, work: Work, manifest: Manifest, job: Job, advance: Callable[[int], Any], writing: _Writing
) -> None:
    """Compute a claimed shard's maps and hand them to the writing thread, which also commits it."""
    spec = job.spec.store
    cast = torch.float16 if spec.dtype == "float16" else torch.float32
    writing.open(claim)
    batches = extract_maps(
        experiment_backbone(job.spec),
        canvas_loader(manifest, work.entries, job.spec),
        [work.items[key] for key in claim.row_keys],
        claim.layers,
        batch_images=spec.batch_images,
        decode_threads=2,
        dtype=cast,
    )
    for first, maps in batches:
        writing.put(claim.write, first, maps)
        advance(len(next(iter(maps.values()))))
    writing.commit(claim)


class _Writing:
    """One thread that writes in order, a bounded number of batches behind the backbone.

    However the block is left, shards that were opened and not committed are given up: nobody has to wait for their leases.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="shard-writer")
        self._pending: deque[Future[object]] = deque()
        self._opened: list[ShardWriter] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.settle()
        finally:
            self.drain()
            self._executor.shutdown(wait=True)
            for claim in self._opened:
                claim.abandon()

    def open(self, claim: ShardWriter) -> None:
        """Begin a claimed shard."""
        self._opened.append(claim)
        self.put(claim.__enter__)

    def commit(self, claim: ShardWriter) -> None:
        """Queue the commit of a shard that is written."""

        def finish() -> None:
            claim.__exit__(None, None, None)
            self._opened.remove(claim)

        self.put(finish)

    def put(self, write: Callable[..., object], *arguments: Any) -> None:
        """Queue a write; waits while the queue is full, and raises what an earlier write raised."""
        while len(self._pending) > _WRITES_AHEAD:
            self._pending.popleft().result()
        self._pending.append(self._executor.submit(write, *arguments))

    def settle(self) -> bool:
        """Wait for all that is queued, raising what it raises; False if nothing was."""
        waited = bool(self._pending)
        while self._pending:
            self._pending.popleft().result()
        return waited

    def drain(self) -> None:
        """Drop what has not started and wait for what has."""
        for future in self._pending:
            future.cancel()
        for future in self._pending:
            if not future.cancelled():
                future.exception()
        self._pending.clear()
