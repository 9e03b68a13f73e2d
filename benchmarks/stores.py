"""The feature store against the disk's own limits, the page cache, stock zarr and dask."""

from __future__ import annotations

import itertools
import mmap
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import dask.array
import numpy as np
import torch
import zarr

from benchmarks.measuring import (
    DiskLimit,
    Figure,
    RandomPages,
    forget,
    interleaved,
    ratio,
    scratch,
)
from hypercolumns.read_ahead import read_ahead
from storage.direct import BLOCK_BYTES, is_cached
from storage.encoding import stored_dtype
from storage.features import Busy, FeatureStore
from storage.reading import MapReader
from storage.shards import CHECKSUM_BYTES
from tasks.shard_writing import ShardWriting
from tasks.statistics import channel_statistics
from tasks.stores import read_tensor

__all__ = ["cold_reading", "quantised", "sparse_reading", "statistics", "warm_reading", "writing"]

# The maps of vgg11 at 224 pixels from its second layer on, 5.6 MB an image in half precision.
LAYERS = {"a": (112, 112, 128), "b": (56, 56, 256), "c": (28, 28, 512), "d": (14, 14, 512)}
IMAGES = 192
_BATCH = 8
_LARGE = 1 << 20
"""Bytes from which a file is one of maps, not of names."""


def filled(
    folder: Path, layers: dict[str, tuple[int, int, int]] = LAYERS, images: int = IMAGES, dtype: str = "float16"
) -> FeatureStore:
    """Write a store of random maps by the threads of extraction; the same few over and over, since nobody looks at them."""
    store = FeatureStore.create_or_open(folder, {"made": "for a benchmark"}, dtype=dtype)
    store.declare_layers(layers)
    maps = {name: _batch(shape) for name, shape in layers.items()}
    with ShardWriting() as writing:
        while (claim := store.claim(keys_of(images), list(layers))) is not None:
            if isinstance(claim, Busy):
                # Ours, which are being committed.
                writing.settle()
                continue
            writing.open(claim)
            for first in range(0, len(claim.row_keys), _BATCH):
                count = min(_BATCH, len(claim.row_keys) - first)
                writing.put(claim.write, first, {name: values[:count] for name, values in maps.items()})
            writing.commit(claim)
    return store


