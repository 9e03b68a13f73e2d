"""MATLAB files (version 5 to 7), read by scipy, which is imported when one is met.

scipy builds arrays, cells and structs itself: nothing is unpickled, and functions or objects in a file are not run. Cells and
structs come as arrays of Python objects; what is taken out of them is checked piece by piece.
"""

from __future__ import annotations

import importlib
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypercolumns.datasets.instances.files import check_file
from hypercolumns.errors import DatasetError

__all__ = ["label_array", "read_mat_file", "structs_of", "text_of"]

# Inside it may be compressed a thousandfold, and annotations take less than one.
_MOST_BYTES = 8 << 20
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)


def read_mat_file(path: Path, variable: str) -> Any:
    """Read one variable, which is a struct.

    Returns:
        The struct: fields are read as `value["field"]`.

    Raises:
        DatasetError: scipy is not installed, or the file is missing, damaged, too large, of another version or without it.
    """
    try:
        matlab = importlib.import_module("scipy.io")
    except ImportError as error:
        raise DatasetError(f"{path}: scipy is needed to read it; pip install 'hypercolumns[boxes]'") from error
    check_file(path, "a MATLAB file", _MOST_BYTES)
    try:
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("error")
            found = matlab.loadmat(stream, variable_names=[variable], appendmat=False)
    except (*_DAMAGE, Warning, importlib.import_module("scipy.io.matlab").MatReadError) as error:
        raise DatasetError(f"{path}: expected a MATLAB file of version 5 to 7, got one that cannot be read: {error}") from error
    value = found.get(variable)
    if not isinstance(value, np.ndarray) or value.dtype.names is None or value.size != 1:
        raise DatasetError(f"{path}: expected one struct {variable!r}, got {'another value' if variable in found else 'none'}")
    return value.reshape(-1)[0]


def structs_of(value: Any, field: str) -> list[Any]:
    """Return the structs of an array of structs in a field; an empty one has none.

    Raises:
        DatasetError: there is something else.
    """
    array = _field(value, field)
    if array.size and array.dtype.names is None:
        raise DatasetError(f"{field}: expected structs, got {array.dtype}")
    return list(array.reshape(-1)) if array.size else []


def text_of(value: Any, field: str) -> str:
    """Return the text in a field.

    Raises:
        DatasetError: there is something else.
    """
    array = _field(value, field)
    if array.dtype.kind != "U" or array.size != 1:
        raise DatasetError(f"{field}: expected text, got {array.dtype} {array.shape}")
    return str(array.reshape(-1)[0])


def label_array(value: Any, field: str, image_hw: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Return the labels in a field, of an image's size, or of any shape where none is given.

    Raises:
        DatasetError: there is something else, or a label that is no whole number in 0 … 255.
    """
    array = _field(value, field)
    if array.dtype.kind not in "biuf" or (image_hw is not None and array.shape != tuple(image_hw)):
        wanted = "numbers" if image_hw is None else f"labels of the image's size {tuple(image_hw)}"
        raise DatasetError(f"{field}: expected {wanted}, got {array.dtype} {array.shape}")
    if array.size and not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 255 and (array % 1 == 0).all()):
        raise DatasetError(f"{field}: expected whole labels in 0 … 255, got others")
    return array.astype(np.uint8)


def _field(value: Any, field: str) -> NDArray[Any]:
    names = value.dtype.names if isinstance(value, np.void) else None
    if names is None or field not in names or not isinstance(value[field], np.ndarray):
        raise DatasetError(f"expected a field {field!r}, got {', '.join(names or ()) or 'none'}")
    found: NDArray[Any] = value[field]
    return found
