"""Mean and variance of every channel of a layer over all committed rows: one pass over the files, each row read once.

Rows are centred on the first one's means before their squares are summed, so that float32 products lose nothing to the
subtraction of large numbers; the sums of rows are added in double precision.

Source: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", The American Statistician 37 (1983), sec. 3
(shifted data).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from storage.errors import RowsMissingError
from storage.features import FeatureStore

__all__ = ["ChannelStatistics", "channel_statistics"]

Array = np.ndarray[Any, np.dtype[Any]]
_THREADS = 2
_ROWS_A_TURN = 64


@dataclass(frozen=True)
class ChannelStatistics:
    """What all cells of a layer say of its channels.

    Attributes:
        mean: (C,), float64.
        variance: (C,), float64; of the population.
        cells: how many cells were read.
    """

    mean: Array
    variance: Array
    cells: int


def channel_statistics(store: FeatureStore, layer: str) -> ChannelStatistics:
    """Reckon mean and variance per channel.

    Args:
        store: the store.
        layer: the layer's name.

    Raises:
        RowsMissingError: the layer has no committed row.
        DamagedError: a row's bytes are not those committed.
    """
    rows = store.committed_rows(layer)
    if not len(rows):
        raise RowsMissingError(f"layer {layer}: expected committed rows, found none; extract them: `hypercolumns extract`")
    reader = store.reader([layer], keep_cached=False)
    first = _cells(reader.read(layer, rows[:1]))
    shift = first.mean(axis=0)

    def moments(row: int) -> tuple[Array, Array]:
        centred = _cells(reader.read(layer, [row])) - shift
        # As matrix products: several times faster than sums along the long axis.
        ones = np.ones(len(centred), np.float32)
        return (ones @ centred).astype(np.float64), (ones @ np.square(centred, out=centred)).astype(np.float64)

    total, squares = np.zeros(len(shift)), np.zeros(len(shift))
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="statistics") as executor:
        for start in range(0, len(rows), _ROWS_A_TURN):
            for part, part_squares in executor.map(moments, rows[start : start + _ROWS_A_TURN].tolist()):
                total += part
                squares += part_squares
    cells = len(rows) * len(first)
    offset = total / cells
    return ChannelStatistics(shift.astype(np.float64) + offset, np.maximum(squares / cells - offset**2, 0), cells)


def _cells(maps: Array) -> Array:
    return maps.reshape(-1, maps.shape[-1]).astype(np.float32)
