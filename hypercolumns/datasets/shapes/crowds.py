"""Crowded scenes: figures with parts that look alike, several of a class side by side in the same colours, hiding each other.

What a patch shows tells neither the part nor the figure it belongs to: that takes its place in the figure's box. Scenes of
`scene` and of this module share ground, sky, clutter and labels, but neither classes nor streams of chance.
"""

from __future__ import annotations

import numpy as np

from hypercolumns.datasets.shapes.backdrop import Backdrop, draw_backdrop
from hypercolumns.datasets.shapes.items import Footing, Item, clutter_item, uniformed_item
from hypercolumns.datasets.shapes.primitives import span
from hypercolumns.datasets.shapes.rasters import cover
from hypercolumns.datasets.shapes.scene import Scene, check_size, compose, stream
from hypercolumns.datasets.shapes.textures import pick_surface
from hypercolumns.datasets.shapes.twins import TWIN_CLASSES

__all__ = ["render_crowd"]

_CROWD_DOMAIN = 0xC80D
_CROWD_CYCLE_DOMAIN = 0xC80DC
_LEAST_SEEN = 0.35
_LEAST_SHARE = 0.008
_TRIES = 40


def render_crowd(seed: int, index: int, image_hw: tuple[int, int]) -> Scene:
    """Draw one scene of 3 to 5 figures, two or three of them of one class and touching or nearly so.

    At least a third of every figure is seen (of what lies in the picture), and no less than 1/125 of the picture.

    Args:
        seed: Of the whole set, 0 or more.
        index: Of the scene within it, 0 or more. Every four scenes from a multiple of 4 hold a group of every class.
        image_hw: Height and width, pixels, each within `SIZE_RANGE`.

    Returns:
        The scene; the same arguments give the same arrays, in any process and whatever else is drawn.

    Raises:
        SpecError: An argument is out of range.
    """
    check_size(image_hw)
    turn, place = divmod(index, len(TWIN_CLASSES))
    lead = 1 + int(stream(seed, _CROWD_CYCLE_DOMAIN, turn).permutation(len(TWIN_CLASSES))[place])
    for attempt in range(_TRIES):
        rng = stream(seed, _CROWD_DOMAIN, index, attempt)
        backdrop = draw_backdrop(rng, image_hw)
        figures = _figures(rng, lead, backdrop)
        clutter = [clutter_item(rng, _anywhere(rng, backdrop), backdrop.colours) for _ in range(int(rng.integers(0, 3)))]
        scene = compose(backdrop, [*figures, *clutter], stream(seed, _CROWD_DOMAIN, index, attempt, 1))
        if attempt == _TRIES - 1 or _all_are_seen(scene, figures):
            break
    return scene


def _figures(rng: np.random.Generator, lead: int, backdrop: Backdrop) -> list[Item]:
    """Make a group of one class, and one or two figures of any class."""
    surfaces = [pick_surface(rng, backdrop.colours) for _ in range(2)]
    height, width = backdrop.image_hw
    middle, drop_px = span(rng, 0.3, 0.7) * width, span(rng, 0.38, 0.52) * height
    count = int(rng.integers(2, 4))
    items = []
    for number in range(count):
        # Neighbours stand half a figure to a figure apart: they touch, overlap, or leave a narrow gap.
        own_drop_px = drop_px * span(rng, 0.93, 1.07)
        x = middle + (number - (count - 1) / 2) * 0.6 * drop_px * span(rng, 0.85, 1.35)
        items.append((lead, x, own_drop_px, surfaces[0]))
    for _ in range(int(rng.integers(1, 3))):
        label = 1 + int(rng.integers(len(TWIN_CLASSES)))
        x, own_drop_px = span(rng, 0.1, 0.9) * width, span(rng, 0.32, 0.5) * height
        items.append((label, x, own_drop_px, surfaces[int(rng.integers(2))]))
    return [
        uniformed_item(rng, TWIN_CLASSES, label, _footing(backdrop, x, drop_px), surface)
        for label, x, drop_px, surface in items
    ]


def _footing(backdrop: Backdrop, x: float, drop_px: float) -> Footing:
    return Footing((x, backdrop.horizon_y(x) + drop_px), 0.95 * drop_px, backdrop.distance_m(drop_px))


def _anywhere(rng: np.random.Generator, backdrop: Backdrop) -> Footing:
    height, width = backdrop.image_hw
    return _footing(backdrop, span(rng, 0.05, 0.95) * width, span(rng, 0.3, 0.6) * height)


def _all_are_seen(scene: Scene, figures: list[Item]) -> bool:
    """Tell whether enough is seen of every figure."""
    seen = [int((scene.object_mask == figure.instance).sum()) for figure in scene.figures]
    if len(seen) < len(figures) or min(seen) < _LEAST_SHARE * scene.object_mask.size:
        return False
    ordered = sorted(figures, key=lambda item: -item.footing.distance_m)
    areas = [_area(item, scene) for item in ordered]
    return all(pixels >= _LEAST_SEEN * area for pixels, area in zip(seen, areas, strict=True))


def _area(item: Item, scene: Scene) -> int:
    """Count the pixels a figure covers in the picture, hidden ones included."""
    height, width = scene.object_mask.shape
    coverage = cover(item.polygons_xy, item.kinds, (height, width))
    return 0 if coverage is None else int((coverage.total >= 0.5).sum())
