"""Images that look alike though their bytes differ: another compression, another size, a frame later.

Source: the difference hash, N. Krawetz, "Kind of like that", hackerfactor.com, 2013: which of two neighbours is brighter, in a
thumbnail of 9x8 grey pixels. Deviation: an image with hardly any contrast has no hash, since all such images would be alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["difference_hash", "lookalikes"]

_SIDE = 8
_LEAST_CONTRAST = 2.0
_BLOCK = 1 << 22


def difference_hash(image: NDArray[np.uint8]) -> int | None:
    """Hash what an image looks like into 64 bits; None for one with hardly any contrast.

    Args:
        image: RGB, (H, W, 3), uint8.
    """
    thumbnail = Image.fromarray(image).convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    grey = np.asarray(thumbnail, np.float32)
    if grey.std() < _LEAST_CONTRAST:
        return None
    bits = (grey[:, 1:] > grey[:, :-1]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def lookalikes(first: Sequence[int | None], second: Sequence[int | None], max_distance: int) -> list[tuple[int, int]]:
    """List the pairs of images whose hashes differ in few bits, as numbers in the two lists.

    Args:
        first: hashes of some images; None matches nothing.
        second: hashes of others.
        max_distance: how many of the 64 bits may differ.
    """
    rows = [(index, value) for index, value in enumerate(first) if value is not None]
    columns = [(index, value) for index, value in enumerate(second) if value is not None]
    if not rows or not columns:
        return []
    right = np.array([value for _, value in columns], np.uint64)
    found = []
    step = max(1, _BLOCK // len(columns))
    for start in range(0, len(rows), step):
        left = np.array([value for _, value in rows[start : start + step]], np.uint64)
        near = np.argwhere(np.bitwise_count(left[:, None] ^ right[None, :]) <= max_distance)
        found += [(rows[start + row][0], columns[column][0]) for row, column in near.tolist()]
    return found
