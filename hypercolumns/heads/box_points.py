"""Where the pixels of boxes' heatmaps lie in maps: which cells surround them, and how much each one counts.

A heatmap is a regular grid, so that rows and columns are placed on their own, 2·S positions a box instead of S²; their parts of
an address are added up only where pixels are read. Boxes lie on whole images' maps, of which several may come at once, or each
box has a map of its own. What a position means is `hypercolumns.geometry`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hypercolumns.backbones import LayerInfo
from hypercolumns.columns import Frame, layer_axes
from hypercolumns.geometry import AxisMap, linear_taps

__all__ = ["BoxTaps", "Window", "crop", "place_boxes", "whole_maps"]


@dataclass(frozen=True)
class BoxTaps:
    """The boxes' rows and columns in one layer's map.

    Attributes:
        map_hw: Cells of the map.
        maps: Which of the maps each box lies on (boxes,).
        row_cells: Map rows above and below each heatmap row (boxes, S, 2).
        row_weights: Their weights (boxes, S, 2), float32.
        column_cells: Map columns left and right of each heatmap column (boxes, S, 2).
        column_weights: Their weights (boxes, S, 2), float32.
    """

    map_hw: tuple[int, int]
    maps: Int[Tensor, " boxes"]
    row_cells: Int[Tensor, "boxes side 2"]
    row_weights: Float[Tensor, "boxes side 2"]
    column_cells: Int[Tensor, "boxes side 2"]
    column_weights: Float[Tensor, "boxes side 2"]

    def select(self, boxes: Int[Tensor, " n"]) -> BoxTaps:
        """Return some of the boxes."""
        return BoxTaps(
            self.map_hw,
            self.maps[boxes],
            self.row_cells[boxes],
            self.row_weights[boxes],
            self.column_cells[boxes],
            self.column_weights[boxes],
        )

    def shifted(self, down: int, right: int) -> BoxTaps:
        """Return the cells some rows further down and columns further right; those beyond the map lose their weight."""
        height, width = self.map_hw
        rows, columns = self.row_cells + down, self.column_cells + right
        return replace(
            self,
            row_cells=rows.clamp(0, height - 1),
            row_weights=self.row_weights * ((rows >= 0) & (rows < height)),
            column_cells=columns.clamp(0, width - 1),
            column_weights=self.column_weights * ((columns >= 0) & (columns < width)),
        )

    def addresses(self, window: Window) -> tuple[Int[Tensor, "boxes side 2"], Int[Tensor, "boxes side 2"]]:
        """Return the parts, by row and by column, whose sums are the cells' numbers in a table."""
        start, top, left, pitch = (part[:, None, None] for part in (window.start, window.top, window.left, window.pitch))
        return start + (self.row_cells - top) * pitch, self.column_cells - left


@dataclass(frozen=True)
class Window:
    """How a table of cells holds what each box reads: whole maps one after the other, or a piece for each box.

    Attributes:
        start: Where the box's piece begins (boxes,).
        top: Map row of the piece's first row (boxes,).
        left: Map column of its first column (boxes,).
        pitch: Cells in one of its rows (boxes,).
    """

    start: Int[Tensor, " boxes"]
    top: Int[Tensor, " boxes"]
    left: Int[Tensor, " boxes"]
    pitch: Int[Tensor, " boxes"]


def place_boxes(layer: LayerInfo, frame: Frame, columns_px: Tensor, rows_px: Tensor, maps: Int[Tensor, " boxes"]) -> BoxTaps:
    """Place the pixels of boxes' heatmaps in a layer's map.

    Args:
        layer: The map's layer.
        frame: Canvas and alignment.
        columns_px: Canvas positions of the heatmaps' columns along x (boxes, S).
        rows_px: Canvas positions of their rows along y (boxes, S).
        maps: Which of the maps each box lies on.
    """
    rows, columns = layer_axes(layer, frame)
    return BoxTaps(layer.map_hw, maps, *_taps(rows_px, rows), *_taps(columns_px, columns))


def _taps(positions: Tensor, axis: AxisMap) -> tuple[Tensor, Tensor]:
    lower, upper, weight = linear_taps(positions, axis)
    return torch.stack([lower, upper], dim=-1), torch.stack([1 - weight, weight], dim=-1).float()


def whole_maps(taps: BoxTaps) -> Window:
    """Return the window of a table that holds every cell of every map."""
    height, width = taps.map_hw
    nothing = torch.zeros_like(taps.maps)
    return Window(taps.maps * (height * width), nothing, nothing, torch.full_like(nothing, width))


def crop(values: Float[Tensor, "maps h w c"], taps: BoxTaps, most_cells: int) -> tuple[Tensor, Window] | None:
    """Cut out of the maps what each box reads, if that is less than a number of cells.

    Args:
        values: The maps.
        taps: The boxes on them.
        most_cells: Cells that are too many.

    Returns:
        The cells (n, c), box after box, and their window; None if they are too many.
    """
    top, bottom = taps.row_cells.amin((1, 2)), taps.row_cells.amax((1, 2)) + 1
    left, right = taps.column_cells.amin((1, 2)), taps.column_cells.amax((1, 2)) + 1
    counts = (bottom - top) * (right - left)
    if int(counts.sum()) >= most_cells:
        return None
    edges = torch.stack([taps.maps, top, bottom, left, right], dim=1).tolist()
    pieces = [values[number, y0:y1, x0:x1].reshape(-1, values.shape[3]) for number, y0, y1, x0, x1 in edges]
    return torch.cat(pieces), Window(counts.cumsum(0) - counts, top, left, right - left)
