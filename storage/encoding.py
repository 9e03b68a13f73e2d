"""How a map becomes the bytes of the store's type, and back, one image at a time.

Pure numpy. bfloat16 is kept as its 16 bits; uint8 is linear per image and channel between that channel's minimum and maximum,
so that no value is off by more than half a step. Nothing that is not finite passes.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

__all__ = ["DTYPES", "Dtype", "decode", "encode_row", "stored_dtype"]

Dtype = Literal["float16", "float32", "bfloat16", "uint8"]
DTYPES: tuple[Dtype, ...] = ("float16", "float32", "bfloat16", "uint8")

Array = np.ndarray[Any, np.dtype[Any]]

_STORED = {"float16": "<f2", "float32": "<f4", "bfloat16": "<u2", "uint8": "u1"}
_ROUNDS_TO_INFINITY = {"float16": 65520.0, "float32": np.inf, "bfloat16": 3.3961775e38, "uint8": 1.7e38}
"""The least magnitude that is not finite in the type any more (for uint8: whose range might overflow float32)."""
_STEPS = 255.0


def stored_dtype(dtype: str) -> np.dtype[Any]:
    """Return the numpy type of the bytes on disk."""
    return np.dtype(_STORED[dtype])


def encode_row(dtype: str, row: Array, out: Array, scale_offset: Array | None = None) -> bool:
    """Cast one image's map to the stored type.

    Args:
        dtype: one of `DTYPES`.
        row: (h, w, C), float32 or float16; uint16 is taken for the bits of bfloat16 where that is the store's type.
        out: (h, w, C) of `stored_dtype(dtype)`; written, unless it is `row` itself.
        scale_offset: (2, 1, C) float32, written for uint8: `value = scale · byte + offset`.

    Returns:
        False if a value is not finite after the cast; `out` is then worthless.
    """
    if dtype == "bfloat16" and row.dtype == np.uint16:
        _copy(row, out)
        return _bits_stay_finite(out, 0x7F80)
    if not _stays_finite(dtype, row):
        return False
    if dtype == "bfloat16":
        _to_bfloat16_bits(row, out)
    elif dtype == "uint8":
        if scale_offset is None:
            raise ValueError("uint8 needs scale_offset to write to, got None")
        _quantise(row, out, scale_offset)
    else:
        _copy(row, out)
    return True


def decode(dtype: str, stored: Array, scale_offset: Array | None = None) -> Array:
    """Return stored values as a reader wants them: floats as they are, bfloat16 and uint8 as float32.

    Args:
        dtype: one of `DTYPES`.
        stored: (..., C) of `stored_dtype(dtype)`.
        scale_offset: for uint8, (2, ..., C) with as many axes between as broadcast against `stored`.
    """
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype == "uint8":
        if scale_offset is None:
            raise ValueError("uint8 needs its scale_offset to be decoded, got None")
        values: Array = np.multiply(stored, scale_offset[0], dtype=np.float32)
        values += scale_offset[1]
        return values
    return stored


def _stays_finite(dtype: str, row: Array) -> bool:
    if row.dtype == np.float16:
        return _bits_stay_finite(np.ascontiguousarray(row).view(np.uint16), 0x7C00)
    limit = _ROUNDS_TO_INFINITY[dtype]
    # Written so that a NaN, which compares false, is refused too.
    return -limit < float(row.min()) and float(row.max()) < limit


def _copy(row: Array, out: Array) -> None:
    if row is not out:
        np.copyto(out, row, casting="same_kind")


def _bits_stay_finite(bits: Array, infinity: int) -> bool:
    """Tell whether no 16-bit float has the exponent of infinity. On bits, since numpy compares half precision one by one."""
    # As unsigned numbers the positive floats are in order and the negative ones come after them, in order: after a ReLU one
    # look is enough. As signed numbers the positive floats are the larger ones.
    largest = int(bits.max(initial=0))
    return largest < infinity or (largest < infinity | 0x8000 and int(bits.view(np.int16).max(initial=0)) < infinity)


def _to_bfloat16_bits(row: Array, out: Array) -> None:
    bits = np.ascontiguousarray(row, dtype=np.float32).view(np.uint32)
    # Round to nearest, ties to even: what the hardware and torch do.
    np.copyto(out, (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16), casting="unsafe")


def _quantise(row: Array, out: Array, scale_offset: Array) -> None:
    values = row.reshape(-1, row.shape[-1]).astype(np.float32)
    offset = values.min(axis=0)
    scale = (values.max(axis=0) - offset) / np.float32(_STEPS)
    scale_offset[0, 0], scale_offset[1, 0] = scale, offset
    values -= offset
    values /= np.where(scale > 0, scale, np.float32(1))
    np.rint(values, out=values)
    np.minimum(values, np.float32(_STEPS), out=values)
    np.copyto(out, values.reshape(out.shape), casting="unsafe")
