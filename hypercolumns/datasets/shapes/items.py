"""What stands in a scene: figures and nameless clutter, posed, dressed and placed, ready to be painted.

An item is drawn at random once, in pixels of its picture; painting it is left to `scene`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from hypercolumns.datasets.shapes.figures import FIGURE_CLASSES, PART_IDS, FigureClass, part_ids
from hypercolumns.datasets.shapes.primitives import (
    FloatArray,
    Joint,
    Pose,
    Stroke,
    degrees,
    ellipse,
    hang,
    limb,
    point,
    rotated,
    smooth,
    span,
)
from hypercolumns.datasets.shapes.textures import Surface, pick_surface


@dataclass(frozen=True)
class Footing:
    """Where and how large an item stands.

    Args:
        foot_xy: Where it touches the ground, pixels.
        height_px: The height of a figure of height 1.
        distance_m: How far it is from the eye, metres.
    """

    foot_xy: tuple[float, float]
    height_px: float
    distance_m: float


@dataclass(frozen=True)
class Item:
    """One thing to paint.

    Args:
        label: Its class, 0 for clutter.
        polygons_xy: Its polygons in pixels, far to near.
        kinds: The index into `surfaces` of each polygon.
        surfaces: What it wears.
        shades: A factor on each surface's colours.
        part_labels: The part label of each surface, 0 for clutter.
        footing: Where it stands.
        joints_xy: Its keypoints in pixels, with the part labels that show them.
        keypoints: The names of its class's keypoints, in order.
    """

    label: int
    polygons_xy: tuple[FloatArray, ...]
    kinds: tuple[int, ...]
    surfaces: tuple[Surface, ...]
    shades: tuple[float, ...]
    part_labels: tuple[int, ...]
    footing: Footing
    joints_xy: Mapping[str, tuple[FloatArray, tuple[int, ...]]] = field(default_factory=dict)
    keypoints: tuple[str, ...] = ()


def figure_item(rng: np.random.Generator, label: int, footing: Footing, backdrop: FloatArray) -> Item:
    """Pose, dress and place a figure of a class.

    Args:
        rng: The source of chance.
        label: The class, from 1.
        footing: Where it stands; the class's own size is applied here.
        backdrop: (n, 3) colours of ground and sky, which its colours keep clear of.
    """
    figure = FIGURE_CLASSES[label - 1]
    pose = figure.build(rng)
    return _item(rng, label, pose, footing, backdrop, figure.size, figure.mirrors)


def uniformed_item(
    rng: np.random.Generator, table: tuple[FigureClass, ...], label: int, footing: Footing, surface: Surface
) -> Item:
    """Pose and place a figure all of whose parts wear one surface.

    Args:
        rng: The source of chance.
        table: The classes.
        label: The class, from 1.
        footing: Where it stands; the class's own size is applied here.
        surface: What it wears.
    """
    figure = table[label - 1]
    pose = figure.build(rng)
    to_pixels = _placed(rng, pose, footing, figure.size, figure.mirrors)
    wear = sorted({stroke.part for stroke in pose.strokes})
    ids = part_ids(table)
    return Item(
        label=label,
        polygons_xy=tuple(to_pixels(stroke.polygon_xy) for stroke in pose.strokes),
        kinds=tuple(wear.index(stroke.part) for stroke in pose.strokes),
        surfaces=(surface,) * len(wear),
        shades=(1.0,) * len(wear),
        part_labels=tuple(ids[part] for part in wear),
        footing=footing,
        joints_xy={
            name: (to_pixels(joint.point_xy[None])[0], tuple(ids[part] for part in joint.parts))
            for name, joint in pose.joints.items()
        },
        keypoints=figure.keypoints,
    )


def clutter_item(rng: np.random.Generator, footing: Footing, backdrop: FloatArray) -> Item:
    """Make something nameless that stands on the ground: a stone, post, slab, heap or crossed sticks."""
    shape = int(rng.integers(5))
    strokes = (_stone, _posts, _slab, _heap, _sticks)[shape](rng)
    named = tuple(Stroke("", polygon, dress=str(i % 2)) for i, polygon in enumerate(strokes))
    return _item(rng, 0, Pose(named, {}), footing, backdrop, span(rng, 0.35, 0.85), True)


def _item(
    rng: np.random.Generator,
    label: int,
    pose: Pose,
    footing: Footing,
    backdrop: FloatArray,
    size: float,
    mirrors: bool,
) -> Item:
    """Turn a pose into pixels and dress it."""
    to_pixels = _placed(rng, pose, footing, size, mirrors)
    wear = sorted({_wear(stroke) for stroke in pose.strokes})
    wardrobe = [pick_surface(rng, backdrop) for _ in range(3)]
    # One surface clothes most of a figure, or it would fall apart into unrelated pieces.
    chosen = {key: wardrobe[int(rng.choice(3, p=(0.55, 0.3, 0.15)))] for key in sorted({key[:2] for key in wear})}
    return Item(
        label=label,
        polygons_xy=tuple(to_pixels(stroke.polygon_xy) for stroke in pose.strokes),
        kinds=tuple(wear.index(_wear(stroke)) for stroke in pose.strokes),
        surfaces=tuple(chosen[key[:2]] for key in wear),
        shades=tuple(key[2] for key in wear),
        part_labels=tuple(PART_IDS[key[0]] if label else 0 for key in wear),
        footing=footing,
        joints_xy={name: (to_pixels(joint.point_xy[None])[0], _labels(joint)) for name, joint in pose.joints.items()},
        keypoints=FIGURE_CLASSES[label - 1].keypoints if label else (),
    )


def _placed(
    rng: np.random.Generator, pose: Pose, footing: Footing, size: float, mirrors: bool
) -> Callable[[FloatArray], FloatArray]:
    """Draw a pose's size and slant, and return the way from its own frame to pixels."""
    lowest = min(float(stroke.polygon_xy[:, 1].min()) for stroke in pose.strokes)
    scale = footing.height_px * size * span(rng, 0.88, 1.12)
    stretch = np.array([scale * span(rng, 0.92, 1.08), -scale])
    if mirrors and rng.random() < 0.5:
        stretch[0] = -stretch[0]
    lean = degrees(rng, -5, 5)

    def to_pixels(points_xy: FloatArray) -> FloatArray:
        grounded = rotated(points_xy - np.array([0.0, lowest]), lean) * stretch + np.array(footing.foot_xy)
        return np.asarray(grounded, dtype=np.float64)

    return to_pixels


