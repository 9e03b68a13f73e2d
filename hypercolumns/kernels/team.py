"""Run a kernel on the threads that torch's own operations use.

A second set of threads would have to share the cores with torch's, which go on spinning for a while after each of its
operations. So a kernel is a C function handed to the OpenMP that torch has loaded, which gives it to the same threads. Where
that cannot be found (torch was built with another one), a kernel runs on the caller's thread: slower, and the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import pickle
import warnings
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Lock
from typing import Any

import numba
import numpy as np
import torch
from numba import types

__all__ = ["Kernel", "kernel", "whole_numbers"]

_COMPILING = Lock()


class Kernel:
    """A function of whole numbers (sizes, addresses), of which threads do parts.

    It is compiled at the first call (a second or so) and kept on the disk for other processes: beside its source, or where
    ``NUMBA_CACHE_DIR`` says.

    Args:
        function: Takes a pointer to a record of whole numbers: the ticket that threads draw their parts by (`take_ticket`), the
            number of parts (``parts``), whether one of them ``failed``, and the fields.
        fields: Names of the fields.
    """

    def __init__(self, function: Callable[[Any], None], fields: Sequence[str]) -> None:
        self._function = function
        self._fields = tuple(fields)
        self._address = 0
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
        there = arguments.buffer_info()[0]
        plain = self._plain or self._compile_once()
        openmp = _openmp() if parts > 1 else None
        if openmp is None:
            plain(there)
        else:
            openmp(self._address, there, parts, 0)
        return not arguments[2]

    def _compile_once(self) -> Callable[[int], None]:
        with _COMPILING:
            if self._plain is None:
                self._address = self._compile()
                self._plain = _PLAIN(self._address)
            return self._plain

    def _compile(self) -> int:
        if _can_keep():
            before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(_cache_folder())
            try:
                return self._compiled(keep=True)
            except (OSError, EOFError, pickle.UnpicklingError) as error:
                # A full disk, or a file that a crash cut short: what is kept is a convenience.
                what = f"compiled kernels cannot be kept or found there ({error!r}), and each process compiles its own"
                warnings.warn(f"{_cache_folder()}: {what}. Remedy: free some space, and delete this folder", stacklevel=4)
            finally:
                numba.config.CACHE_DIR = before
        return self._compiled(keep=False)

    def _compiled(self, *, keep: bool) -> int:
        record = numba.from_dtype(np.dtype([(name, np.int64) for name in ("ticket", "parts", "failed", *self._fields)]))
        decorate = numba.cfunc(types.void(types.CPointer(record)), nopython=True, cache=keep)
        return int(decorate(self._function).address)


def whole_numbers(numbers: Iterable[int]) -> array[int]:
    """Put whole numbers where a kernel can read them, at once: NumPy takes several times as long for a few."""
    return array("q", numbers)


def kernel(fields: Sequence[str]) -> Callable[[Callable[[Any], None]], Kernel]:
    """Make a kernel of a function (see `Kernel`)."""
    return lambda function: Kernel(function, fields)


_PLAIN = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@cache
def _cache_folder() -> Path:
    """Return a folder of these very sources: Numba itself looks at a kernel's file alone, not at those it is made with."""
    here = Path(__file__).parent
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(here.glob("*.py"))))
    return Path(numba.config.CACHE_DIR or here / "__pycache__") / sources.hexdigest()[:16]


@cache
def _can_keep() -> bool:
    """Say whether compiled kernels can be kept; elsewhere each process compiles its own."""
    try:
        _cache_folder().mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=_cache_folder()):
            return True
    except OSError:
        return False


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
