"""Mean and variance of every channel of a layer over all committed rows: one pass over the store, each row read once.

Rows are centred on the first one's means before their squares are summed, so that float32 sums lose nothing to the subtraction
of large numbers; the sums of rows are added in double precision.

Source: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", The American Statistician 37 (1983), sec. 3
(shifted data).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypercolumns.read_ahead import read_ahead
from storage.errors import RowsMissingError
from storage.features import FeatureStore

__all__ = ["ChannelStatistics", "channel_statistics"]

_THREADS = 2


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


def channel_statistics(store: FeatureStore, layer: str) -> ChannelStatistics:
    """Reckon mean and variance per channel.

    Args:
        store: The store.
        layer: The layer's name.

    Raises:
        RowsMissingError: the layer has no committed row.
        DamagedError: a row's bytes are not those committed.
    """
    rows = store.committed_rows(layer).tolist()
    if not rows:
        raise RowsMissingError(f"layer {layer}: expected committed rows, found none; extract them: `hypercolumns extract`")
    reader = store.reader([layer], keep_cached=False)

    def cells_of(row: int) -> Tensor:
        values = torch.from_numpy(reader.read(layer, [row])[0])
        return values.reshape(-1, values.shape[-1]).float()

    first = cells_of(rows[0])
    shift = first.mean(dim=0)

    def moments(row: int) -> tuple[Tensor, Tensor]:
        centred = cells_of(row).sub_(shift)
        return centred.sum(dim=0).double(), centred.square_().sum(dim=0).double()

    total, squares = torch.zeros(len(shift), dtype=torch.float64), torch.zeros(len(shift), dtype=torch.float64)
    for part, part_squares in read_ahead(rows, moments, threads=_THREADS, ahead=2 * _THREADS):
        total += part
        squares += part_squares
    cells = len(rows) * len(first)
    offset = total / cells
    variance = (squares / cells - offset.square()).clamp(min=0)
    return ChannelStatistics((shift.double() + offset).numpy(), variance.numpy(), cells)
