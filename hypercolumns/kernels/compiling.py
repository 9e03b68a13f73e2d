"""C functions made of Python's: compiled when they are first wanted, and kept on the disk for other processes."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Lock
from typing import Any

import numba
from numba import types

__all__ = ["Compiled", "callee"]

_COMPILING = Lock()


class Compiled:
    """A C function.

    It is compiled when its address is first asked for and kept on the disk: beside its source, or where ``NUMBA_CACHE_DIR``
    says.

    Args:
        function: What it does.
        kinds: The types of its arguments, as Numba names them.
    """

    def __init__(self, function: Callable[..., None], *kinds: Any) -> None:
        self._function, self._kinds, self._address = function, kinds, 0

    @property
    def address(self) -> int:
        """Where it lies in this process."""
        if not self._address:
            with _COMPILING:
                self._address = self._address or self._compile()
        return self._address

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
        decorate = numba.cfunc(types.void(*self._kinds), nopython=True, cache=keep)
        return int(decorate(self._function).address)


def callee(function: Callable[..., None]) -> Compiled:
    """Make a C function of whole numbers that kernels call by its address (`hypercolumns.kernels.numbers.call`).

    What kernels call as Python functions is compiled anew into each of them, and again wherever these are called: seconds, for
    code of some size.
    """
    return Compiled(function, *[types.int64] * len(inspect.signature(function).parameters))


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
