"""Writing a sample set: rows appended batch by batch, published under its name when the block ends, else not at all.

HDF5 cannot be trusted with a full disk: a failed write leaves a file that cannot be closed, and the process crashes at
exit. So the file's skeleton is made in memory and written as bytes, and room for every batch is reserved with
fallocate(2), which fails cleanly, before HDF5 writes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from storage.canonical import canonical_bytes, digest
from storage.errors import AlreadyPublishedError, NonFiniteError, StorageError
from storage.publish import ensure_folder, explained_disk_errors, partial_path, publish_partial
from storage.sample_format import COLUMN_TYPES, DATASETS, FEATURE_TYPES, FORMAT, FORMAT_VERSION, chunk_rows
from storage.unfinished import held, remove_abandoned

__all__ = ["SampleSetWriter"]

_RESERVE_BYTES = 1 << 18
"""Room kept for HDF5's own structures, beyond what rows and their chunk index (32 bytes a chunk) need."""

_WRITE_CHUNKS = 16
"""Chunks of features (256 KiB each) that are gathered before they are written: writing each by itself halves the speed."""


class SampleSetWriter:
    """Write one sample set; a context manager that publishes when its block ends without an exception.

    Args:
        path: final name of the file; must not exist.
        spec: JSON mapping of everything that decided the samples; its digest is kept beside it.
        image_keys: one key per image, to which `image_row` refers.
        dims: length D of a feature vector, ≥ 1.
        dtype: "float16" or "float32", as which features are kept.

    Raises:
        StorageError: an argument that does not fit.
    """

    def __init__(
        self, path: Path, spec: Mapping[str, Any], image_keys: Sequence[str], dims: int, dtype: str = "float16"
    ) -> None:
        if dims < 1 or dtype not in FEATURE_TYPES:
            raise StorageError(f"expected dims ≥ 1 and dtype of {FEATURE_TYPES}, got {dims} and {dtype!r}")
        if not all(key.isprintable() for key in image_keys):
            raise StorageError("expected image keys of printable characters, got one with others; use digests as keys")
        self.path = Path(path)
        self._spec = dict(spec)
        self._keys = np.array([key.encode("utf-8") for key in image_keys] or np.empty(0, "S1"), dtype=np.bytes_)
        self._types = {"features": dtype, **COLUMN_TYPES}
        self._tails: dict[str, tuple[int, ...]] = {"features": (dims,), "labels": (), "image_row": (), "points_xy": (2,)}
        self._chunk_rows = chunk_rows(dims * np.dtype(dtype).itemsize)
        self._pending: dict[str, list[np.ndarray]] = {name: [] for name in self._types}
        self._pending_rows = 0
        self._checksums = {name: hashlib.sha256() for name in self._types}
        self._partial = partial_path(self.path)
        self._file: h5py.File | None = None
        self._held = contextlib.ExitStack()

    def __enter__(self) -> SampleSetWriter:
        """Create the partial file.

        Raises:
            AlreadyPublishedError: the name is taken.
            DiskSpaceError: the disk is full.
        """
        if self.path.exists():
            raise AlreadyPublishedError(f"{self.path}: a sample set of this name exists; it is kept as it is")
        try:
            with explained_disk_errors(self.path):
                ensure_folder(self.path.parent)
                remove_abandoned(self.path)
                self._held.enter_context(held(self._partial, lambda: self._partial.open("xb").close()))
                self._partial.write_bytes(self._skeleton())
                self._reserve(0)
            self._file = h5py.File(self._partial, "r+", libver="v110", locking=False)
        except BaseException:
            self._partial.unlink(missing_ok=True)
            self._held.close()
            raise
        return self

    def append(self, features: np.ndarray, labels: np.ndarray, image_row: np.ndarray, points_xy: np.ndarray) -> None:
        """Append m samples.

        Args:
            features: (m, D), finite, also after the cast to the set's dtype.
            labels: (m,) integers ≥ 0.
            image_row: (m,) integers, which image key each sample belongs to.
            points_xy: (m, 2), x then y, in pixels of the labelled image.

        Raises:
            StorageError: shapes or values that do not fit.
            NonFiniteError: a feature is not finite, or does not fit the set's dtype.
            DiskSpaceError: the disk is full.
        """
        batch = {
            name: np.asarray(value) for name, value in zip(self._types, (features, labels, image_row, points_xy), strict=True)
        }
        self._check(batch)
        with np.errstate(over="ignore"):
            cast = {name: np.array(value, dtype=self._types[name], order="C") for name, value in batch.items()}
        if not (np.isfinite(cast["features"]).all() and np.isfinite(cast["points_xy"]).all()):
            raise NonFiniteError(
                f"{self.path}: a value is not finite after the cast to {self._types['features']} "
                f"(largest magnitude {np.abs(batch['features']).max(initial=0)}). Remedy: use float32, or look for NaN"
            )
        with explained_disk_errors(self.path):
            self._enqueue(cast)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Publish, or discard after an exception.

        Raises:
            AlreadyPublishedError: somebody else published under this name meanwhile.
            DiskSpaceError: the disk is full.
        """
        try:
            with explained_disk_errors(self.path):
                if kind is None:
                    self._write(self._pending_rows)
                    for name, checksum in self._checksums.items():
                        self._opened.attrs.create(f"sha256_{name}", np.bytes_(checksum.hexdigest()))
                self._opened.close()
                if kind is None:
                    with self._partial.open("rb+") as file:
                        publish_partial(file, self._partial, self.path)
        finally:
            self._opened.close()
            self._partial.unlink(missing_ok=True)
            self._held.close()

    @property
    def _opened(self) -> h5py.File:
        if self._file is None:
            raise StorageError(f"{self.path}: expected to be used in a `with` block, got a call before it began")
        return self._file

    def _check(self, batch: Mapping[str, np.ndarray]) -> None:
        rows = len(batch["features"])
        for name, value in batch.items():
            if value.shape != (rows, *self._tails[name]):
                raise StorageError(f"{self.path}: expected {name} of shape {(rows, *self._tails[name])}, got {value.shape}")
        for name, limit in (("labels", np.iinfo(np.int64).max), ("image_row", len(self._keys) - 1)):
            value = batch[name]
            if rows and (value.dtype.kind not in "iu" or int(value.min()) < 0 or int(value.max()) > limit):
                raise StorageError(
                    f"{self.path}: expected {name} to be integers in [0, {limit}], got {value.dtype} in "
                    f"[{value.min()}, {value.max()}]"
                )

    def _enqueue(self, cast: Mapping[str, np.ndarray]) -> None:
        """Write whole groups of chunks, so that the file's bytes depend on the samples and not on how they are batched."""
        group = _WRITE_CHUNKS * self._chunk_rows
        for start in range(0, len(cast["labels"]), group):
            for name, value in cast.items():
                self._pending[name].append(value[start : start + group])
            self._pending_rows += len(cast["labels"][start : start + group])
            if self._pending_rows >= group:
                self._write(group)

    def _write(self, rows: int) -> None:
        """Write the first `rows` pending rows, keep the rest pending."""
        file = self._opened
        start = len(file["labels"])
        self._reserve(start + rows)
        for name in self._types:
            waiting = np.concatenate([np.empty((0, *self._tails[name]), self._types[name]), *self._pending[name]])
            self._pending[name] = [waiting[rows:]]
            self._checksums[name].update(waiting[:rows].data)
            file[name].resize(start + rows, axis=0)
            file[name][start:] = waiting[:rows]
        self._pending_rows -= rows

    def _reserve(self, rows: int) -> None:
        needed = _RESERVE_BYTES + 2 * self._keys.nbytes
        for name, dtype in self._types.items():
            row_bytes = int(np.prod(self._tails[name], dtype=np.int64)) * np.dtype(dtype).itemsize
            chunks = -(-rows // chunk_rows(row_bytes)) + 1
            needed += chunks * (chunk_rows(row_bytes) * row_bytes + 32)
        descriptor = os.open(self._partial, os.O_WRONLY)
        try:
            with explained_disk_errors(self.path, needed):
                os.posix_fallocate(descriptor, 0, needed)
        finally:
            os.close(descriptor)

    def _skeleton(self) -> bytes:
        """Return the bytes of an HDF5 file with its spec, image keys and empty datasets."""
        with h5py.File("skeleton", "w", driver="core", backing_store=False, libver="v110") as file:
            for name, dtype in self._types.items():
                tail = self._tails[name]
                rows = chunk_rows(int(np.prod(tail, dtype=np.int64)) * np.dtype(dtype).itemsize)
                file.create_dataset(name, (0, *tail), dtype, chunks=(rows, *tail), maxshape=(None, *tail), fletcher32=True)
            chunk = (min(max(len(self._keys), 1), chunk_rows(self._keys.itemsize)),)
            file.create_dataset("image_keys", data=self._keys, chunks=chunk, maxshape=(None,), fletcher32=True)
            attributes = {"format": FORMAT, "spec": canonical_bytes(self._spec), "spec_digest": digest(self._spec)}
            for name, value in attributes.items():
                file.attrs.create(name, np.bytes_(value))
            file.attrs.create("format_version", np.int64(FORMAT_VERSION))
            file.attrs.create(f"sha256_{DATASETS[-1]}", np.bytes_(hashlib.sha256(self._keys.data).hexdigest()))
            file.flush()
            image: bytes = file.id.get_file_image()
        return image
