"""The layout of a sample set's HDF5 file: names, types, versions, and the check that a file keeps to them.

Attributes of the root: `format`, `format_version`, `spec` (canonical JSON), `spec_digest`, and one `sha256_NAME` per
dataset (of its rows' bytes in order, so independent of chunking). Every chunk carries HDF5's fletcher32 checksum, and the
file's own structures carry theirs (libver v110). May not read rows: that is `storage.samples`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from storage.canonical import digest
from storage.errors import FormatError

__all__ = ["COLUMN_TYPES", "DATASETS", "FEATURE_TYPES", "FORMAT", "FORMAT_VERSION", "checked_spec", "chunk_rows"]

FORMAT = "hypercolumns sample set"
FORMAT_VERSION = 1
FEATURE_TYPES = ("float16", "float32")
COLUMN_TYPES = {"labels": "int64", "image_row": "int32", "points_xy": "float32"}
DATASETS = ("features", *COLUMN_TYPES, "image_keys")

_CHUNK_BYTES = 1 << 18
"""256 KiB: with 1,504 dimensions, whole reads ran at 2.5 GB/s and 1,024 random rows of 40,000 came in 35 ms; larger
chunks make random rows slower, smaller ones whole reads. Fletcher32 costs half of the whole read's speed, and no more."""


def chunk_rows(row_bytes: int) -> int:
    """Return how many rows of `row_bytes` bytes (≥ 1) make a chunk."""
    return min(max(_CHUNK_BYTES // row_bytes, 1), 8192)


def checked_spec(file: h5py.File, path: Path) -> dict[str, Any]:
    """Check that an open file is a sample set of this version, and return its spec.

    Raises:
        FormatError: not ours, of another version, or with datasets that do not fit one another.
    """
    if _text(file, "format") != FORMAT:
        raise FormatError(f"{path}: expected a sample set, got an HDF5 file of something else. Remedy: give another path")
    version = file.attrs.get("format_version")
    if not isinstance(version, np.integer) or version != FORMAT_VERSION:
        raise FormatError(
            f"{path}: expected sample set format {FORMAT_VERSION}, got {version!r}. Remedy: sample again into a new "
            "workspace, or use the release that wrote it"
        )
    _check_datasets(file, path)
    try:
        spec = json.loads(_text(file, "spec"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: its spec is not JSON ({error}). Remedy: delete the file and sample again") from error
    if not isinstance(spec, dict) or digest(spec) != _text(file, "spec_digest"):
        raise FormatError(f"{path}: its spec is not the one its digest was made of. Remedy: delete it and sample again")
    return spec


def _text(file: h5py.File, name: str) -> str:
    value = file.attrs.get(name)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _check_datasets(file: h5py.File, path: Path) -> None:
    for name in DATASETS:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
            raise FormatError(f"{path}: expected a dataset {name!r} inside the file, got none. Remedy: sample again")
        _check_storage(file[name], path)
        if len(_text(file, f"sha256_{name}")) != 64:
            raise FormatError(f"{path}: no checksum of {name!r}. Remedy: delete the file and sample again")
    samples = len(file["features"])
    shapes = {"labels": (samples,), "image_row": (samples,), "points_xy": (samples, 2)}
    wrong = [name for name, shape in shapes.items() if file[name].shape != shape or file[name].dtype != COLUMN_TYPES[name]]
    if file["features"].ndim != 2 or file["features"].dtype not in FEATURE_TYPES:
        wrong.append("features")
    if file["image_keys"].ndim != 1 or file["image_keys"].dtype.kind != "S":
        wrong.append("image_keys")
    if wrong:
        raise FormatError(f"{path}: shape or type of {', '.join(wrong)} is not a sample set's. Remedy: sample again")


def _check_storage(dataset: h5py.Dataset, path: Path) -> None:
    """Refuse a dataset that claims more than the file holds, or whose bytes lie elsewhere or need unknown filters."""
    filters = dataset.id.get_create_plist()
    expected = [filters.get_filter(index)[0] for index in range(filters.get_nfilters())] == [h5py.h5z.FILTER_FLETCHER32]
    held = dataset.ndim >= 1 and dataset.chunks is not None and dataset.id.get_storage_size() >= dataset.nbytes
    if not (expected and held):
        raise FormatError(f"{path}: {dataset.name} is not stored as a sample set stores it. Remedy: sample again")
