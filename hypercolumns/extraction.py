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

    A batch that does not fit on the accelerator is halved and tried again; later batches start with what fitted.

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
    forward = _Forward(backbone, layers, dtype, batch_images)
    with ThreadPoolExecutor(decode_threads, thread_name_prefix="decode") as executor:
        starts = list(range(0, len(items), batch_images))
        pending: deque[tuple[int, list[Future[NDArray[np.uint8]]]]] = deque()
        for start in starts:
            batch = items[start : start + batch_images]
            pending.append((start, [executor.submit(_load_view, load, item) for item in batch]))
            if len(pending) > _BATCHES_AHEAD:
                yield from forward.maps(*pending.popleft())
        while pending:
            yield from forward.maps(*pending.popleft())


def _load_view(load: CanvasLoader, item: Item) -> NDArray[np.uint8]:
    return flip_view(load(item[0]), item[1])


class _Forward:
    """The backbone, and the largest batch that is known to fit on its device."""

    def __init__(self, backbone: Backbone, layers: Sequence[str], dtype: torch.dtype, batch_images: int) -> None:
        self._backbone, self._layers, self._dtype, self._largest = backbone, layers, dtype, batch_images

    def maps(self, start: int, canvases: list[Future[NDArray[np.uint8]]]) -> Iterator[tuple[int, dict[str, NDArray]]]:
        spec = self._backbone.spec
        images = normalise(torch.from_numpy(np.stack([c.result() for c in canvases])), spec.mean_rgb, spec.std_rgb)
        first = 0
        while first < len(images):
            part = images[first : first + self._largest]
            try:
                maps = self._backbone(part, self._layers)
            except torch.cuda.OutOfMemoryError:
                if len(part) == 1:
                    raise
                torch.cuda.empty_cache()
                self._largest = -(-len(part) // 2)
                continue
            yield start + first, {name: _to_numpy(values, self._dtype) for name, values in maps.items()}
            first += len(part)


def _to_numpy(values: Tensor, dtype: torch.dtype) -> NDArray:
    # The backbone works channels last, so this permutation is already contiguous.
    result: NDArray = values.permute(0, 2, 3, 1).to(dtype).cpu().contiguous().numpy()
    return result
