"""Tensors as the store takes and gives them: arrays that share their memory, and conversions quicker than numpy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hypercolumns.kernels.dequantising import scale_bytes
from hypercolumns.kernels.halving import convert_halves

__all__ = ["as_array", "as_tensor", "cast_numbers", "dequantise"]

Array = np.ndarray[Any, np.dtype[Any]]


def as_array(values: Tensor) -> Array:
    """Show a tensor as an array; bfloat16, which numpy has not, as its bits in uint16."""
    if values.dtype == torch.bfloat16:
        bits: Array = values.view(torch.int16).numpy().view(np.uint16)
        return bits
    array: Array = values.numpy()
    return array


def as_tensor(values: Array) -> Tensor:
    """Show an array as a tensor; uint16 is taken for the bits of bfloat16."""
    if values.dtype == np.uint16:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def cast_numbers(source: Array, out: Array) -> None:
    """Round `source` into `out` as `storage.encoding.cast_numbers` does, with all of the processor's lanes."""
    values, target = as_tensor(source), as_tensor(out)
    if {values.dtype, target.dtype} == {torch.bfloat16, torch.float16}:
        convert_halves(values, target)
    else:
        target.copy_(values)


def dequantise(stored: Array, scale_offset: Array) -> Tensor:
    """Turn the bytes of a uint8 store into what they stand for.

    Args:
        stored: Bytes (B, h, w, C), in one piece.
        scale_offset: Scale and offset of each image and channel (2, B, 1, 1, C), float32.

    Returns:
        Maps (B, h, w, C) in float32: byte times scale plus offset.

    Raises:
        ValueError: the bytes do not lie in one piece.
    """
    scale, offset = np.ascontiguousarray(scale_offset.reshape(2, len(stored), stored.shape[-1]))
    return scale_bytes(stored, scale, offset)
