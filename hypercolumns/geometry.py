"""Every coordinate, stride and box convention, in one place.

Positions are continuous: pixel (row y, column x) covers [y, y+1) x [x, x+1) and has its centre at (y+½, x+½). A map of `n`
cells along an axis is addressed by *map coordinates*, where cell i has its centre at coordinate i; reading between the
centres is linear, beyond the first and last centre it is clamped.

Alignments relate a canvas position p to a map coordinate s along one axis (all are s = scale·p + shift):

- ``resize`` stretches the map over the canvas: s = p·n/N - ½. At pixel centres this is exactly
  ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``.
- ``receptive_field`` puts a cell where its receptive field's centre lies: s = (p - offset)/stride.
- ``corners`` lets the centres of the corner cells and corner pixels coincide: s = (p - ½)·(n-1)/(N-1), torch's
  ``align_corners=True``. It exists to reproduce published numbers, not to be chosen.

Boxes are (x0, y0, x1, y1), continuous, half-open: [x0, x1) x [y0, y1). A heatmap of side S cuts its box into S x S equal parts
and lies at their centres, x0 + (j+½)·(x1-x0)/S. A K x K grid of classifiers lies over the heatmap as a map of K cells over a
canvas of S pixels under ``resize``: pixel y sits at (y+½)·K/S - ½, clamped.

Source: Hariharan et al., "Hypercolumns for object segmentation and fine-grained localization", CVPR 2015, sec. 3 (the
interpolation f_i = Σ_k α_ik F_k); the alignments are spelled out here because the paper leaves them open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from hypercolumns.errors import GeometryError
from hypercolumns.specs import Alignment, CanvasSpec

__all__ = [
    "REFINER_EXPANSION",
    "AxisMap",
    "Placement",
    "axis_map",
    "box_positions",
    "check_boxes",
    "expand_boxes",
    "grid_hw",
    "grid_positions",
    "linear_taps",
    "place",
]

REFINER_EXPANSION = 16 / 195
"""Share of a box's side that is added on each of its ends when 16 of a 227-pixel crop's pixels are context.

Source: Girshick et al., "Rich feature hierarchies", CVPR 2014, appendix A (16 pixels of context in the warped crop).
"""


@dataclass(frozen=True)
class AxisMap:
    """The affine relation s = scale·p + shift from canvas positions to map coordinates, along one axis.

    Attributes:
        scale: Cells per pixel.
        shift: Map coordinate of position 0.
        cells: Cells of the map along the axis.
    """

    scale: float
    shift: float
    cells: int

    def is_resize(self, canvas: int) -> bool:
        """Whether this is the plain stretch of the map over a canvas side (to which `F.interpolate` is equal)."""
        return self == AxisMap(self.cells / canvas, -0.5, self.cells)


def axis_map(
    canvas: int,
    cells: int,
    *,
    stride_px: float | None = None,
    offset_px: float | None = None,
    alignment: str = "resize",
) -> AxisMap:
    """Relate one axis of the canvas to one axis of a map.

    Args:
        canvas: Side of the canvas in pixels, ≥ 1.
        cells: Cells of the map along that side, ≥ 1.
        stride_px: Pixels between neighbouring cells; needed for ``receptive_field``.
        offset_px: Canvas position of the first cell's receptive-field centre; needed for ``receptive_field``.
        alignment: ``resize``, ``receptive_field`` or ``corners``. A map of one cell has only one reading under all.

    Raises:
        GeometryError: a side is not positive, the alignment is unknown, or the stride that ``receptive_field`` needs is.
    """
    if canvas < 1 or cells < 1:
        raise GeometryError(f"expected a canvas and a map of at least one pixel and cell, got {canvas} and {cells}")
    if alignment not in get_args(Alignment):
        raise GeometryError(f"expected alignment {', '.join(get_args(Alignment))}, got {alignment!r}")
    if alignment == "resize" or cells == 1:
        return AxisMap(cells / canvas, -0.5, cells)
    if alignment == "corners":
        scale = (cells - 1) / max(canvas - 1, 1)
        return AxisMap(scale, -scale / 2, cells)
    if stride_px is None or offset_px is None or stride_px <= 0:
        raise GeometryError(
            "alignment receptive_field: expected a layer whose stride and offset are known, got "
            f"stride {stride_px} and offset {offset_px}; use alignment resize for it"
        )
    return AxisMap(1.0 / stride_px, -offset_px / stride_px, cells)


def grid_hw(canvas_hw: tuple[int, int], stride_px: int) -> tuple[int, int]:
    """Count the grid points s·(j+½) inside the canvas, which the stride must divide.

    Raises:
        GeometryError: the stride does not divide both sides.
    """
    height, width = canvas_hw
    if stride_px < 1 or height % stride_px or width % stride_px:
        raise GeometryError(f"expected an output stride that divides the canvas {canvas_hw}, got {stride_px}")
    return height // stride_px, width // stride_px


def grid_positions(count: int, stride_px: int) -> Tensor:
    """Return the canvas positions s·(j+½), j = 0 … count-1, in float64; stride 1 gives the pixel centres."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) * stride_px


