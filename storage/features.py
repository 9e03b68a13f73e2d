"""The feature store: maps of images, computed once, found again by key, appended to for ever.

A store is a Zarr v3 group; each layer is an array (N, h, w, C); row = shard · shard_images + slot, the same for all layers.
What counts as committed is decided by the records alone (`storage.records`); everything else here is derived from them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from storage.allotment import claim, retire
from storage.backends import store_exists
from storage.claims import Busy, Request, count_hits, locate
from storage.core import StoreCore, store_key
from storage.declaring import create, declare_layers
from storage.encoding import DTYPES
from storage.errors import FormatError, LayerMismatchError, RowsMissingError
from storage.inspection import disk_usage, info
from storage.layout import StoreLayout
from storage.portions import portions
from storage.reading import MapReader
from storage.shapes import Shape, check_row_keys, row_bytes
from storage.shards import index_bytes
from storage.verification import Finding, verify
from storage.versions import refuse_other_versions
from storage.writing import ShardWriter
from storage.zarr_metadata import roles

__all__ = ["DTYPES", "Busy", "FeatureStore", "ShardWriter"]


class FeatureStore:
    """One store. Made by `create_or_open` or `open`.

    Args:
        core: the shared parts.
        recorded: where this process computes, kept in each record it writes.
    """

    def __init__(self, core: StoreCore, recorded: Mapping[str, Any] | None = None) -> None:
        self._core = core
        self._recorded = dict(recorded or {})
        self._request: tuple[Sequence[str], Sequence[str], Request] | None = None

    @classmethod
    def create_or_open(
        cls,
        stores_root: Path,
        key_fields: Mapping[str, Any],
        *,
        dtype: str = "float16",
        compression: Literal["none", "zstd"] = "none",
        shard_images: int | None = None,
        recorded: Mapping[str, Any] | None = None,
        lease_seconds: float = 120.0,
        clock: Callable[[], float] = time.time,
    ) -> FeatureStore:
        """Open the store that holds what `key_fields` decide, creating it if there is none.

        Args:
            stores_root: the folder of all stores.
            key_fields: JSON: everything that decides the bytes, except layers and dtype.
            dtype: one of `DTYPES`.
            compression: of a new store; one that exists keeps its own.
            shard_images: images per shard of a new store; None decides it when the first layers are declared.
            recorded: JSON: device, versions and the like: kept, but no part of the key.
            lease_seconds: how long a writer may be silent before others take its shard over.
            clock: seconds since the epoch.

        Raises:
            FormatError: what lies there is not ours, broken, or of another version.
            KeyMismatchError: what lies there was made from other fields.
        """
        layout = StoreLayout(Path(stores_root) / store_key(key_fields, dtype))
        core = StoreCore(layout, lease_seconds, clock)
        create(core, key_fields, dtype, compression, shard_images, recorded or {})
        return cls(core, recorded)

    @classmethod
    def open(cls, path: Path, *, lease_seconds: float = 120.0, recorded: Mapping[str, Any] | None = None) -> FeatureStore:
        """Open a store that exists, by its folder.

        Raises:
            FormatError: it is not a feature store, or broken.
            VersionError: it is one of another format version.
            KeyMismatchError: it was made from other fields than its key says.
        """
        layout = StoreLayout(Path(path).resolve())
        if not store_exists(layout.root):
            raise FormatError(f"{path}: expected the folder of a feature store, found no records in it")
        core = StoreCore(layout, lease_seconds)
        core.occupy(create=False)
        refuse_other_versions(layout, core.files)
        core.refresh()
        return cls(core, recorded)

    # --- what it is ------------------------------------------------------------------------------------------------

    @property
    def key(self) -> str:
        """The store's key: its folder's name."""
        return self._core.key

    @property
    def path(self) -> Path:
        """The store's folder: open it with stock Zarr, which learns of a row moments after it counts.

        Of a store in an object store: its local mirror (see `place`).
        """
        return self._core.layout.root

    @property
    def place(self) -> str:
        """Where the store lies, for people: its folder or its URL."""
        return self._core.place

    @property
    def dtype(self) -> str:
        """One of `DTYPES`."""
        return self._core.dtype

    @property
    def key_fields(self) -> dict[str, Any]:
        """What the key was made from."""
        return dict((self._core.state.create or {})["key_fields"])

    @property
    def compression(self) -> str:
        """`none` or `zstd`."""
        return "zstd" if self._core.compressed else "none"

    @property
    def shard_images(self) -> int:
        """Images per shard.

        Raises:
            LayerMismatchError: no layer is declared yet, so this is not decided.
        """
        if self._core.state.shard_images is None:
            raise LayerMismatchError("images per shard are decided when layers are declared; declare_layers first")
        return self._core.state.shard_images

    @property
    def layers(self) -> dict[str, Shape]:
        """(h, w, C) of each declared layer, in the order of declaration."""
        return dict(self._core.state.shapes)

    @property
    def record_count(self) -> int:
        """How many records there are."""
        return self._core.state.number

    @property
    def core(self) -> StoreCore:
        """The shared parts, for inspection and repair."""
        return self._core

    def array_path(self, layer: str) -> Path:
        """Return the folder of a layer's Zarr array."""
        self._check_layers([layer])
        return self._core.layout.array(layer)

    def shard_path(self, layer: str, shard: int) -> Path:
        """Return the file of one shard of a layer."""
        self._check_layers([layer])
        return self._core.layout.shard(layer, shard)

    def bytes_of(self, layer: str, rows: int) -> int:
        """Return the bytes that so many new images take in a layer, uncompressed, with checksums and the shards' indexes."""
        self._check_layers([layer])
        indexes = -(-rows // self.shard_images) * index_bytes(self.shard_images) * len(roles(self.dtype))
        return rows * row_bytes(self.layers[layer], self.dtype) + indexes

    # --- writing ---------------------------------------------------------------------------------------------------

    def declare_layers(self, shapes: Mapping[str, Shape]) -> None:
        """Make sure that layers exist with these shapes.

        Args:
            shapes: (h, w, C) per layer.

        Raises:
            LayerMismatchError: a layer exists with another shape, or a shape is not three positive numbers.
        """
        declare_layers(self._core, shapes)

    def claim(self, row_keys: Sequence[str], layers: Sequence[str]) -> ShardWriter | Busy | None:
        """Take the next shard's worth of what is missing, for this caller alone.

        Call it again and again with the same sequence (the same tuple is fastest) until it gives None.

        Returns:
            a writer; `Busy` if all that is missing is being written by others; None if nothing is missing.

        Raises:
            LayerMismatchError: a layer is not declared.
        """
        self._check_layers(layers)
        return claim(self._core, self._request_for(row_keys, layers), self._recorded)

    def retire(self, layer: str, shard: int, reason: str) -> None:
        """Declare a layer of a shard void, and move its files to quarantine; the next claim has it extracted again.

        Args:
            layer: the layer's name.
            shard: the shard's number.
            reason: kept in the record.
        """
        self._check_layers([layer])
        retire(self._core, layer, shard, reason)

    def _request_for(self, row_keys: Sequence[str], layers: Sequence[str]) -> Request:
        known = self._request
        if known is not None and known[0] is row_keys and isinstance(row_keys, tuple) and tuple(known[1]) == tuple(layers):
            return known[2]
        check_row_keys(row_keys)
        request = Request(row_keys, layers)
        self._request = (row_keys, tuple(layers), request)
        return request

    # --- asking ----------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Learn what others have committed."""
        self._core.refresh()

    def hits(self, row_keys: Sequence[str], layers: Sequence[str]) -> dict[str, int]:
        """Return, per layer, how many of the row keys are committed."""
        self._check_layers(layers)
        self._core.refresh()
        return count_hits(self._core.index, dict.fromkeys(row_keys), layers)

    def missing(self, row_keys: Sequence[str], layers: Sequence[str]) -> list[str]:
        """Return the row keys of which no row has all of the layers, in the order asked."""
        self._check_layers(layers)
        self._core.refresh()
        there = locate(self._core.index, dict.fromkeys(row_keys), layers)
        return [key for key in dict.fromkeys(row_keys) if key not in there]

    def portions(self, row_keys: Sequence[str], layers: Sequence[str]) -> list[tuple[str, ...]]:
        """Return what is missing, cut as claims would take it one after the other: a shard's worth each."""
        self._check_layers(layers)
        self._core.refresh()
        return portions(self._core.index, row_keys, layers, self.shard_images)

    def rows(self, row_keys: Sequence[str], layers: Sequence[str]) -> np.ndarray:
        """Return the row number of each row key: int64, in the order asked.

        Raises:
            RowsMissingError: some are not committed with all of the layers.
        """
        self._check_layers(layers)
        self._core.refresh()
        there = locate(self._core.index, dict.fromkeys(row_keys), layers)
        absent = [key for key in dict.fromkeys(row_keys) if key not in there]
        if absent:
            raise RowsMissingError(
                f"{len(absent)} of {len(set(row_keys))} images are not in store {self.key} with the layers {list(layers)} (the "
                f"first: {absent[0]}); extract them: `hypercolumns extract`"
            )
        count = self._core.state.shard_images or 1
        return np.array([there[key][0] * count + there[key][1] for key in row_keys], dtype=np.int64)

    def committed_rows(self, layer: str) -> np.ndarray:
        """Return the numbers of all rows that are committed with a layer: int64, rising."""
        self._check_layers([layer])
        self._core.refresh()
        count = self._core.state.shard_images or 1
        index = self._core.index
        masks = index.masks(index.shards())
        rows = [
            shard * count + slot
            for (shard, name), mask in masks.items()
            if name == layer
            for slot in index.slot_keys(shard)
            if mask >> slot & 1
        ]
        return np.array(sorted(rows), dtype=np.int64)

    def reader(
        self,
        layers: Sequence[str],
        *,
        verify_reads: Literal["first", "always", "never"] = "first",
        keep_cached: bool = True,
    ) -> MapReader:
        """Return a reader of some layers.

        Args:
            layers: their names.
            verify_reads: when a row's checksum is compared: at its first touch by this reader, at each, or not at all.
            keep_cached: leave what is read from the disk in the page cache. Without, rows are read past it:
                better where each is read once, or where all of them would not fit into memory.
        """
        self._check_layers(layers)
        self._core.stamp_use()
        return MapReader(self._core, tuple(layers), verify_reads, keep_cached=keep_cached)

    # --- looking after it ------------------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Return what the store is and holds, as JSON."""
        return info(self._core)

    def du(self) -> dict[str, Any]:
        """Return the bytes on disk, per layer and of the bookkeeping, as JSON."""
        return disk_usage(self._core)

    def verify(self, *, deep: bool = True) -> list[Finding]:
        """Compare everything on disk with the records.

        Args:
            deep: read all bytes and compare all checksums; otherwise sizes, names and indexes only.
        """
        return verify(self._core, deep=deep)

    def damaged(self) -> list[Finding]:
        """Return those findings whose shards must be retired and extracted again."""
        return [finding for finding in self.verify() if finding.kind in ("damaged", "missing")]

    def _check_layers(self, layers: Sequence[str]) -> None:
        for layer in layers:
            if layer not in self._core.state.shapes and layer not in self._core.refresh().shapes:
                raise LayerMismatchError(f"layer {layer}: the store has {list(self.layers)}; declare_layers first")
