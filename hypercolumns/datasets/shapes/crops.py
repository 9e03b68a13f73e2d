"""Pictures of one figure each, with its class: samples to train a backbone's classifier on.

They share figures and surfaces with the scenes but not their streams of chance: no crop of any seed repeats a scene's figure.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hypercolumns.datasets.shapes.backdrop import Backdrop, draw_backdrop
from hypercolumns.datasets.shapes.figures import FIGURE_CLASSES
from hypercolumns.datasets.shapes.items import Footing, Item, clutter_item, figure_item
from hypercolumns.datasets.shapes.primitives import span
from hypercolumns.datasets.shapes.scene import check_size, compose, stream
from hypercolumns.errors import SpecError

__all__ = ["figure_crop", "figure_crops"]

_CROP_DOMAIN = 0xC709
_LEAST_SEEN = 0.025
"""A figure must be seen in this share of the picture; a picture of less is drawn anew."""


def figure_crops(count: int, size: int, seed: int, *, first: int = 0) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Draw pictures of single figures, the classes in turn.

    Args:
        count: How many, 1 or more.
        size: Side of each picture, 64 to 512 pixels.
        seed: 0 or more.
        first: The index of the first one; crop i depends on seed, i and size alone, so that a long series can be
            drawn in pieces or by several processes.

    Returns:
        (count, size, size, 3) pictures and (count,) labels from 0, one less than those of masks.

    Raises:
        SpecError: An argument is out of range.
    """
    if count < 1:
        raise SpecError(f"count: expected 1 or more, received {count}")
    check_size((size, size))
    pictures = np.empty((count, size, size, 3), dtype=np.uint8)
    labels = np.empty(count, dtype=np.int64)
    for row in range(count):
        pictures[row], labels[row] = figure_crop(size, seed, first + row)
    return pictures, labels


def figure_crop(size: int, seed: int, index: int) -> tuple[npt.NDArray[np.uint8], int]:
    """Draw one picture of a single figure.

    Returns:
        (size, size, 3) picture and its label from 0.

    Raises:
        SpecError: An argument is out of range.
    """
    label, attempt = index % len(FIGURE_CLASSES), 0
    while True:
        rng = stream(seed, _CROP_DOMAIN, index, attempt)
        backdrop = draw_backdrop(rng, (size, size), horizon_range=(-0.1, 0.75))
        footing = _footing(rng, size)
        figure = figure_item(rng, label + 1, footing, backdrop.colours)
        scene = compose(backdrop, [figure, *_bystanders(rng, footing, backdrop)], rng)
        if (scene.object_mask > 0).mean() >= _LEAST_SEEN:
            return scene.image, label
        attempt += 1


def _footing(rng: np.random.Generator, size: int) -> Footing:
    """Place a figure so that it fills a third to all of the picture, perhaps cut off at an edge."""
    height_px = span(rng, 0.35, 0.85) * size
    foot_xy = (span(rng, 0.2, 0.8) * size, span(rng, 0.55, 1.05) * size)
    return Footing(foot_xy, height_px, distance_m=4.0)


def _bystanders(rng: np.random.Generator, figure: Footing, backdrop: Backdrop) -> list[Item]:
    """Make clutter before and behind a figure."""
    items = []
    size = backdrop.image_hw[0]
    for _ in range(int(rng.integers(0, 4))):
        nearer = rng.random() < 0.4
        foot_xy = (span(rng, 0.0, 1.0) * size, figure.foot_xy[1] + (1 if nearer else -1) * span(rng, 0.02, 0.15) * size)
        height_px = figure.height_px * span(rng, 0.5, 0.9)
        items.append(clutter_item(rng, Footing(foot_xy, height_px, 3.0 if nearer else 5.0), backdrop.colours))
    return items
