"""What kernels need to read torch's memory: arrays at an address, and which types are kept there.

bfloat16 is seen as ``uint16``, as NumPy would keep it, float16 as ``int16``, which tells the two apart (`hypercolumns.kernels.
lanes` makes float32 of them).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

__all__ = [
    "BFLOATS",
    "DOUBLES",
    "FLOATS",
    "HALVES",
    "LIKE",
    "NUMBERS",
    "OCTETS",
    "array_at",
    "call",
    "compiled",
    "merged",
    "take_ticket",
]

FLOATS, BFLOATS, HALVES, OCTETS = (np.empty(0, kind) for kind in (np.float32, np.uint16, np.int16, np.uint8))
"""Arrays that others are like (see `array_at`), of each type that numbers are kept in."""

LIKE = {torch.float32: FLOATS, torch.bfloat16: BFLOATS, torch.float16: HALVES}
"""The same by torch's types."""

DOUBLES, NUMBERS = np.empty(0, np.float64), np.empty(0, np.int64)
"""The same for positions, and for addresses, places and sizes."""

compiled = numba.njit(nogil=True, error_model="numpy", fastmath={"contract"}, forceinline=True)
"""Compile a part of a kernel. Products and sums may be fused; nothing else is reordered, and what is not a number stays so."""


merged = numba.njit(nogil=True, error_model="numpy", fastmath={"contract"}, inline="always")
"""The same for parts of some size that are used once: they are not compiled by themselves first, which takes as long again."""


def array_at(address: int, shape: tuple[int, ...], like: Any) -> Any:
    """Return the array at an address (in C order), of the type of another one; in kernels, Numba puts `_array_at`."""
    raise TypeError("array_at is for kernels, which are compiled")


@overload(array_at, strict=False)
def _array_at(address: Any, shape: Any, like: Any) -> Any:
    return lambda address, shape, like: numba.carray(_pointer(address, like), shape)


@intrinsic
def _pointer(context: Any, address: Any, like: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.int64, like), generate


@intrinsic
def call(context: Any, address: Any, numbers: Any) -> Any:
    """Call the C function at an address (`hypercolumns.kernels.compiling.callee`) with so many whole numbers."""
    count = len(numbers)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = [builder.extract_value(arguments[1], place) for place in range(count)]
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * count)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(types.int64, types.UniTuple(types.int64, count)), generate


@intrinsic
def take_ticket(context: Any, counter: Any) -> Any:
    """Count one up in the int64 at a pointer and return what it was before: for threads that share work out."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate
