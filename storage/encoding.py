"""How numbers become the bytes of the store's type, and back.

Pure numpy. bfloat16 is kept as its 16 bits; uint8 is linear per image and channel between that channel's minimum and maximum,
so that no value is off by more than half a step. Nothing that is not finite passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

__all__ = ["DTYPES", "Cast", "Dtype", "cast_numbers", "decode", "encode", "quantise", "stored_dtype"]

Dtype = Literal["float16", "float32", "bfloat16", "uint8"]
DTYPES: tuple[Dtype, ...] = ("float16", "float32", "bfloat16", "uint8")

Array = np.ndarray[Any, np.dtype[Any]]

Cast = Callable[[Array, Array], None]
"""Rounds its first argument into its second."""

_STORED = {"float16": "<f2", "float32": "<f4", "bfloat16": "<u2", "uint8": "u1"}
_INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000}
"""The bits of infinity: a number with all these set is not finite."""

_QUANTISABLE = 1.7e38
"""Beyond this magnitude a channel's range might overflow float32."""

_STEPS = 255.0


def stored_dtype(dtype: str) -> np.dtype[Any]:
    """Return the numpy type of the bytes on disk."""
    return np.dtype(_STORED[dtype])


def cast_numbers(source: Array, out: Array) -> None:
    """Round numbers to the stored type of a float: to nearest, ties to even; what is too large becomes infinite.

    Args:
        source: (n,) float32, float16, or uint16: the bits of bfloat16.
        out: (n,) float32, float16, or uint16: the bits of bfloat16; written.
    """
    if source.dtype == out.dtype:
        np.copyto(out, source)
        return
    if source.dtype == np.uint16:
        source = _float32(source)
    if out.dtype == np.uint16:
        _to_bfloat16_bits(source, out)
        return
    with np.errstate(over="ignore"):
        np.copyto(out, source, casting="same_kind")


def encode(dtype: str, source: Array, out: Array, cast: Cast = cast_numbers) -> bool:
    """Bring numbers into one of the float types, any number of them at a time.

    Args:
        dtype: one of `DTYPES`, without uint8.
        source: (n,) whatever `cast` takes.
        out: (n,) of `stored_dtype(dtype)`, contiguous; written.
        cast: rounds `source` into `out`, as `cast_numbers` does.

    Returns:
        False if a value is not finite after the cast; `out` is then worthless.
    """
    cast(source, out)
    infinity = _INFINITY[dtype]
    bits = out.view(np.uint32 if dtype == "float32" else np.uint16)
    # As unsigned numbers the positive floats are in order and the negative ones come after them, in order: after a ReLU one
    # look is enough. As signed numbers the positive floats are the larger ones.
    largest, sign = int(bits.max(initial=0)), 1 << (8 * bits.itemsize - 1)
    if largest < infinity:
        return True
    return largest < infinity | sign and int(bits.view(f"i{bits.itemsize}").max(initial=0)) < infinity


def quantise(row: Array, out: Array, scale_offset: Array) -> bool:
    """Bring one image's map into uint8: `value = scale · byte + offset`, per channel.

    Args:
        row: (h, w, C) float32, float16, or uint16: the bits of bfloat16.
        out: (h, w, C) uint8, written.
        scale_offset: (2, 1, C) float32, written.

    Returns:
        False if a value is not finite, or so large that its channel's range is not; `out` is then worthless.
    """
    values = _float32(row) if row.dtype == np.uint16 else row.astype(np.float32)
    values = values.reshape(-1, row.shape[-1])
    lowest, highest = values.min(axis=0), values.max(axis=0)
    # Written so that a NaN, which compares false, is refused too.
    if not (float(lowest.min()) > -_QUANTISABLE and float(highest.max()) < _QUANTISABLE):
        return False
    scale = (highest - lowest) / np.float32(_STEPS)
    scale_offset[0, 0], scale_offset[1, 0] = scale, lowest
    values -= lowest
    values /= np.where(scale > 0, scale, np.float32(1))
    np.rint(values, out=values)
    np.minimum(values, np.float32(_STEPS), out=values)
    np.copyto(out, values.reshape(out.shape), casting="unsafe")
    return True


def decode(dtype: str, stored: Array, scale_offset: Array | None = None) -> Array:
    """Return stored values as a reader wants them: floats as they are, bfloat16 and uint8 as float32.

    Args:
        dtype: one of `DTYPES`.
        stored: (..., C) of `stored_dtype(dtype)`.
        scale_offset: for uint8, (2, ..., C) with as many axes between as broadcast against `stored`.
    """
    if dtype == "bfloat16":
        return _float32(stored)
    if dtype == "uint8":
        if scale_offset is None:
            raise ValueError("uint8 needs its scale_offset to be decoded, got None")
        values: Array = np.multiply(stored, scale_offset[0], dtype=np.float32)
        values += scale_offset[1]
        return values
    return stored


def _float32(bits: Array) -> Array:
    values: Array = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values


def _to_bfloat16_bits(source: Array, out: Array) -> None:
    bits = np.ascontiguousarray(source, dtype=np.float32).view(np.uint32)
    # Round to nearest, ties to even: what the hardware and torch do.
    np.copyto(out, (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16), casting="unsafe")
    # The rounding may carry a NaN over into the sign.
    out[np.isnan(source)] = 0x7FC0
