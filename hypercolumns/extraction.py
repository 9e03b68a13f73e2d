"""Extraction as a pipeline: images are decoded some batches ahead, and the backbone runs in several threads side by side.

A thread of its own for each batch, with its share of the cores, beats all cores on one batch: small operations do not wait for
each other, and no core spins while another thread of the process needs it. What is done with the maps (cast to the store's
type, written, dropped) is the caller's business; a caller that writes should do so in a thread of its own, so that the backbone
never waits for the disk.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypercolumns.backbones import Backbone
from hypercolumns.canvas import flip_view, normalise
from hypercolumns.sources import CanvasLoader, Item

__all__ = ["MOST_STREAMS", "Batch", "Part", "extract_maps"]

MOST_STREAMS = 4
"""Batches that the processor computes at a time: each holds its maps in memory."""

_BATCHES_AHEAD = 2


class Batch(NamedTuple):
    """Images and views that go through the backbone together, and the layers wanted of them."""

    items: Sequence[Item]
    layers: Sequence[str]


class Part(NamedTuple):
    """What was computed of a batch: all of it, unless it had to be divided."""

    batch: int
    """Which batch, counted from 0."""
    first: int
    """The position in the batch of the first image."""
    maps: dict[str, Tensor]
    """A map (B, h, w, C) per layer, contiguous, in the processor's memory."""


def extract_maps(
    backbone: Backbone,
    load: CanvasLoader,
    batches: Iterable[Batch],
    *,
    decode_threads: int = 2,
    streams: int | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[Part]:
    """Compute the maps of images, in order.

    A batch that does not fit on the accelerator is divided and tried again; later batches are divided at once. The last
    batches are divided among the streams, none of which then waits for another one's whole batch.

    Args:
        backbone: The frozen extractor.
        load: Loads image `i` fitted into the canvas.
        batches: What to compute, drawn as it is needed, some batches ahead.
        decode_threads: Threads that decode.
        streams: Batches computed side by side, each with its share of torch's threads. By default one on an accelerator; on
            the processor one a thread, at most `MOST_STREAMS`. The maps of two batches more are held in memory.
        dtype: Type the maps are cast to where they are computed; by default that of the arithmetic.
    """
    forward = _Forward(backbone, dtype)
    count = streams or (1 if backbone.device.type != "cpu" else min(torch.get_num_threads(), MOST_STREAMS))
    decoding: deque[tuple[int, Batch, Future[Tensor]]] = deque()
    computing: deque[Future[list[Part]]] = deque()
    with _streams(count) as backbones, _threads(_pool(decode_threads, "decode", 1)) as decoders:
        for number, batch in enumerate(batches):
            canvases = [decoders.submit(_load_view, load, item) for item in batch.items]
            # Begun after its canvases, so that it never waits for one that waits for a thread.
            decoding.append((number, batch, decoders.submit(forward.prepare, canvases)))
            if len(decoding) > _BATCHES_AHEAD:
                computing.append(backbones.submit(forward.parts, *decoding.popleft()))
            if len(computing) > count:
                yield from computing.popleft().result()
        for number, batch, prepared in decoding:
            size = -(-len(batch.items) // count)
            for first in range(0, len(batch.items), size):
                computing.append(backbones.submit(forward.parts, number, batch, prepared, first, size))
        while computing:
            yield from computing.popleft().result()


@contextmanager
def _streams(count: int) -> Iterator[ThreadPoolExecutor]:
    """Share torch's threads out among some of ours. Torch remembers for the whole process what any thread sets last."""
    total = torch.get_num_threads()
    share = max(1, total // count)
    try:
        with _threads(_pool(count, "backbone", share)) as executor:
            yield executor
    finally:
        torch.set_num_threads(total)


def _pool(count: int, name: str, torch_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, name, initializer=torch.set_num_threads, initargs=(torch_threads,))


@contextmanager
def _threads(executor: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    """Leave without doing what was only planned."""
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _load_view(load: CanvasLoader, item: Item) -> NDArray[np.uint8]:
    return flip_view(load(item[0]), item[1])


class _Forward:
    """The backbone, and the largest batch that is known to fit on its device."""

    def __init__(self, backbone: Backbone, dtype: torch.dtype | None) -> None:
        self._backbone, self._dtype, self._largest = backbone, dtype, sys.maxsize

    def prepare(self, canvases: list[Future[NDArray[np.uint8]]]) -> Tensor:
        spec = self._backbone.spec
        return normalise(torch.from_numpy(np.stack([c.result() for c in canvases])), spec.mean_rgb, spec.std_rgb)

    def parts(
        self, number: int, batch: Batch, prepared: Future[Tensor], first: int = 0, count: int = sys.maxsize
    ) -> list[Part]:
        """Compute so many of a batch's images, from one of them on."""
        images = prepared.result()
        found: list[Part] = []
        stop = min(first + count, len(images))
        while first < stop:
            part = images[first : min(first + self._largest, stop)]
            try:
                maps = self._backbone(part, batch.layers)
            except torch.cuda.OutOfMemoryError:
                if len(part) == 1:
                    raise
                torch.cuda.empty_cache()
                self._largest = -(-len(part) // 2)
                continue
            found.append(Part(number, first, {name: _brought(values, self._dtype) for name, values in maps.items()}))
            first += len(part)
        return found


def _brought(values: Tensor, dtype: torch.dtype | None) -> Tensor:
    # The backbone works channels last, so this permutation is already contiguous.
    return values.permute(0, 2, 3, 1).to(dtype or values.dtype).cpu().contiguous()