def linear_taps(positions: Tensor, axis: AxisMap) -> tuple[Tensor, Tensor, Tensor]:
    """Find the two cells between which each position lies, and the weight of the second.

    Args:
        positions: Canvas positions along the axis (n,).
        axis: The axis' relation.

    Returns:
        Lower cell (n,) int64, upper cell (n,) int64, weight of the upper cell (n,) float64 in [0, 1].
    """
    coordinate = (positions.to(torch.float64) * axis.scale + axis.shift).clamp(0, axis.cells - 1)
    lower = coordinate.floor().long().clamp(max=max(axis.cells - 2, 0))
    upper = (lower + 1).clamp(max=axis.cells - 1)
    return lower, upper, coordinate - lower


def check_boxes(boxes_xyxy: Tensor) -> Tensor:
    """Return boxes in float64, checked.

    Args:
        boxes_xyxy: Boxes (n, 4).

    Raises:
        GeometryError: another shape, a number that is not finite, or a box without area, named by its place in the list.
    """
    if boxes_xyxy.dim() != 2 or boxes_xyxy.shape[1] != 4:
        raise GeometryError(f"expected boxes of shape (n, 4) as x0, y0, x1, y1, got {tuple(boxes_xyxy.shape)}")
    boxes = boxes_xyxy.to(torch.float64)
    empty = ~(torch.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))
    if empty.any():
        first = int(empty.nonzero()[0])
        raise GeometryError(
            f"box {first}: expected finite x0 < x1 and y0 < y1, got {boxes[first].tolist()}; leave boxes without area out"
        )
    return boxes


def expand_boxes(boxes_xyxy: Tensor, expansion: float) -> Tensor:
    """Move each side of boxes outwards by a share of the box's size along that axis; nothing is clipped.

    Args:
        boxes_xyxy: Boxes (n, 4).
        expansion: Share ≥ 0, a side: 0 leaves boxes alone; see also `REFINER_EXPANSION`.

    Returns:
        Boxes (n, 4), float64.

    Raises:
        GeometryError: the boxes are not boxes, or the expansion is negative or not finite.
    """
    if not 0 <= expansion < math.inf:
        raise GeometryError(f"expected a finite expansion of at least 0, got {expansion}")
    boxes = check_boxes(boxes_xyxy)
    margin = (boxes[:, 2:] - boxes[:, :2]) * expansion
    return torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], dim=1)


def box_positions(boxes_xyxy: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return where the pixels of boxes' heatmaps lie: positions along x (n, S) and along y (n, S), float64.

    Raises:
        GeometryError: the boxes are not boxes, or the side is not positive.
    """
    if side < 1:
        raise GeometryError(f"expected a heatmap of at least one pixel a side, got {side}")
    boxes = check_boxes(boxes_xyxy)
    share = grid_positions(side, 1).to(boxes.device) / side
    positions = boxes[:, :2, None] + share * (boxes[:, 2:] - boxes[:, :2])[:, :, None]
    return positions[:, 0], positions[:, 1]


@dataclass(frozen=True)
class Placement:
    """Where an image lies on its canvas: the content box, and the image's own size.

    Attributes:
        image_hw: Size of the image in pixels.
        canvas_hw: Size of the canvas in pixels.
        box_yxyx: Content box (y0, x0, y1, x1) on the canvas in pixels, half-open; outside it is padding.
    """

    image_hw: tuple[int, int]
    canvas_hw: tuple[int, int]
    box_yxyx: tuple[int, int, int, int]

    @property
    def content_hw(self) -> tuple[int, int]:
        """Size of the image's content on the canvas in pixels."""
        top, left, bottom, right = self.box_yxyx
        return bottom - top, right - left

    def to_canvas(self, boxes_xyxy: Tensor) -> Tensor:
        """Return boxes (n, 4), given in the image's pixels, in the canvas', float64."""
        scale, shift = self._scale_and_shift(boxes_xyxy.device)
        return boxes_xyxy.to(torch.float64) * scale + shift

    def to_image(self, boxes_xyxy: Tensor) -> Tensor:
        """Return boxes (n, 4), given in the canvas' pixels, in the image's, float64."""
        scale, shift = self._scale_and_shift(boxes_xyxy.device)
        return (boxes_xyxy.to(torch.float64) - shift) / scale

    def _scale_and_shift(self, device: torch.device) -> tuple[Tensor, Tensor]:
        (height, width), (image_height, image_width) = self.content_hw, self.image_hw
        scale = torch.tensor([width / image_width, height / image_height] * 2, dtype=torch.float64, device=device)
        return scale, torch.tensor([self.box_yxyx[1], self.box_yxyx[0]] * 2, dtype=torch.float64, device=device)


def place(image_hw: tuple[int, int], canvas: CanvasSpec) -> Placement:
    """Fit an image into the canvas: centred with its aspect ratio kept (letterbox), or stretched.

    Raises:
        GeometryError: a side of the image is not positive.
    """
    height, width = image_hw
    canvas_height, canvas_width = canvas.size_hw
    if height < 1 or width < 1:
        raise GeometryError(f"expected an image of at least 1x1 pixels, got {height}x{width}")
    if canvas.mode == "stretch":
        return Placement(image_hw, canvas.size_hw, (0, 0, canvas_height, canvas_width))
    scale = min(canvas_height / height, canvas_width / width)
    content_height = min(canvas_height, max(1, round(height * scale)))
    content_width = min(canvas_width, max(1, round(width * scale)))
    top = (canvas_height - content_height) // 2
    left = (canvas_width - content_width) // 2
    return Placement(image_hw, canvas.size_hw, (top, left, top + content_height, left + content_width))
