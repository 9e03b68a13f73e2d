"""Tensors as the store takes them: arrays that share their memory, and a cast that is quicker than numpy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["as_array", "as_tensor", "cast_numbers"]

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
        # In one step torch converts these number by number.
        values = values.float()
    target.copy_(values)