def _wear(stroke: Stroke) -> tuple[str, str, float]:
    return stroke.part, stroke.dress, stroke.shade


def _labels(joint: Joint) -> tuple[int, ...]:
    return tuple(PART_IDS[part] for part in joint.parts)


def _stone(rng: np.random.Generator) -> list[FloatArray]:
    turns = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    reach = rng.uniform(0.65, 1.0, size=8)
    return [smooth(np.stack([0.4 * reach * np.cos(turns), 0.3 + 0.3 * reach * np.sin(turns)], axis=1))]


def _posts(rng: np.random.Generator) -> list[FloatArray]:
    width = span(rng, 0.06, 0.14)
    posts = [
        limb(point(x, 0.0), point(x + span(rng, -0.1, 0.1), span(rng, 0.5, 1.1)), width, 0.7 * width)
        for x in (-0.25, 0.0, 0.25)
    ]
    return posts[: int(rng.integers(1, 4))]


def _slab(rng: np.random.Generator) -> list[FloatArray]:
    half, high, skew = span(rng, 0.15, 0.55), span(rng, 0.25, 0.75), span(rng, -0.2, 0.2)
    slab = np.array([[-half, 0.0], [half, 0.0], [half + skew, high], [-half + skew, high * span(rng, 0.7, 1.0)]])
    return [slab, np.array([[-half, 0.0], [half, 0.0], [half, 0.09], [-half, 0.09]])]


def _heap(rng: np.random.Generator) -> list[FloatArray]:
    places = [(-0.25, 0.16), (0.22, 0.17), (0.0, 0.36)]
    return [ellipse(point(x, y), (span(rng, 0.16, 0.26), span(rng, 0.14, 0.2)), degrees(rng, 0, 90)) for x, y in places]


def _sticks(rng: np.random.Generator) -> list[FloatArray]:
    sticks = []
    for _ in range(int(rng.integers(2, 5))):
        start = point(span(rng, -0.3, 0.3), 0.0)
        sticks.append(limb(start, hang(start, span(rng, 0.4, 0.9), degrees(rng, 130, 230)), 0.07, 0.05))
    return sticks
