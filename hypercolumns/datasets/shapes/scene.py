"""Scenes: figures and clutter on a ground under a sky, hiding each other, with every label known.

`render_scene` is a pure function of seed, index and size; the same seed and index give the same composition at every size.
Nothing is read or written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hypercolumns.datasets.shapes.backdrop import DEPTH_PER_METRE, Backdrop, draw_backdrop
from hypercolumns.datasets.shapes.easel import Easel
from hypercolumns.datasets.shapes.figures import FIGURE_CLASSES
from hypercolumns.datasets.shapes.items import Footing, Item, clutter_item, figure_item
from hypercolumns.datasets.shapes.primitives import FloatArray, span
from hypercolumns.datasets.shapes.rasters import borders, opened
from hypercolumns.errors import SpecError

__all__ = ["DEPTH_PER_METRE", "LAYOUT_NAMES", "SIZE_RANGE", "FigureLabel", "Scene", "render_scene"]

LAYOUT_NAMES = ("sky", "upright", "ground")
"""Names of the second label set, 0 to 2."""

SIZE_RANGE = (64, 512)
"""Smallest and largest height or width of a scene, pixels."""

_SCENE_DOMAIN = 0x5CE7E
_CYCLE_DOMAIN = 0xC1C1E
_FIGURE_COUNT_CHANCES = (0.15, 0.35, 0.3, 0.2)


@dataclass(frozen=True)
class FigureLabel:
    """What is known of one figure.

    Args:
        instance: Its number in the object mask, from 1.
        label: Its class, from 1.
        distance_m: How far away it is, metres.
        keypoints: (k, 3), x and y in pixels (the first pixel's centre is at 0.5) and COCO's visibility: 0 absent or outside
            the picture (x = y = 0), 1 hidden, 2 visible. In the order of the class's keypoint names.
    """

    instance: int
    label: int
    distance_m: float
    keypoints: FloatArray


@dataclass(frozen=True)
class Scene:
    """One picture with all its labels, each array (h, w) unless said otherwise.

    Args:
        image: (h, w, 3), red, green and blue.
        class_mask: Class labels, 0 background; without the void band.
        object_mask: Instance numbers, 0 background; without the void band.
        part_mask: Part labels, 0 background.
        layout_mask: 0 sky, 1 upright, 2 ground; nameless clutter that stands is upright too.
        void_mask: The band along object borders that is neither trained on nor scored.
        depth: Metres times `DEPTH_PER_METRE`, 0 in the sky.
        figures: The figures of which at least one pixel is seen, in the order of their instance numbers, far to near.
    """

    image: npt.NDArray[np.uint8]
    class_mask: npt.NDArray[np.uint8]
    object_mask: npt.NDArray[np.uint8]
    part_mask: npt.NDArray[np.uint8]
    layout_mask: npt.NDArray[np.uint8]
    void_mask: npt.NDArray[np.bool_]
    depth: npt.NDArray[np.uint16]
    figures: tuple[FigureLabel, ...]


def render_scene(seed: int, index: int, image_hw: tuple[int, int]) -> Scene:
    """Draw one scene of 1 to 4 figures.

    Args:
        seed: Of the whole set, 0 or more.
        index: Of the scene within it, 0 or more. Every eight scenes from a multiple of 8 hold every class.
        image_hw: Height and width, pixels, each within `SIZE_RANGE`.

    Returns:
        The scene; the same arguments give the same arrays, in any process and whatever else is drawn.

    Raises:
        SpecError: An argument is out of range.
    """
    check_size(image_hw)
    rng = stream(seed, _SCENE_DOMAIN, index)
    backdrop = draw_backdrop(rng, image_hw)
    labels = _cast(rng, seed, index)
    figures = [
        figure_item(rng, label, footing, backdrop.colours)
        for label, footing in zip(labels, _footings(rng, backdrop, len(labels)), strict=True)
    ]
    clutter = [clutter_item(rng, footing, backdrop.colours) for footing in _footings(rng, backdrop, int(rng.integers(0, 4)))]
    return compose(backdrop, [*figures, *clutter], stream(seed, _SCENE_DOMAIN, index, 1))


def check_size(image_hw: tuple[int, int]) -> None:
    """Refuse a size out of range.

    Raises:
        SpecError: Says what was expected and what came.
    """
    low, high = SIZE_RANGE
    if len(image_hw) != 2 or not all(low <= side <= high for side in image_hw):
        raise SpecError(f"size: expected height and width of {low} to {high} pixels, received {image_hw}")


def stream(*numbers: int) -> np.random.Generator:
    """Open the stream of chance that belongs to these numbers.

    Raises:
        SpecError: A number is negative.
    """
    if min(numbers) < 0:
        raise SpecError(f"seed and index: expected whole numbers of 0 or more, received {min(numbers)}")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(numbers)))


def _cast(rng: np.random.Generator, seed: int, index: int) -> list[int]:
    """Choose classes: the first in turn, so that all are about as frequent, the others by chance."""
    count = 1 + int(rng.choice(len(_FIGURE_COUNT_CHANCES), p=_FIGURE_COUNT_CHANCES))
    classes = len(FIGURE_CLASSES)
    turn, place = divmod(index, classes)
    lead = int(stream(seed, _CYCLE_DOMAIN, turn).permutation(classes)[place])
    others = [int(label) for label in rng.permutation(classes) if label != lead]
    return [label + 1 for label in (lead, *others)[:count]]


def _footings(rng: np.random.Generator, backdrop: Backdrop, count: int) -> list[Footing]:
    """Scatter items over the ground; how far below the horizon one stands decides its distance and size."""
    height, width = backdrop.image_hw
    drops_px = rng.uniform(0.32, 0.6, size=count) * height
    # Each stands in its own strip of the width, from which it reaches into its neighbours'.
    columns = width * (0.06 + 0.88 * (rng.permutation(count) + rng.uniform(0.2, 0.8, size=count)) / max(count, 1))
    footings = []
    for x, drop_px in zip(columns.tolist(), drops_px.tolist(), strict=True):
        foot_xy = (x, backdrop.horizon_y(x) + drop_px)
        footings.append(Footing(foot_xy, 1.2 * drop_px * span(rng, 0.95, 1.05), backdrop.distance_m(drop_px)))
    return footings


def compose(backdrop: Backdrop, items: Sequence[Item], grain: np.random.Generator) -> Scene:
    """Paint items onto a backdrop, far ones first, and collect every label.

    Args:
        backdrop: Ground and sky; its arrays are painted over.
        items: What stands there; those with a label of 1 or more become figures.
        grain: The source of the picture's noise.
    """
    easel = Easel(backdrop)
    ordered = sorted(items, key=lambda item: -item.footing.distance_m)
    for item in ordered:
        easel.shade(item)
    for number, item in enumerate(ordered, start=1):
        easel.add(item, number if item.label else 0)
    seen = [number for number in range(1, len(ordered) + 1) if (easel.object_mask == number).any()]
    # Clutter and figures that nobody sees have no number; the others close ranks.
    renumbered = np.zeros(len(ordered) + 1, dtype=np.uint8)
    renumbered[seen] = np.arange(1, len(seen) + 1)
    object_mask = renumbered[easel.object_mask]
    return Scene(
        image=_developed(backdrop, grain),
        class_mask=easel.class_mask,
        object_mask=object_mask,
        part_mask=easel.part_mask,
        layout_mask=backdrop.layout,
        void_mask=void_band(object_mask),
        depth=backdrop.depth,
        figures=tuple(_label(easel, ordered[number - 1], number, int(renumbered[number])) for number in seen),
    )


def _label(easel: Easel, item: Item, number: int, instance: int) -> FigureLabel:
    return FigureLabel(instance, item.label, item.footing.distance_m, easel.keypoints(item, number, item.keypoints))


def _developed(backdrop: Backdrop, grain: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Light the picture unevenly and add noise."""
    height, width = backdrop.image_hw
    slope = grain.uniform(-0.14, 0.14, size=2)
    light = 1 + slope[0] * np.linspace(-1, 1, height)[:, None] + slope[1] * np.linspace(-1, 1, width)[None, :]
    noise = grain.standard_normal(size=(height, width, 3), dtype=np.float32) * np.float32(4.0)
    lit = backdrop.colour * light[..., None].astype(np.float32) + noise
    return np.asarray(np.clip(np.rint(lit), 0, 255).astype(np.uint8))


def void_band(object_mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Mark the band along object borders, half of it inside, half outside: 2 pixels in all at 128, more at larger sizes.

    The inner half spares what is thinner than the band and half as much again (legs, poles): it would vanish.

    Args:
        object_mask: (h, w) instance numbers.
    """
    reach = max(1, round(min(object_mask.shape) / 128))
    band = borders(object_mask, reach)
    for instance in np.unique(object_mask[object_mask > 0]):
        mask = object_mask == instance
        band &= ~mask | opened(mask, 2 * reach)
    return np.asarray(band)
