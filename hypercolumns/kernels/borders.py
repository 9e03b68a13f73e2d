"""Rows of maps that grid rows of several threads read: each thread has a place of its own for their gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hypercolumns.kernels.plans import Taps

__all__ = ["Borders"]


@dataclass(frozen=True, eq=False)
class Borders:
    """Places for the gradient of those rows of maps that grid rows of several threads read.

    Attributes:
        places: For each thread and map: the first row that it reads, the first and the last that nobody else reads, and the
            address of the place for the others, which lie there one after the other.
        rows: For each map, which rows lie in a place, and the place, from the first thread to the last.
    """

    places: np.ndarray
    rows: list[list[tuple[int, Tensor]]]

    @classmethod
    def of(cls, responses: Sequence[Tensor], rows_read: Taps, parts: int) -> Borders:
        """Find the rows, given how many threads share the grid rows."""
        plan, count = rows_read, rows_read.lower.shape[1]
        places = np.zeros((parts, len(plan.cells), 4), np.int64)
        rows: list[list[tuple[int, Tensor]]] = [[] for _ in plan.cells]
        for part in range(parts):
            start, stop = count * part // parts, count * (part + 1) // parts
            for number, (values, lower, upper) in enumerate(zip(responses, plan.lower, plan.upper, strict=True)):
                low, high = int(lower[start]), int(upper[stop - 1])
                first = max(low, int(upper[start - 1]) + 1) if part else low
                last = min(high, int(lower[stop]) - 1) if stop < count else high
                if first > last:
                    first, last = high + 1, high
                place = values.new_empty(max(0, first - low) + high - last, *values.shape[1:])
                places[part, number] = low, first, last, place.data_ptr()
                rows[number] += [(low, place[: first - low]), (last + 1, place[first - low :])]
        return cls(places, rows)

    def add_up(self, responses: Sequence[Tensor]) -> None:
        """Write the sums of all threads where they belong."""
        for values, pieces in zip(responses, self.rows, strict=True):
            written = 0
            for first, piece in pieces:
                stop = first + len(piece)
                both = min(max(0, written - first), len(piece))
                values[first : first + both] += piece[:both]
                values[first + both : stop] = piece[both:]
                written = max(written, stop)
