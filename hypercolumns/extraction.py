"""Extraction as a pipeline: images are decoded by threads some batches ahead, while this thread runs the backbone.

What is done with the maps (cast to the store's type, written, dropped) is the caller's business; a caller that writes should do
so in a thread of its own, so that the backbone never waits for the disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypercolumns.backbones import Backbone
from hypercolumns.canvas import flip_view, normalise
from hypercolumns.sources import CanvasLoader, Item

__all__ = ["extract_maps"]

_BATCHES_AHEAD = 2


def extract_maps(
    backbone: Backbone,
    load: CanvasLoader,
    items: Sequence[Item],
    layers: Sequence[str],
    *,
    batch_images: int = 8,
    decode_threads: int = 2,
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[int, dict[str, NDArray]]]:
    """Compute the maps of images in order, a batch at a time.

    A batch that does not fit on the accelerator is halved and tried again.

    Args:
        backbone: The frozen extractor.
        load: Loads image `i` fitted into the canvas.
        items: Images and views, in the order wanted.
        layers: Names of the layers wanted.
        batch_images: Images a forward pass.
        decode_threads: Threads that decode.
        dtype: Type of the maps: float16 or float32.

    Yields:
        The first image's position in `items`, and for each layer its maps (B, h, w, C).
    """
    with ThreadPoolExecutor(decode_threads, thread_name_prefix="decode") as executor:
        starts = list(range(0, len(items), batch_images))
        pending: deque[tuple[int, list[Future[NDArray[np.uint8]]]]] = deque()
        for start in starts:
            batch = items[start : start + batch_images]
            pending.append((start, [executor.submit(_load_view, load, item) for item in batch]))
            if len(pending) > _BATCHES_AHEAD:
                yield from _forward(backbone, *pending.popleft(), layers, dtype)
        while pending:
            yield from _forward(backbone, *pending.popleft(), layers, dtype)


def _load_view(load: CanvasLoader, item: Item) -> NDArray[np.uint8]:
    return flip_view(load(item[0]), item[1])


def _forward(
    backbone: Backbone, start: int, canvases: list[Future[NDArray[np.uint8]]], layers: Sequence[str], dtype: torch.dtype
) -> Iterator[tuple[int, dict[str, NDArray]]]:
    images = normalise(
        torch.from_numpy(np.stack([c.result() for c in canvases])), backbone.spec.mean_rgb, backbone.spec.std_rgb
    )
    for first, maps in _halving(backbone, images, layers):
        yield start + first, {name: _to_numpy(values, dtype) for name, values in maps.items()}


def _halving(backbone: Backbone, images: Tensor, layers: Sequence[str]) -> Iterator[tuple[int, dict[str, Tensor]]]:
    size = len(images)
    first = 0
    while first < len(images):
        try:
            maps = backbone(images[first : first + size], layers)
        except torch.cuda.OutOfMemoryError:
            if size == 1:
                raise
            torch.cuda.empty_cache()
            size = -(-size // 2)
            continue
        yield first, maps
        first += size


def _to_numpy(values: Tensor, dtype: torch.dtype) -> NDArray:
    # The backbone works channels last, so this permutation is already contiguous.
    result: NDArray = values.permute(0, 2, 3, 1).to(dtype).cpu().contiguous().numpy()
    return result
