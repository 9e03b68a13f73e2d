"""Location-specific classifiers: heatmaps over boxes by a grid of K x K linear classifiers on hypercolumns.

At pixel i of a box's heatmap p_i = Σ_k α_ik σ(g_k(f_i) + o_i): the probabilities of the classifiers around the pixel are
interpolated, not their logits. The prior o_i is fixed, zero unless set: what is known of a pixel before a box is seen. No
hypercolumn f_i is built where it can be helped, and at most four classifiers are applied:

- where a map has fewer cells than the boxes have pixels, all classifiers are applied to its cells (of the whole map, or of what
  the boxes cover, whichever is less), and the sums of all such maps are read at the pixels together;
- other maps are read first, and what hears the same classifiers is multiplied with these alone.

Both are exact, because linear classifiers and the interpolation of maps commute.

Source: Hariharan et al., CVPR 2015, sec. 3 (K x K classifiers, 50 x 50 heatmaps) and 3.3 (classify, then upsample).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hypercolumns.backbones import LayerInfo
from hypercolumns.columns import Frame
from hypercolumns.errors import GeometryError
from hypercolumns.geometry import box_positions, check_boxes, expand_boxes
from hypercolumns.heads.box_points import place_boxes
from hypercolumns.heads.grid_plan import plan_grid
from hypercolumns.heads.grid_responses import PlacedMap, box_heatmaps

__all__ = ["GridClassifier"]

_SMALLEST_STD = 1e-6


class GridClassifier(nn.Module):
    """Predict heatmaps over boxes by K x K classifiers per class, from maps at their native resolutions.

    Args:
        layers: The maps' layers, shallow to deep.
        classes: Heatmaps a box: categories, keypoints or parts.
        frame: Canvas and alignment.
        grid: K; 1 is the location-independent baseline.
        side: S, pixels of a heatmap along a side.
        expansion: Share of a box's size by which each of its sides is moved outwards first (`expand_boxes`).
        kernel: 1, or 3 to have classifiers see the 3 x 3 cells around each cell of the finest map; beyond the map's edge lies
            the mean activation.
        box_layers: Names of layers whose maps come one per box instead of one per image, such as fully connected ones on
            crops.

    Raises:
        GeometryError: a number is out of range, there is no layer, or `box_layers` names another one.
    """

    mean: Tensor
    std: Tensor
    prior: Tensor

    def __init__(
        self,
        layers: Sequence[LayerInfo],
        classes: int,
        frame: Frame,
        *,
        grid: int = 5,
        side: int = 50,
        expansion: float = 0.0,
        kernel: int = 1,
        box_layers: Sequence[str] = (),
    ) -> None:
        super().__init__()
        _check(layers, classes, expansion, kernel, box_layers)
        self.plan = plan_grid(grid, side)
        self.layers, self.classes, self.frame = tuple(layers), classes, frame
        self.grid, self.side, self.expansion, self.kernel = grid, side, expansion, kernel
        self.box_layers = tuple(box_layers)
        cells = [math.prod(layer.map_hw) for layer in layers]
        self.finest = cells.index(max(cells)) if kernel > 1 else None
        self.sizes = [layer.channels * (9 if number == self.finest else 1) for number, layer in enumerate(layers)]
        self.columns = sum(self.sizes)
        self.first = nn.Linear(self.columns, grid * grid * classes)
        self.register_buffer("mean", torch.zeros(self.columns))
        self.register_buffer("std", torch.ones(self.columns))
        self.register_buffer("prior", torch.zeros(classes, side, side))

    def set_statistics(self, mean: Float[Tensor, " c"], std: Float[Tensor, " c"]) -> None:
        """Set the standardisation of the layers' channels (ΣC,): those that hardly vary keep a standard deviation of one."""
        mean, std = (self._repeated(values) for values in (mean, std))
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > _SMALLEST_STD, std, torch.ones_like(std)))

    def set_prior(self, logits: Float[Tensor, "classes y x"]) -> None:
        """Set what is added to every classifier's logit at each pixel of the heatmaps: what is known before a box is seen."""
        self.prior.copy_(logits)

    def folded(self) -> tuple[Float[Tensor, "k k classes d"], Float[Tensor, "k k classes"]]:
        """Fold the standardisation into the classifiers: W/σ and b - (W/σ)μ, for raw hypercolumns."""
        weight = self.first.weight / self.std
        bias = self.first.bias - weight @ self.mean
        shape = (self.grid, self.grid, self.classes)
        return weight.reshape(*shape, self.columns), bias.reshape(shape)

    def forward(
        self,
        maps: Sequence[Float[Tensor, "_ _ _ _"]],
        boxes_xyxy: Tensor,
        image_rows: Tensor | None = None,
        *,
        box_classes: Tensor | None = None,
        outputs: slice | None = None,
        edges_xyxy: Tensor | None = None,
    ) -> Float[Tensor, "n *classes y x"]:
        """Return heatmaps of probabilities, (n, classes, S, S), or (n, S, S) with `box_classes`.

        Args:
            maps: One map per layer, in order, (images, h, w, C), or (n, h, w, C) for `box_layers`; any floating type.
            boxes_xyxy: Boxes on the canvas (n, 4), not expanded yet.
            image_rows: The image of each box (n,), among those of the maps; may be left out when there is only one.
            box_classes: The class of each box (n,): only its heatmap is computed.
            outputs: Without `box_classes`: the classes whose heatmaps are computed; by default all.
            edges_xyxy: What of the canvas is image, for each box (n, 4): positions are clamped to it; by default all of it.

        Raises:
            GeometryError: maps, boxes, rows or classes do not fit.
        """
        placed = self._placed(maps, boxes_xyxy, image_rows, edges_xyxy)
        weight, bias = self.folded()
        prior = self.prior.permute(1, 2, 0)
        if box_classes is None:
            own = slice(None) if outputs is None else outputs
            slices = torch.split(weight[:, :, own], self.sizes, dim=3)
            return box_heatmaps(self.plan, placed, slices, bias[:, :, own], prior[..., own]).permute(0, 3, 1, 2)
        chosen = _checked_numbers(box_classes, len(boxes_xyxy), self.classes, "class").to(weight.device)
        found, order = [bias.new_empty(0, self.side, self.side, 1)], [chosen.new_empty(0)]
        for label in sorted(set(chosen.tolist())):
            members, own = (chosen == label).nonzero()[:, 0], slice(label, label + 1)
            slices = torch.split(weight[:, :, own], self.sizes, dim=3)
            chosen_maps = [part.select(members) for part in placed]
            found.append(box_heatmaps(self.plan, chosen_maps, slices, bias[:, :, own], prior[..., own]))
            order.append(members)
        return torch.cat(found)[torch.cat(order).argsort()][..., 0]

    def hypercolumns(
        self,
        maps: Sequence[Float[Tensor, "_ _ _ _"]],
        boxes_xyxy: Tensor,
        image_rows: Tensor | None = None,
        *,
        pixels: Tensor | None = None,
        edges_xyxy: Tensor | None = None,
    ) -> Float[Tensor, "n m d"]:
        """Return raw hypercolumns at pixels of the boxes' heatmaps, to fit classifiers on.

        Args:
            maps: As for `forward`.
            boxes_xyxy: As for `forward`.
            image_rows: As for `forward`.
            pixels: Pixel numbers y·S + x (n, m), so many for each box; by default all S².
            edges_xyxy: As for `forward`.

        Raises:
            GeometryError: maps, boxes, rows or pixels do not fit.
        """
        placed, boxes = self._placed(maps, boxes_xyxy, image_rows, edges_xyxy), len(boxes_xyxy)
        if pixels is None:
            pixels = torch.arange(self.side**2).expand(boxes, -1)
        if pixels.dim() != 2 or len(pixels) != boxes:
            raise GeometryError(f"expected pixels of shape ({boxes}, m), so many for each box, got {tuple(pixels.shape)}")
        numbers = _checked_numbers(pixels.flatten(), pixels.numel(), self.side**2, "pixel").view_as(pixels).to(self.mean.device)
        return torch.cat([part.read_pixels(numbers) for part in placed], dim=-1).to(self.mean.dtype)

    def _repeated(self, values: Tensor) -> Tensor:
        """Repeat the finest layer's channels for each of the cells that its kernel sees."""
        parts = torch.split(values, [layer.channels for layer in self.layers])
        return torch.cat([part.repeat(size // len(part)) for part, size in zip(parts, self.sizes, strict=True)])

    def _placed(
        self, maps: Sequence[Tensor], boxes_xyxy: Tensor, image_rows: Tensor | None, edges_xyxy: Tensor | None
    ) -> list[PlacedMap]:
        """Check maps and boxes, and place the boxes' points in every map."""
        if len(maps) != len(self.layers):
            raise GeometryError(f"expected {len(self.layers)} maps, one per layer, got {len(maps)}")
        columns_px, rows_px = self._positions(boxes_xyxy, edges_xyxy)
        boxes, device = len(boxes_xyxy), self.mean.device
        images = {len(values) for values, layer in zip(maps, self.layers, strict=True) if layer.name not in self.box_layers}
        if len(images) > 1:
            raise GeometryError(f"expected maps of the same images, got maps of {sorted(images)} images")
        count = images.pop() if images else boxes
        rows, own = _image_rows(image_rows, boxes, count).to(device), torch.arange(boxes, device=device)
        means = torch.split(self.mean, self.sizes)
        placed = []
        for number, (values, layer) in enumerate(zip(maps, self.layers, strict=True)):
            per_box = layer.name in self.box_layers
            _check_map(values, layer, boxes if per_box else count)
            taps = place_boxes(layer, self.frame, columns_px, rows_px, own if per_box else rows)
            around = means[number][: layer.channels] if number == self.finest else None
            placed.append(PlacedMap(values, taps, around))
        return placed

    def _positions(self, boxes_xyxy: Tensor, edges_xyxy: Tensor | None) -> tuple[Tensor, Tensor]:
        height, width = self.frame.canvas_hw
        boxes = expand_boxes(boxes_xyxy.to(self.mean.device), self.expansion)
        outside = ((boxes[:, :2] >= boxes.new_tensor([width, height])) | (boxes[:, 2:] <= 0)).any(1)
        if outside.any():
            first = int(outside.nonzero()[0])
            raise GeometryError(
                f"box {first}: expected a box that meets the canvas of {width} x {height} pixels, got "
                f"{boxes_xyxy[first].tolist()}; bring boxes to the canvas with `Placement.to_canvas`"
            )
        columns_px, rows_px = box_positions(boxes, self.side)
        if edges_xyxy is None:
            return columns_px, rows_px
        # A position on the image's rim would read half of what lies beyond: the centre of its last pixel does not.
        edges = check_boxes(edges_xyxy.to(self.mean.device))[:, :, None]
        if len(edges) != len(boxes):
            raise GeometryError(f"expected edges for each of {len(boxes)} boxes, got {len(edges)}")
        low, high = edges[:, :2] + 0.5, edges[:, 2:] - 0.5
        return columns_px.clamp(low[:, 0], high[:, 0]), rows_px.clamp(low[:, 1], high[:, 1])


def _check(layers: Sequence[LayerInfo], classes: int, expansion: float, kernel: int, box_layers: Sequence[str]) -> None:
    names = [layer.name for layer in layers]
    if not names:
        raise GeometryError("expected at least one layer to classify, got none")
    if classes < 1:
        raise GeometryError(f"expected at least one class, got {classes}")
    if not 0 <= expansion < math.inf:
        raise GeometryError(f"expected a finite expansion of at least 0, got {expansion}")
    if kernel not in (1, 3):
        raise GeometryError(f"expected a kernel of 1 or 3 cells, got {kernel}")
    foreign = sorted(set(box_layers) - set(names))
    if foreign:
        raise GeometryError(f"box_layers: expected some of {', '.join(names)}, got {', '.join(foreign)}")


def _check_map(values: Tensor, layer: LayerInfo, count: int) -> None:
    expected = (count, *layer.map_hw, layer.channels)
    if tuple(values.shape) != expected:
        raise GeometryError(f"layer {layer.name}: expected a map of shape {expected}, got {tuple(values.shape)}")


def _image_rows(image_rows: Tensor | None, boxes: int, images: int) -> Tensor:
    if image_rows is not None:
        return _checked_numbers(image_rows, boxes, images, "image row")
    if images != 1:
        raise GeometryError(f"expected image_rows, which say on which of the {images} images each box lies, got none")
    return torch.zeros(boxes, dtype=torch.int64)


def _checked_numbers(numbers: Tensor, count: int, limit: int, what: str) -> Tensor:
    if tuple(numbers.shape) != (count,) or numbers.is_floating_point():
        raise GeometryError(f"expected {count} whole numbers, one {what} each, got {numbers.dtype} {tuple(numbers.shape)}")
    if count and (int(numbers.min()) < 0 or int(numbers.max()) >= limit):
        raise GeometryError(f"expected each {what} in 0..{limit - 1}, got {int(numbers.min())} to {int(numbers.max())}")
    return numbers.long()
