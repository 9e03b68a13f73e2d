"""Mean, variance and principal components of a layer's channels over all committed rows: one pass over the store.

Rows are centred on the first one's means before their squares are summed, so that float32 sums lose nothing to the subtraction
of large numbers; the sums of rows are added in double precision. Products of channels are taken in double precision throughout.

Source: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", The American Statistician 37 (1983), sec. 3
(shifted data).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hypercolumns.errors import SpecError
from storage.errors import RowsMissingError
from storage.features import FeatureStore
from tasks.row_sums import Workers, sum_layer

__all__ = ["ChannelStatistics", "PrincipalComponents", "channel_statistics", "principal_components"]


@dataclass(frozen=True)
class ChannelStatistics:
    """What all cells of a layer say of its channels.

    Attributes:
        mean: (C,), float64.
        variance: (C,), float64; of the population.
        cells: How many cells were read.
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    cells: int


@dataclass(frozen=True)
class PrincipalComponents:
    """The directions in which a layer's cells vary most; a cell's scores are `(cell - mean) @ components.T`.

    Attributes:
        mean: (C,), float64.
        components: (count, C), float64; of length one, its largest number positive; the first varies most.
        variance: (count,), float64; of the population along each.
        share: (count,), float64; each one's part of the variance of all channels together.
        cells: How many cells were read.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    variance: NDArray[np.float64]
    share: NDArray[np.float64]
    cells: int


def channel_statistics(store: FeatureStore, layer: str, client: Workers | None = None) -> ChannelStatistics:
    """Reckon mean and variance per channel.

    Args:
        store: The store.
        layer: The layer's name.
        client: A `distributed.Client` whose workers see the store's folder under the same path; None: this process does it.
            The numbers are the same up to the rounding of sums.

    Raises:
        RowsMissingError: the layer has no committed row.
        DamagedError: a row's bytes are not those committed.
        ClusterError: the client has no workers, or one does not fit.
    """
    sums = sum_layer(store, layer, client, crossed=False)
    offset = sums.total / sums.cells
    variance = np.maximum(sums.products / sums.cells - np.square(offset), 0)
    return ChannelStatistics(sums.shift + offset, variance, sums.cells)


def principal_components(store: FeatureStore, layer: str, count: int, client: Workers | None = None) -> PrincipalComponents:
    """Find the directions in which a layer's cells vary most.

    Takes memory for a few matrices of C x C numbers of double precision, here and on each worker.

    Args:
        store: The store.
        layer: The layer's name.
        count: How many; at least 1, at most C.
        client: See `channel_statistics`.

    Raises:
        SpecError: so many components there are not.
        RowsMissingError: the layer has no committed row, or fewer cells than components are asked for.
        DamagedError: a row's bytes are not those committed.
        ClusterError: the client has no workers, or one does not fit.
    """
    channels = store.layers[layer][2] if layer in store.layers else None
    if channels is not None and not 1 <= count <= channels:
        raise SpecError(f"principal components of {layer}: expected 1 to {channels}, its channels, got {count}")
    sums = sum_layer(store, layer, client, crossed=True)
    if sums.cells < count:
        raise RowsMissingError(f"layer {layer}: expected at least {count} cells for as many components, found {sums.cells}")
    offset = sums.total / sums.cells
    values, vectors = np.linalg.eigh(sums.products / sums.cells - np.outer(offset, offset))
    variance = np.maximum(values[::-1], 0)
    components = vectors.T[::-1][:count]
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    whole = variance.sum()
    share = variance[:count] / whole if whole > 0 else np.zeros(count)
    return PrincipalComponents(sums.shift + offset, components * np.sign(largest), variance[:count], share, sums.cells)
