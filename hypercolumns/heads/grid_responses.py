"""The arithmetic of grid classifiers: from maps with placed boxes to heatmaps, a strip of heatmap rows of all boxes at a time.

`hypercolumns.heads.grid` says what is computed and keeps the weights; here is only how. For each map it is decided anew which
of two exact ways takes fewer products, by counting: a map's cells times all classifiers, or pixels times those they hear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hypercolumns.heads.box_points import BoxTaps, Window, crop, whole_maps
from hypercolumns.heads.grid_plan import GridPlan, Run
from hypercolumns.heads.products import linear
from hypercolumns.heads.weighing import weigh_rows

__all__ = ["PlacedMap", "box_heatmaps"]

_STRIP_PIXELS = 2500
"""Heatmap pixels of a strip, all boxes together, from which no further row is taken."""

_NEIGHBOURS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1))


@dataclass(frozen=True)
class PlacedMap:
    """A layer's maps, and the boxes on them.

    Attributes:
        values: The maps (maps, h, w, C).
        taps: Where the boxes' points lie in them.
        around: What a 3 x 3 kernel sees beyond the map's edge (C,); None for classifiers that see single cells.
    """

    values: Float[Tensor, "maps h w c"]
    taps: BoxTaps
    around: Float[Tensor, " c"] | None

    def select(self, boxes: Int[Tensor, " n"]) -> PlacedMap:
        """Return the same maps with some of the boxes."""
        return replace(self, taps=self.taps.select(boxes))

    def read(self, rows: slice) -> Float[Tensor, "boxes y x _"]:
        """Return the layer's raw columns at some rows of the heatmaps; with the cells around each one if a kernel sees them."""
        return self._seen(lambda cells, taps, window: _read(cells, taps, window, rows))

    def read_pixels(self, pixels: Int[Tensor, "boxes m"]) -> Float[Tensor, "boxes m _"]:
        """Return the same at single pixels y·S + x of each box's heatmap, so many for each."""
        return self._seen(lambda cells, taps, window: _read_pixels(cells, taps, window, pixels))

    def _seen(self, read: Callable[[Tensor, BoxTaps, Window], tuple[Tensor, Tensor]]) -> Tensor:
        cells, window = self.values.flatten(0, 2), whole_maps(self.taps)
        if self.around is None:
            return read(cells, self.taps, window)[0]
        seen = []
        for down, right in _NEIGHBOURS:
            columns, weights = read(cells, self.taps.shifted(down, right), window)
            seen.append(columns + (1 - weights.sum(-1, keepdim=True)) * self.around)
        return torch.cat(seen, dim=-1)

    def cells_if_fewer(self, most_cells: int) -> tuple[Tensor, Window] | None:
        """Return the cells to classify, of whole maps or of what boxes cover; None if they are too many."""
        if self.around is not None:
            return None
        count = self.values[..., 0].numel()
        cropped = crop(self.values, self.taps, min(count, most_cells))
        if cropped is not None:
            return cropped
        return (self.values.flatten(0, 2), whole_maps(self.taps)) if count <= most_cells else None


def box_heatmaps(
    plan: GridPlan,
    placed: Sequence[PlacedMap],
    weights: Sequence[Float[Tensor, "k k classes _"]],
    bias: Float[Tensor, "k k classes"],
    prior: Float[Tensor, "y x classes"],
) -> Float[Tensor, "boxes y x classes"]:
    """Return the boxes' heatmaps of probabilities.

    Args:
        plan: How heatmaps hear the grid.
        placed: Each layer's maps, with the same boxes.
        weights: The classifiers' weights for the layer's raw columns.
        bias: Their biases.
        prior: What is added to the logits of all classifiers at each pixel.
    """
    boxes = len(placed[0].taps.maps)
    if boxes == 0:
        return bias.new_zeros(0, plan.side, plan.side, bias.shape[2])
    heard_cells = boxes * plan.side**2 * len(plan.heard) // plan.grid**2
    fine: list[PlacedMap] = []
    fine_weights: list[Tensor] = []
    coarse: list[_Response] = []
    for part, weight in zip(placed, weights, strict=True):
        cells = part.cells_if_fewer(heard_cells)
        if cells is None:
            fine.append(part)
            fine_weights.append(weight)
        else:
            coarse.append(_respond(weight, *cells, part.taps))
    responses = _Responses(plan, coarse) if coarse else None
    joined = torch.cat(fine_weights, dim=3) if fine else None
    strips = []
    for runs in _strips(plan, boxes):
        rows = slice(runs[0].start, runs[-1].stop)
        logits = _classify(plan, runs, [part.read(rows) for part in fine], joined, bias)
        if responses is not None:
            # The sums are new, so that they may be added to; logits of biases alone are not.
            logits = responses.read(rows).add_(logits)
        strips.append(_blend(plan, rows, torch.sigmoid(logits + prior[rows][:, :, None])))
    return torch.cat(strips, dim=1)


def _strips(plan: GridPlan, boxes: int) -> Iterator[list[Run]]:
    """Yield neighbouring runs of rows: few enough for the cache, enough to be worth the operations."""
    strip: list[Run] = []
    for run in plan.runs:
        strip.append(run)
        if (run.stop - strip[0].start) * plan.side * boxes >= _STRIP_PIXELS:
            yield strip
            strip = []
    if strip:
        yield strip