@cache
def _batch(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((_BATCH, *shape), np.float32).astype(np.float16)


def keys_of(images: int) -> tuple[str, ...]:
    """Name some images."""
    return tuple(f"{number:064x}:identity" for number in range(images))


def writing() -> list[Figure]:
    """Write a store of 1 GB, against the same bytes by four plain threads past the page cache.

    Each turn writes to a folder of its own, and the last turn's is gone: a virtual disk may take bytes twice as fast where it
    has had some before, so that nobody may have the same place again.
    """
    with scratch() as folder:
        numbers = itertools.count()
        count = IMAGES * sum(int(np.prod(shape)) * 2 for shape in LAYERS.values())

        def place() -> Path:
            return folder / f"turn-{next(numbers)}"

        def clear() -> None:
            for path in folder.iterdir():
                shutil.rmtree(path)

        limits, source = DiskLimit.of_blocks(count), _batch(LAYERS["a"]).reshape(-1).view(np.uint8).data
        ours, fetched, *bare = interleaved(
            lambda: filled(place()),
            lambda: limits[0].write(place(), source),
            *(lambda disk=disk: disk.write(place()) for disk in limits),
            before=clear,
        )
        limit = min(bare)
        details = {"megabytes_a_second": count / ours / 1e6, "limit_megabytes_a_second": count / limit / 1e6}
        return [
            Figure("write rate, of the disk's limit", limit / ours, 0.8, "", details=details),
            Figure(
                "write rate of bare threads that fetch the bytes they write, of the disk's limit", limit / fetched, None, ""
            ),
        ]


def warm_reading() -> list[Figure]:
    """Read single random images that the page cache holds, against a plain read of as many bytes, and against zarr."""
    with scratch() as folder:
        store = filled(folder / "stores")
        order = np.random.default_rng(1).permutation(IMAGES)
        rows = store.rows(keys_of(IMAGES), list(LAYERS))[order]
        arrays = [zarr.open_array(str(store.array_path(name)), mode="r") for name in LAYERS]
        verified, checking = store.reader(list(LAYERS)), store.reader(list(LAYERS), verify_reads="always")
        targets = {name: np.empty(shape, np.float16) for name, shape in LAYERS.items()}
        plain = _PlainFiles(folder)

        def ours(reader: MapReader) -> None:
            for row in rows:
                for name in LAYERS:
                    np.copyto(targets[name], reader.read(name, [row])[0])

        def stock() -> None:
            for row in rows:
                for array in arrays:
                    np.asarray(array[int(row)])

        warm, always, bare, slow = interleaved(
            lambda: ours(verified), lambda: ours(checking), lambda: plain.read(order, targets), stock
        )
        details = {"seconds": warm, "plain_read_seconds": bare}
        return [
            Figure(
                "warm read, of a bare read from the page cache, rows verified before", bare / warm, 0.7, "", details=details
            ),
            ratio("warm read, rows verified before, against zarr", 4, warm, slow),
            ratio("warm read, checksums compared each time as zarr does, against zarr", None, always, slow),
        ]


class _PlainFiles:
    """One file a layer, of the same maps one after another: nothing to look up, nothing to check."""

    def __init__(self, folder: Path) -> None:
        self.descriptors = {}
        for name, shape in LAYERS.items():
            path = folder / f"plain-{name}"
            np.ones((IMAGES, *shape), np.float16).tofile(path)
            self.descriptors[name] = os.open(path, os.O_RDONLY)

    def read(self, order: np.ndarray, targets: dict[str, np.ndarray]) -> None:
        for number in order:
            for name, target in targets.items():
                os.preadv(self.descriptors[name], [target.reshape(-1).view(np.uint8)], int(number) * target.nbytes)


def cold_reading() -> list[Figure]:
    """Read all images in random order with nothing in the page cache, against four plain threads past it."""
    with scratch() as folder:
        store = filled(folder / "stores")
        rows = np.random.default_rng(1).permutation(store.rows(keys_of(IMAGES), list(LAYERS)))
        count = IMAGES * sum(int(np.prod(shape)) * 2 for shape in LAYERS.values())
        limits = DiskLimit.of_blocks(count)
        for number, disk in enumerate(limits):
            disk.write(folder / f"limit-{number}")
        read, pieces, *bare = interleaved(
            lambda: _read_all(store, rows),
            lambda: _read_pieces(store, rows),
            *(disk.read for disk in limits),
            before=lambda: _make_cold(folder / "stores"),
        )
        limit = min(bare)
        details = {"megabytes_a_second": count / read / 1e6, "limit_megabytes_a_second": count / limit / 1e6}
        details["pieces_megabytes_a_second"] = count / pieces / 1e6
        return [
            Figure("cold read, checksums compared, of the disk's limit", limit / read, 0.9, "", details=details),
            Figure("cold read, checksums compared, of bare reads of the same pieces", pieces / read, None, "", details=details),
        ]


def _read_all(store: FeatureStore, rows: np.ndarray, dtype: torch.dtype | None = None) -> None:
    """Read every map, as it is kept or in a type."""
    reader = store.reader(list(LAYERS), keep_cached=False)

    def read(row: int) -> list[torch.Tensor]:
        return [read_tensor(reader, name, [row]).to(dtype) for name in LAYERS]

    for _ in read_ahead(rows, read, threads=4, ahead=8, torch_threads=1):
        pass


def _read_pieces(store: FeatureStore, rows: np.ndarray, itemsize: int = 2) -> None:
    """Read the same maps in the same order past the page cache, as plain bytes: what the disk takes for such requests."""
    files = {
        (name, shard): os.open(store.shard_path(name, shard), os.O_RDONLY | os.O_DIRECT)
        for name in LAYERS
        for shard in {int(row) // store.shard_images for row in rows}
    }
    memory = threading.local()

    def read(row: int) -> None:
        shard, slot = divmod(int(row), store.shard_images)
        if not hasattr(memory, "buffer"):
            memory.buffer = mmap.mmap(-1, 1 << 22)
        for name, shape in LAYERS.items():
            length = itemsize * int(np.prod(shape))
            first, last = slot * (length + CHECKSUM_BYTES) // BLOCK_BYTES * BLOCK_BYTES, (slot + 1) * (length + CHECKSUM_BYTES)
            os.preadv(files[name, shard], [memoryview(memory.buffer)[: -(-(last - first) // BLOCK_BYTES) * BLOCK_BYTES]], first)

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(read, rows))
    for descriptor in files.values():
        os.close(descriptor)


def sparse_reading() -> list[Figure]:
    """Read the columns around eight pixels an image, against reading the whole maps with zarr."""
    with scratch() as folder:
        store = filled(folder / "stores")
        rows = store.rows(keys_of(IMAGES), list(LAYERS))[:64]
        arrays = {name: zarr.open_array(str(store.array_path(name)), mode="r") for name in LAYERS}
        random = np.random.default_rng(2)
        cells = {name: random.integers(0, shape[0] * shape[1], 32) for name, shape in LAYERS.items()}

        def read(reader: MapReader) -> None:
            for row in rows:
                for name in LAYERS:
                    reader.read_cells(name, int(row), cells[name])

        def stock() -> None:
            for row in rows:
                for name, array in arrays.items():
                    values = np.asarray(array[int(row)])
                    values.reshape(-1, values.shape[-1])[cells[name]]

        count = len(rows) * len(cells["a"]) * len(LAYERS)
        disk = RandomPages(folder / "pages", sum(store.bytes_of(name, len(rows)) for name in LAYERS), count)
        # Cold before warm: files that a reader still maps stay in the page cache.
        never, plain, alone = interleaved(
            lambda: read(store.reader(list(LAYERS), verify_reads="never")),
            stock,
            disk.read,
            before=lambda: _make_cold(folder),
        )
        cold = ratio("sparse read, cold, verify_reads=never", 10, never, plain)
        most = ratio("sparse read, cold: as many random pages by the disk alone", None, alone, plain, pages=count)
        first, plain = interleaved(
            lambda: read(store.reader(list(LAYERS), keep_cached=False)), stock, before=lambda: _make_cold(folder)
        )
        whole = ratio("sparse read, cold, verify_reads=first: each row is read whole", None, first, plain)
        known = store.reader(list(LAYERS))
        warm = ratio("sparse read, warm, rows verified before", 15, *interleaved(lambda: read(known), stock))
        return [warm, cold, most, whole]


def _make_cold(folder: Path) -> None:
    """Drop the shards from the page cache.

    Raises:
        RuntimeError: one of them is still there, mapped by somebody.
    """
    forget(folder)
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > _LARGE:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
                if is_cached(mapped):
                    raise RuntimeError(f"expected {path.name} to be read from the disk, found it in the page cache")


def quantised() -> list[Figure]:
    """Read a store of bytes against one of half precision, images a second, cold."""
    with scratch() as folder:
        stores = {dtype: filled(folder / dtype, dtype=dtype) for dtype in ("uint8", "float16")}
        rows = stores["uint8"].rows(keys_of(IMAGES), list(LAYERS))

        ours, half, pieces, half_pieces = interleaved(
            *(lambda store=store: _read_all(store, rows, torch.float32) for store in stores.values()),
            *(lambda dtype=dtype: _read_pieces(stores[dtype], rows, stored_dtype(dtype).itemsize) for dtype in stores),
            before=lambda: _make_cold(folder),
        )
        return [
            ratio("uint8 store, images a second cold as float32, against float16", 1.8, ours, half),
            ratio("uint8 store: the same pieces by the disk alone, against float16's", None, pieces, half_pieces),
        ]


def statistics() -> list[Figure]:
    """Mean and variance per channel of a layer, against dask.array on the same store: its own reductions, and partial sums."""
    with scratch() as folder:
        store = filled(folder / "stores", {"b": LAYERS["b"]}, images=IMAGES)
        array = dask.array.from_zarr(str(store.array_path("b")))[:IMAGES]

        def reductions() -> np.ndarray:
            values = array.astype(np.float32)
            mean, variance = dask.array.compute(values.mean(axis=(0, 1, 2)), values.var(axis=(0, 1, 2)))
            return np.stack([mean, variance])

        def partial_sums() -> np.ndarray:
            chunks = ((1,) * array.numblocks[0], (2,), (1,), array.chunks[3])
            sums = array.map_blocks(_chunk_sums, dtype=np.float64, chunks=chunks).sum(axis=(0, 2)).compute()
            mean = sums[0] / np.prod(array.shape[:3])
            return np.stack([mean, sums[1] / np.prod(array.shape[:3]) - np.square(mean)])

        found = channel_statistics(store, "b")
        expected = np.stack([found.mean, found.variance])
        differences = [float(np.abs(expected - plain()).max()) for plain in (reductions, partial_sums)]
        ours, *theirs = interleaved(lambda: channel_statistics(store, "b"), reductions, partial_sums)
        details = {"reductions_seconds": theirs[0], "partial_sums_seconds": theirs[1], "differences": differences}
        return [ratio("channel statistics, against dask", 10, ours, min(theirs), **details)]


def _chunk_sums(values: np.ndarray) -> np.ndarray:
    """Sum the cells of a chunk of maps and their squares (1, 2, 1, C)."""
    cells = values.reshape(-1, values.shape[-1]).astype(np.float32)
    return np.stack([cells.sum(axis=0, dtype=np.float64), np.einsum("nc,nc->c", cells, cells)])[None, :, None]
