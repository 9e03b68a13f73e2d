"""The one writer of one shard: stream maps to partial files, then publish the files, then the record.

Holds a lease while it writes. Leaving the block without an exception commits; with one, everything unfinished is removed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np

from storage.core import StoreCore
from storage.encoding import Cast, cast_numbers, encode, quantise, stored_dtype
from storage.errors import DiskSpaceError, LayerMismatchError, LeaseLostError, NonFiniteError
from storage.leases import Lease
from storage.publish import ensure_folder
from storage.shapes import shard_bytes
from storage.shards import ShardFileWriter
from storage.zarr_metadata import roles, row_shape

__all__ = ["ShardWriter"]

_FLUSHES = 4

Array = np.ndarray[Any, np.dtype[Any]]


class ShardWriter:
    """Write the leased layers of one shard. Made by `FeatureStore.claim`; driven by one thread at a time.

    Args:
        core: the store.
        lease: what may be written.
        recorded: what the commit record shall say of where the maps were computed.
    """

    def __init__(self, core: StoreCore, lease: Lease, recorded: Mapping[str, Any]) -> None:
        self._core = core
        self._lease = lease
        self._recorded = dict(recorded)
        self._guard = threading.Lock()
        self._confirming = threading.Lock()
        self._written = 0
        self._closed = False
        self._files: dict[tuple[str, str], ShardFileWriter] = {}
        self._renewed = core.clock()
        self._shapes = {layer: core.state.shapes[layer] for layer in lease.layers}

    @property
    def row_keys(self) -> tuple[str, ...]:
        """The row keys to extract, in the order in which they must be written."""
        return self._lease.row_keys

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers to extract for them."""
        return self._lease.layers

    @property
    def shard(self) -> int:
        """The shard's number."""
        return self._lease.shard

    def __enter__(self) -> Self:
        try:
            self._check_space()
            self._open_files()
        except BaseException:
            self.abandon()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._closed:
            return
        try:
            if kind is None:
                self.commit()
        finally:
            self.abandon()

    def write(self, first: int, maps: Mapping[str, Array], cast: Cast = cast_numbers) -> None:
        """Write the maps of the next images.

        Args:
            first: index in `row_keys` of the first of them: as many as were written before.
            maps: per layer (B, h, w, C), float32, float16, or uint16: the bits of bfloat16.
            cast: rounds such numbers to those of the store, as `cast_numbers` does.

        Raises:
            LayerMismatchError: other layers or shapes than those claimed.
            NonFiniteError: a value is not finite in the store's type.
            LeaseLostError: the lease expired and another writer took the shard over.
            DiskSpaceError: the disk is full.
        """
        with self._guard:
            count = self._check(first, maps)
            self._renew_in_time()
            for layer in self.layers:
                for offset in range(count):
                    self._write_row(layer, first + offset, maps[layer][offset], cast)
            self._written += count

    def keep(self) -> None:
        """Renew the lease if a good part of it is over: for those whose next maps take their time.

        Raises:
            LeaseLostError: the lease expired and another writer took the shard over.
        """
        if self._guard.acquire(blocking=False):
            # Whoever holds the guard writes, which renews the lease as well, or commits.
            try:
                if not self._closed:
                    self._renew_in_time()
            finally:
                self._guard.release()

    def commit(self) -> None:
        """Publish the files, then the record that counts them. Called by leaving the block.

        Raises:
            ValueError: not all rows that were claimed have been written.
            LeaseLostError: the lease expired and another writer took the shard over.
            DiskSpaceError: the disk is full.
        """
        with self._guard:
            if self._written != len(self.row_keys):
                raise ValueError(
                    f"shard {self.shard}: expected {len(self.row_keys)} rows before the commit, got {self._written}"
                )
            # Side by side, since this is mostly waiting.
            with ThreadPoolExecutor(_FLUSHES, thread_name_prefix="shard-flush") as executor:
                summaries = dict(zip(self._files, executor.map(lambda file: file.finish(), self._files.values()), strict=True))
            with self._core.locked():
                self._core.leases.check(self._lease)
                for (layer, role), file in self._files.items():
                    file.publish(self._core.layout.shard(layer, self.shard, role))
                self._core.append(
                    {
                        "kind": "commit",
                        "shard": self.shard,
                        "slots": list(self._lease.slots),
                        "row_keys": list(self.row_keys),
                        "layers": {
                            layer: {role: summaries[layer, role].as_json() for role in roles(self._core.dtype)}
                            for layer in self.layers
                        },
                        "recorded": self._recorded,
                    },
                    before=self._check_lease,
                )
                self._core.leases.remove(self._lease)

    def abandon(self) -> None:
        """Remove all that is unfinished and give the lease back. After a commit this does nothing."""
        with self._guard:
            self._closed = True
            for file in self._files.values():
                file.abandon()
            self._files.clear()
            self._core.leases.remove(self._lease)

    def _open_files(self) -> None:
        slot_count = int(self._core.state.shard_images or 1)
        for layer in self.layers:
            for role in roles(self._core.dtype):
                path = self._core.layout.shard(layer, self.shard, role)
                ensure_folder(path.parent)
                self._files[layer, role] = self._core.backend.write_shard(
                    path,
                    self._lease.name,
                    slot_count,
                    self._core.blocks,
                    self._confirm,
                    compressed=self._core.compressed,
                    expected=self._expected(layer, role),
                )

    def _check_space(self) -> None:
        needed = sum(self._expected(layer, role) for layer in self.layers for role in roles(self._core.dtype))
        status = os.statvfs(self._core.layout.root)
        free = status.f_bavail * status.f_frsize
        if free < needed and not self._core.compressed:
            raise DiskSpaceError(
                f"{self._core.layout.root}: the next shard needs {needed / 1e6:.1f} MB, the disk has {free / 1e6:.1f} MB free. "
                "What was committed is safe; free some space and run the same command again: it resumes"
            )

    def _expected(self, layer: str, role: str) -> int:
        """Return the bytes of a file, if it is not compressed."""
        slot_count = int(self._core.state.shard_images or 1)
        return shard_bytes(self._shapes[layer], self._core.dtype, role, len(self.row_keys), slot_count)

    def _check(self, first: int, maps: Mapping[str, Array]) -> int:
        if set(maps) != set(self.layers):
            raise LayerMismatchError(f"expected maps of the layers {sorted(self.layers)}, got {sorted(maps)}")
        counts = {len(array) for array in maps.values()}
        count = counts.pop()
        if counts or first != self._written or first + count > len(self.row_keys):
            raise ValueError(
                f"expected at most {len(self.row_keys) - self._written} rows from {self._written} on, the same of every layer, "
                f"got { {layer: len(array) for layer, array in maps.items()} } from {first} on"
            )
        for layer, array in maps.items():
            if array.shape[1:] != self._shapes[layer]:
                raise LayerMismatchError(f"layer {layer}: expected maps of shape {self._shapes[layer]}, got {array.shape[1:]}")
        return count

    def _renew_in_time(self) -> None:
        now = self._core.clock()
        if now - self._renewed > self._core.lease_seconds / 4:
            with self._core.locked():
                self._lease = self._core.leases.renew(self._lease, self._core.lease_seconds)
            self._renewed = now

    def _check_lease(self) -> None:
        self._core.leases.check(self._lease)

    def _confirm(self, overwrites: bool) -> None:
        """Renew the lease: called before each object is sent, which may take its time, by several threads.

        Args:
            overwrites: there is an object already, which no record should count.
        """
        with self._confirming, self._core.locked():
            self._lease = self._core.leases.renew(self._lease, self._core.lease_seconds)
            if overwrites and self._core.counts(self._lease):
                # The index, which is not the truth, has lost lines.
                self._core.index.rebuild()
                raise LeaseLostError(f"shard {self.shard}: it is committed already, the index did not know; run again")

    def _write_row(self, layer: str, position: int, row: Array, cast: Cast) -> None:
        slot = self._lease.slots[position]
        dtype, maps = self._core.dtype, self._files[layer, "maps"]
        if dtype == "uint8":
            buffer = np.empty(row.shape, np.uint8)
            scale_offset = np.empty(row_shape(self._shapes[layer], "scale_offset"), np.float32)
            fits = quantise(row, buffer, scale_offset)
            maps.append(slot, buffer)
            self._files[layer, "scale_offset"].append(slot, scale_offset)
        else:
            fits = maps.append_encoded(
                slot, row.reshape(-1), stored_dtype(dtype), lambda source, out: encode(dtype, source, out, cast)
            )
        if not fits:
            raise NonFiniteError(
                f"layer {layer}, row {self.row_keys[position]}: a value is not finite as {dtype}; use `dtype: "
                "float32`, and if it fails there too, the backbone itself computes NaN or infinity"
            )