def _classify(plan: GridPlan, strip: Sequence[Run], fine: Sequence[Tensor], weight: Tensor | None, bias: Tensor) -> Tensor:
    """Return what the heard classifiers make of the columns of a strip (boxes, y, x, heard, classes), biases added.

    Without columns only the biases are left, of a single box.
    """
    lines = []
    for rows in strip:
        pieces = []
        own = slice(rows.start - strip[0].start, rows.stop - strip[0].start)
        for columns in plan.runs:
            heard_bias = _heard(bias, plan, rows, columns).flatten()
            if weight is None:
                pieces.append(heard_bias.expand(1, rows.stop - rows.start, columns.stop - columns.start, -1))
                continue
            values = torch.cat([read[:, own, columns.pixels] for read in fine], dim=-1)
            pieces.append(linear(values, _heard(weight, plan, rows, columns).flatten(0, 1), heard_bias))
        lines.append(torch.cat(pieces, dim=2))
    logits = torch.cat(lines, dim=1)
    return logits.reshape(*logits.shape[:3], len(plan.heard), bias.shape[2])


def _heard(values: Tensor, plan: GridPlan, rows: Run, columns: Run) -> Tensor:
    """Return the part (heard, ...) of the classifiers' values (K, K, ...) that is heard where two runs cross."""
    reach = plan.reach
    return values[rows.cell : rows.cell + reach, columns.cell : columns.cell + reach].flatten(0, 1)


def _blend(plan: GridPlan, rows: slice, probabilities: Tensor) -> Tensor:
    """Interpolate between the heard classifiers' probabilities (boxes, y, x, heard, classes)."""
    boxes, height, width, heard, classes = probabilities.shape
    weights = plan.weights[rows].to(probabilities.device).expand(boxes, -1, -1, -1).reshape(-1, heard)
    places = torch.arange(len(weights) * heard, device=probabilities.device).reshape(-1, heard)
    return weigh_rows(probabilities.reshape(-1, classes), places, weights).reshape(boxes, height, width, classes)


def _read(cells: Tensor, taps: BoxTaps, window: Window, rows: slice) -> tuple[Tensor, Tensor]:
    """Read cells (n, C) at some rows of the heatmaps: columns (boxes, y, x, C), and the weights that were used (…, 4)."""
    down, right = taps.addresses(window)
    places = _crossed(down[:, rows], right, torch.add)
    weights = _crossed(taps.row_weights[:, rows], taps.column_weights, torch.mul)
    columns = weigh_rows(cells, places.flatten(0, 2), weights.flatten(0, 2))
    return columns.reshape(*places.shape[:3], cells.shape[1]), weights


def _read_pixels(cells: Tensor, taps: BoxTaps, window: Window, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Read cells (n, C) at single pixels of the heatmaps (boxes, m): as `_read`."""
    down, right = taps.addresses(window)
    side = taps.row_cells.shape[1]
    boxes, rows, columns = torch.arange(len(pixels), device=pixels.device)[:, None], pixels // side, pixels % side
    places = (down[boxes, rows][..., :, None] + right[boxes, columns][..., None, :]).flatten(2)
    weights = (taps.row_weights[boxes, rows][..., :, None] * taps.column_weights[boxes, columns][..., None, :]).flatten(2)
    found = weigh_rows(cells, places.flatten(0, 1), weights.flatten(0, 1))
    return found.reshape(*pixels.shape, cells.shape[1]), weights


def _crossed(rows: Tensor, columns: Tensor, join: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Join what belongs to rows (boxes, y, ..., 2) and to columns (boxes, x, ..., 2): (boxes, y, x, all the rest)."""
    # Each repeated to all combinations first: the join then runs along memory, several times faster.
    rows = rows[..., :, None].expand(*rows.shape, 2).flatten(2)
    columns = columns[..., None, :].expand(*columns.shape[:-1], 2, 2).flatten(2)
    return join(rows[:, :, None], columns[:, None])


@dataclass(frozen=True)
class _Response:
    """What all classifiers make of the cells of a coarse map, and where the boxes' points read it.

    Attributes:
        table: (cells · K², classes).
        down: Cells' numbers by heatmap row (boxes, S, 2).
        right: What is added to them by heatmap column (boxes, S, 2).
        taps: The boxes on the map.
    """

    table: Tensor
    down: Tensor
    right: Tensor
    taps: BoxTaps


def _respond(weight: Tensor, cells: Tensor, window: Window, taps: BoxTaps) -> _Response:
    responses = linear(cells.float(), weight.flatten(0, 2))
    return _Response(responses.reshape(-1, weight.shape[2]), *taps.addresses(window), taps)


class _Responses:
    """All coarse maps' responses in one table, whose row cell·K² + ky·K + kx is one classifier's: read and summed at once."""

    def __init__(self, plan: GridPlan, parts: Sequence[_Response]) -> None:
        self.plan = plan
        self.table = torch.cat([part.table for part in parts])
        starts = [0, *accumulate(len(part.table) for part in parts[:-1])]
        first = plan.cells.to(self.table.device)[:, None]
        cells = plan.grid**2
        down = [part.down * cells + first * plan.grid + start for part, start in zip(parts, starts, strict=True)]
        self.down = torch.stack(down, dim=2)
        self.right = torch.stack([part.right * cells + first for part in parts], dim=2)
        self.row_weights = torch.stack([part.taps.row_weights for part in parts], dim=2)
        self.column_weights = torch.stack([part.taps.column_weights for part in parts], dim=2)

    def read(self, rows: slice) -> Tensor:
        """Return the sums of the responses at some rows of the heatmaps (boxes, y, x, heard, classes)."""
        places = _crossed(self.down[:, rows], self.right, torch.add)
        weights = _crossed(self.row_weights[:, rows], self.column_weights, torch.mul).flatten(0, 2)
        # The heard classifiers lie at the same distances from the first one everywhere: addresses serve them all.
        sums = [weigh_rows(self.table[further:], places.flatten(0, 2), weights) for further in self.plan.heard]
        return torch.stack(sums, dim=1).reshape(*places.shape[:3], len(sums), self.table.shape[1])
