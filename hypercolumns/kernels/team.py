"""Run a kernel on the threads that torch's own operations use.

A second set of threads would have to share the cores with torch's, which go on spinning for a while after each of its
operations. So a kernel is a C function handed to the OpenMP that torch has loaded, which gives it to the same threads. Where
that cannot be found (torch was built with another one), a kernel runs on the caller's thread: slower, and the same.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numba import types

from hypercolumns.kernels.compiling import Compiled

__all__ = ["Kernel", "kernel", "whole_numbers"]


class Kernel:
    """A function of whole numbers (sizes, addresses), of which threads do parts. It is compiled at the first call (`Compiled`).

    Args:
        function: Takes a pointer to a record of whole numbers: the ticket that threads draw their parts by (`take_ticket`), the
            number of parts (``parts``), whether one of them ``failed``, and the fields.
        fields: Names of the fields.
    """

    def __init__(self, function: Callable[[Any], None], fields: Sequence[str]) -> None:
        self._fields = tuple(fields)
        record = np.dtype([(name, np.int64) for name in ("ticket", "parts", "failed", *fields)])
        self._compiled = Compiled(function, types.CPointer(numba.from_dtype(record)))
        self._plain: Callable[[int], None] | None = None

    def __call__(self, parts: int, **values: int) -> bool:
        """Do all parts, each by a thread.

        Args:
            parts: How many; no more than torch has threads.
            values: One for each field. Whatever lies at an address must be kept alive by the caller.

        Returns:
            Whether it was done: whether no part has set ``failed``, of the record too.
        """
        arguments = whole_numbers([0, parts, 0, *map(values.__getitem__, self._fields)])
        there, address = arguments.buffer_info()[0], self._compiled.address
        openmp = _openmp() if parts > 1 else None
        if openmp is not None:
            openmp(address, there, parts, 0)
        else:
            if self._plain is None:
                self._plain = _PLAIN(address)
            self._plain(there)
        return not arguments[2]


def whole_numbers(numbers: Iterable[int]) -> array[int]:
    """Put whole numbers where a kernel can read them, at once: NumPy takes several times as long for a few."""
    return array("q", numbers)


def kernel(fields: Sequence[str]) -> Callable[[Callable[[Any], None]], Kernel]:
    """Make a kernel of a function (see `Kernel`)."""
    return lambda function: Kernel(function, fields)


_PLAIN = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@cache
def _openmp() -> Callable[..., None] | None:
    """Return the function that starts a team of threads: GNU OpenMP's, which LLVM's has too."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("lib*omp*.*")):
        try:
            start = getattr(ctypes.CDLL(str(path)), "GOMP_parallel", None)
        except OSError:
            continue
        if start is not None:
            start.argtypes, start.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
            return start  # type: ignore[no-any-return]
    return None
