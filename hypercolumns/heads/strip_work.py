"""The tensors that are classified strip by strip, and the gradients that are written over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from hypercolumns.kernels.plans import Widening
from hypercolumns.kernels.widening import read_rows

__all__ = ["WITH_IMAGES", "Cut", "InPlace", "Work"]

WITH_IMAGES = 4
"""Dimensions of a tensor that holds maps of several images."""

STRIP_BYTES = 1 << 21
"""Of what is made of a strip, for each thread: it stays in the cache of its core."""

FEWEST_ROWS = 8
"""Of a strip for each thread, however wide: products of few points are slow, and beginning them too."""

_MOST_THREADS = 8
"""That are reckoned with: strips save memory too."""


@dataclass(frozen=True, eq=False)
class Cut:
    """What is known of a call beside its tensors.

    Attributes:
        grid_hw: Points of the grid.
        images: How many.
        plan: How responses are read.
        fine_plans: How each fine map is read.
        fine_tensors: How many tensors each of them has: one, or one an image.
    """

    grid_hw: tuple[int, int]
    images: int
    plan: Widening
    fine_plans: tuple[Widening, ...]
    fine_tensors: tuple[int, ...]


class Work:
    """The tensors of one call, and how they are cut into strips.

    Args:
        cut: The rest.
        tensors: The first layer's weights for fine maps (or None), its bias, the second layer's weights and bias (or None), the
            fine maps', the responses.
    """

    def __init__(self, cut: Cut, tensors: Sequence[Tensor | None]) -> None:
        self.grid_hw, self.images, self.plan, self.fine_plans = cut.grid_hw, cut.images, cut.plan, cut.fine_plans
        self.first, bias, self.second, self.second_bias, *maps = tensors
        if bias is None:
            raise ValueError("expected a bias, got none")
        self.bias = bias
        whole = iter([values for values in maps if values is not None])
        self._fine = [list(islice(whole, count)) for count in cut.fine_tensors]
        self.responses = list(whole)

    @property
    def outputs(self) -> int:
        """Logits of a point."""
        return len(self.bias if self.second is None else self.second)

    def hidden_bytes(self, rows: int) -> int:
        """Return the bytes of so many rows of the first layer's outputs."""
        return rows * self.grid_hw[1] * len(self.bias) * self.bias.element_size()

    def rows_in(self, row_bytes: int, most: int | None = None) -> int:
        """Return how many rows of so many bytes make a strip, of `most` bytes in all if that is given."""
        threads = min(torch.get_num_threads(), _MOST_THREADS)
        return max(FEWEST_ROWS * threads, (STRIP_BYTES * threads if most is None else most) // max(1, row_bytes))

    def strips(self, rows: int) -> Iterator[tuple[int, int, int]]:
        """Yield image, first row and row after the last one."""
        for image in range(self.images):
            for start in range(0, self.grid_hw[0], rows):
                yield image, start, min(start + rows, self.grid_hw[0])

    def fine_of(self, image: int) -> list[Tensor]:
        """Return the fine maps of an image (h, w, C)."""
        return [_of_image(tensors, image) for tensors in self._fine]

    def read_fine(self, image: int, start: int, stop: int) -> Tensor:
        """Return the fine maps at a strip's points (n, x, C)."""
        maps = self.fine_of(image)
        if len(maps) == 1 and self.fine_plans[0].is_plain and maps[0].dtype == self.bias.dtype:
            return maps[0][start:stop]
        channels = [values.shape[2] for values in maps]
        found = self.bias.new_empty(stop - start, self.grid_hw[1], sum(channels))
        for out, values, plan in zip(torch.split(found, channels, dim=2), maps, self.fine_plans, strict=True):
            read_rows(out, values, plan, start)
        return found

    def responses_of(self, image: int) -> list[Tensor]:
        """Return the first layer's responses of an image (h, w, H)."""
        return [values[image] for values in self.responses]

    def written_over(self) -> list[Tensor]:
        """Return the responses, to be written over: copies where the graph is kept, which will be asked for the same again."""
        if torch._C._autograd._get_current_graph_task_keep_graph():
            self.responses = [values.clone() for values in self.responses]
        return self.responses


def _of_image(tensors: list[Tensor], image: int) -> Tensor:
    if tensors[0].dim() != WITH_IMAGES:
        return tensors[image if len(tensors) > 1 else 0]
    return tensors[0][image if len(tensors[0]) > 1 else 0]


class InPlace:
    """The gradient of a response, written over it: a row as soon as no later strip reads it.

    Args:
        values: (B, h, w, H), which strips read from first to last.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._image = 0
        self._start = 0
        self._rows = values.new_empty((0, *values.shape[2:]), dtype=torch.float32)

    def add(self, image: int, needed: slice, gradient: Tensor) -> None:
        """Add the gradient (n, w, H) of rows, none of them before those that were added last; it may be written over."""
        if image != self._image:
            self._write(self._values.shape[1])
            self._image, self._start, self._rows = image, 0, gradient[:0]
        shared = max(0, self._start + len(self._rows) - needed.start)
        gradient[:shared] += self._rows[len(self._rows) - shared :]
        self._write(needed.start)
        self._start, self._rows = needed.start, gradient

    def finished(self) -> Tensor:
        """Return the whole gradient (B, h, w, H)."""
        if len(self._values):
            self._write(self._values.shape[1])
        return self._values

    def _write(self, stop: int) -> None:
        """Put all rows before `stop` in their place; those that no strip read have no gradient."""
        count = min(len(self._rows), stop - self._start)
        self._values[self._image, self._start : self._start + count] = self._rows[:count]
        self._values[self._image, self._start + count : stop] = 0
