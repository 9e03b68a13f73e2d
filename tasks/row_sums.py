"""Sums over the cells of some rows of a layer, here or on Dask workers: what statistics of a layer are put together from.

Workers are told rows by number and open the store by its folder; what comes back are sums, added up on the workers in
groups. All parts take the same shift, the mean of the layer's first row, so that their sums add up to the sums of the whole.
Nothing here imports Dask: the caller brings a client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypercolumns.kernels.summing import sum_cells
from hypercolumns.read_ahead import read_ahead
from storage.errors import RowsMissingError
from storage.features import FeatureStore
from storage.reading import MapReader
from tasks.cluster import ClusterError, Terms
from tasks.jobs import Message

__all__ = ["RowSums", "RowsPart", "Workers", "add_sums", "sum_layer", "sum_part"]

T = TypeVar("T")
U = TypeVar("U")
_THREADS = 2
_AT_ONCE = 8
"""Rows that a thread adds up before it hands their sums over, which takes as long as adding one up."""
_PARTS_PER_THREAD = 4
_ADDED_AT_ONCE = 8


class Workers(Protocol):
    """What is asked of a `distributed.Client` (one that is not asynchronous)."""

    def ncores(self) -> Mapping[str, int]:
        """Return the number of threads of each worker."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, pure: bool) -> Any:
        """Have a function called by some worker; return its future, which others may take as an argument."""


@dataclass(frozen=True)
class RowSums:
    """What cells add up to, each less the same shift.

    Attributes:
        cells: How many they are.
        shift: (C,), float64.
        total: (C,), float64; the sum of cells - shift.
        products: (C,) of squares, or (C, C) of products of each channel with each; float64.
    """

    cells: int
    shift: NDArray[np.float64]
    total: NDArray[np.float64]
    products: NDArray[np.float64]


class RowsPart(Message):
    """Some rows of a layer."""

    path: Path
    layer: str
    first_row: int
    """The layer's first: its mean is the shift, whoever asks."""
    ranges: tuple[tuple[int, int], ...]
    """Row numbers, half-open."""
    crossed: bool
    """Whether products of each channel with each are wanted, not squares alone."""
    terms: Terms


def sum_layer(store: FeatureStore, layer: str, client: Workers | None, *, crossed: bool) -> RowSums:
    """Add up all cells of a layer's committed rows.

    Args:
        store: The store.
        layer: The layer's name.
        client: A Dask client whose workers see the store's folder; None: this process does it.
        crossed: Whether to add up products of each channel with each, not squares alone.

    Raises:
        RowsMissingError: the layer has no committed row.
        DamagedError: a row's bytes are not those committed.
        ClusterError: there are no workers, or one does not fit.
    """
    rows = store.committed_rows(layer).tolist()
    if not rows:
        raise RowsMissingError(f"layer {layer}: expected committed rows, found none; extract them: `hypercolumns extract`")
    if client is None:
        return _sum_rows(store, layer, rows[0], rows, crossed=crossed)
    return _sum_together(
        client,
        RowsPart(path=store.path, layer=layer, first_row=rows[0], ranges=(), crossed=crossed, terms=Terms.here(store.path)),
        rows,
    )


def _sum_together(client: Workers, whole: RowsPart, rows: Sequence[int]) -> RowSums:
    threads = sum(client.ncores().values())
    if not threads:
        raise ClusterError("expected a Dask cluster with workers, found none. Remedy: start some: `dask worker ADDRESS`")
    each = -(-len(rows) // (threads * _PARTS_PER_THREAD))
    cut = [tuple(_ranges(rows[first : first + each])) for first in range(0, len(rows), each)]
    futures = [client.submit(sum_part, whole.model_copy(update={"ranges": ranges}), pure=False) for ranges in cut]
    while len(futures) > 1:
        groups = [futures[first : first + _ADDED_AT_ONCE] for first in range(0, len(futures), _ADDED_AT_ONCE)]
        futures = [client.submit(add_sums, *group, pure=False) for group in groups]
    found: RowSums = futures[0].result()
    return found


def sum_part(part: RowsPart) -> RowSums:
    """Add up the cells of a part's rows.

    Raises:
        ClusterError: this worker differs from whoever asks.
    """
    part.terms.refuse_unfit()
    rows = list(chain.from_iterable(range(first, stop) for first, stop in part.ranges))
    return _sum_rows(FeatureStore.open(part.path), part.layer, part.first_row, rows, crossed=part.crossed)


def add_sums(*sums: RowSums) -> RowSums:
    """Put sums of parts together, which have the same shift."""
    cells = sum(part.cells for part in sums)
    total, products = sums[0].total.copy(), sums[0].products.copy()
    for part in sums[1:]:
        total += part.total
        products += part.products
    return RowSums(cells, sums[0].shift, total, products)


def _sum_rows(store: FeatureStore, layer: str, first_row: int, rows: Sequence[int], *, crossed: bool) -> RowSums:
    reader = store.reader([layer], keep_cached=False)

    def cells_of(row: int) -> Tensor:
        values = torch.from_numpy(reader.read(layer, [row])[0])
        return values.reshape(-1, values.shape[-1])

    first = _kept(reader, layer, first_row)
    channels, cells = first.shape[-1], first.size // first.shape[-1]
    # Not by torch, whose threads would go on spinning for a while on the cores that read the rows.
    shift = (sum_cells(first, np.zeros(channels, np.float32))[0] / cells).astype(np.float32)
    if crossed:
        total = torch.zeros(channels, dtype=torch.float64)
        products = torch.zeros(channels, channels, dtype=torch.float64)
        less = torch.from_numpy(shift)
        for centred in _ahead(rows, lambda row: cells_of(row).double().sub_(less)):
            total += centred.sum(dim=0)
            products.addmm_(centred.T, centred)
        return RowSums(len(rows) * cells, shift.astype(np.float64), total.numpy(), products.numpy())
    sums = np.zeros((2, channels))

    def sums_of(some: Sequence[int]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.sum([sum_cells(_kept(reader, layer, row), shift) for row in some], axis=0)
        return found

    for part in _ahead([rows[first : first + _AT_ONCE] for first in range(0, len(rows), _AT_ONCE)], sums_of):
        sums += part
    return RowSums(len(rows) * cells, shift.astype(np.float64), *sums)


def _kept(reader: MapReader, layer: str, row: int) -> NDArray[Any]:
    """Read a row as it is kept; bytes, which say nothing without their scales, as float32."""
    return reader.read(layer, [row]) if reader.dtype == "uint8" else reader.read_row(layer, row)[0]


def _ahead(work: Sequence[U], read: Callable[[U], T]) -> Iterator[T]:
    # Side by side: torch's own threads would wait for each other at the end of each small operation.
    return read_ahead(work, read, threads=_THREADS, ahead=2 * _THREADS, torch_threads=1)


def _ranges(rows: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Say rising numbers as half-open ranges."""
    first = stop = -1
    for row in rows:
        if row != stop:
            if stop > first:
                yield first, stop
            first = row
        stop = row + 1
    if stop > first:
        yield first, stop
