"""What may be asked of a store: its types, shapes, shard sizes and row keys; each refusal says what was expected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from storage.encoding import DTYPES, stored_dtype
from storage.errors import FormatError, LayerMismatchError
from storage.shards import CHECKSUM_BYTES, index_bytes
from storage.zarr_metadata import ROW_KEY_BYTES, row_shape

__all__ = ["Shape", "check_choices", "check_row_keys", "checked_shape", "decided_shard_images", "row_bytes", "shard_bytes"]

Shape = tuple[int, int, int]
"""(h, w, C) of one image's map."""

_TARGET_FILE_BYTES = 12_000_000
"""Smaller files are written several times slower than the disk could."""
_LARGEST_OBJECT_BYTES = 128_000_000
_MOST_SHARD_IMAGES = 64
_MOST_SHARD_IMAGES_ASKED = 4096


def check_choices(dtype: str, compression: str, shard_images: int | None) -> None:
    """Refuse what no store can be.

    Raises:
        FormatError: says what was expected.
    """
    if dtype not in DTYPES:
        raise FormatError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    if compression not in ("none", "zstd"):
        raise FormatError(f"compression: expected none or zstd, got {compression!r}")
    if shard_images is not None and not 1 <= shard_images <= _MOST_SHARD_IMAGES_ASKED:
        raise FormatError(f"shard_images: expected 1 to {_MOST_SHARD_IMAGES_ASKED}, or none, got {shard_images!r}")


def checked_shape(layer: str, shape: Iterable[int]) -> Shape:
    """Return a layer's shape.

    Raises:
        LayerMismatchError: it is not three positive numbers.
    """
    numbers = tuple(int(number) for number in shape)
    if not layer or len(numbers) != 3 or min(numbers) < 1:
        raise LayerMismatchError(f"layer {layer!r}: expected a name and a shape (h, w, C) of positive numbers, got {numbers}")
    return (numbers[0], numbers[1], numbers[2])


def check_row_keys(row_keys: Sequence[str]) -> None:
    """Refuse row keys that cannot be kept.

    Raises:
        FormatError: names the first.
    """
    for key in row_keys:
        if not isinstance(key, str) or not 0 < len(key.encode("utf-8", "surrogatepass")) <= ROW_KEY_BYTES or "\0" in key:
            raise FormatError(f"row key: expected text of 1 to {ROW_KEY_BYTES} bytes, got {key!r:.300}")


def row_bytes(shape: Shape, dtype: str) -> int:
    """Return the bytes one image takes in a layer, uncompressed: its map and its quantiser, each with its checksum."""
    maps = int(np.prod(shape)) * stored_dtype(dtype).itemsize + CHECKSUM_BYTES
    return maps if dtype != "uint8" else maps + 2 * 4 * shape[2] + CHECKSUM_BYTES


def shard_bytes(shape: Shape, dtype: str, role: str, rows: int, slot_count: int) -> int:
    """Return the bytes of one file of an uncompressed shard.

    Args:
        shape: (h, w, C) of the layer.
        dtype: the store's type.
        role: what the file holds.
        rows: how many are written.
        slot_count: how many there could be.
    """
    row = int(np.prod(row_shape(shape, role))) * stored_dtype(dtype if role == "maps" else "float32").itemsize
    return rows * (row + CHECKSUM_BYTES) + index_bytes(slot_count)


def decided_shard_images(shapes: Iterable[Shape], dtype: str, *, small: bool = False) -> int:
    """Return how many images make the smallest layer's files large enough to be written fast, up to a bound.

    Args:
        shapes: (h, w, C) of each layer.
        dtype: the store's type.
        small: keep the largest layer's files small, too: an object is sent whole, and again if it gets lost on the way.
    """
    rows = [row_bytes(shape, dtype) for shape in shapes]
    wanted = min(max(-(-_TARGET_FILE_BYTES // min(rows)), 1), _MOST_SHARD_IMAGES)
    return max(1, min(wanted, _LARGEST_OBJECT_BYTES // max(rows))) if small else wanted
