"""Heatmaps over boxes by K x K classifiers: only what is heard, against all classifiers on explicit hypercolumns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.heads import CANVAS, FRAME, vgg_maps
from benchmarks.measuring import Figure, interleaved, ratio
from hypercolumns.backbones import LayerInfo
from hypercolumns.columns import gather
from hypercolumns.geometry import axis_map, box_positions, grid_positions, linear_taps
from hypercolumns.heads import GridClassifier
from hypercolumns.heads.products import linear

__all__ = ["grid_heatmaps"]

GRID, SIDE, CLASSES = 5, 50, 20
BOXES = 10
"""Boxes an image of the row with a target; a single one is measured beside it, and training on as many."""

_SMALLEST, _LARGEST = 56, 168
"""Sides of the boxes in pixels: a quarter to three quarters of the canvas."""


def grid_heatmaps() -> list[Figure]:
    """Predict 50 x 50 heatmaps of 20 classes over the boxes of an image by 5 x 5 classifiers, and train them."""
    layers, maps = vgg_maps()
    model = GridClassifier(layers, CLASSES, FRAME, grid=GRID, side=SIDE)
    figures = []
    for count, target in ((BOXES, 4.0), (1, None)):
        boxes = random_boxes(count)
        ours, plain = (lambda b=boxes: model(maps, b)), (lambda b=boxes: all_classifiers(model, layers, maps, b))
        with torch.inference_mode():
            difference = float((ours() - plain()).abs().max() / plain().abs().max())
        what = f"grid heatmaps, {count} box{'es' if count > 1 else ''} an image"
        times = interleaved(lambda f=ours: _infer(f), lambda f=plain: _infer(f))
        figures.append(ratio(what, target, *times, difference=difference))
        if target is not None:
            times = interleaved(lambda f=ours: _train(f), lambda f=plain: _train(f))
            figures.append(ratio(f"{what}: forward + backward", None, *times))
    return figures


def random_boxes(count: int) -> Tensor:
    """Draw boxes of any shape that lie on the canvas."""
    generator = torch.Generator().manual_seed(0)
    sides = torch.rand(count, 2, generator=generator) * (_LARGEST - _SMALLEST) + _SMALLEST
    corner = torch.rand(count, 2, generator=generator) * (torch.tensor(CANVAS[::-1]) - sides)
    return torch.cat([corner, corner + sides], dim=1)


def all_classifiers(model: GridClassifier, layers: Sequence[LayerInfo], maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Resample every layer to the heatmap, concatenate, apply all K² classifiers, interpolate: the definition, box by box.

    Box by box is its faster form; the fastest gather and product at hand are its own too.
    """
    weight, bias = model.folded()
    rows, weights = _neighbours()
    found = []
    for columns_px, rows_px in zip(*box_positions(boxes, SIDE), strict=True):
        y, x = torch.meshgrid(rows_px, columns_px, indexing="ij")
        columns = gather([m[0] for m in maps], torch.stack([x, y], dim=-1).reshape(-1, 2), layers, FRAME)
        probabilities = torch.sigmoid(linear(columns, weight.flatten(0, 2), bias.flatten())).reshape(-1, CLASSES)
        found.append(F.embedding_bag(rows, probabilities, per_sample_weights=weights, mode="sum"))
    return torch.stack(found).transpose(1, 2).unflatten(2, (SIDE, SIDE))


def _neighbours() -> tuple[Tensor, Tensor]:
    """Return which rows pixel·K² + k of the probabilities each pixel interpolates (S², 4), and their weights."""
    lower, upper, weight = linear_taps(grid_positions(SIDE, 1), axis_map(SIDE, GRID))
    cells, shares = torch.stack([lower, upper], dim=1), torch.stack([1 - weight, weight], dim=1)
    classifiers = cells[:, None, :, None] * GRID + cells[None, :, None, :]
    weights = shares[:, None, :, None] * shares[None, :, None, :]
    pixels = torch.arange(SIDE * SIDE)[:, None] * GRID * GRID
    return classifiers.reshape(-1, 4) + pixels, weights.reshape(-1, 4).float()


def _infer(function: Callable[[], Tensor]) -> None:
    with torch.inference_mode():
        function()


def _train(function: Callable[[], Tensor]) -> None:
    function().sum().backward()  # type: ignore[no-untyped-call]
