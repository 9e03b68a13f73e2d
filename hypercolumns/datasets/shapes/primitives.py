"""The strokes figures are drawn with: closed polygons, and the records that name what they depict.

Everything here lives in the figure's own frame: x to the right, y up, the foot at y = 0, a height of about 1. Nothing here
knows of pixels, colours or images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stroke:
    """One polygon of a figure.

    Args:
        part: The part it belongs to, for example `person_arm`.
        polygon_xy: (n, 2) corners, closed implicitly.
        shade: Factor on its colour; below 1 for limbs on the far side.
        dress: Strokes of one figure with one dress wear one texture; by default the part's own.
    """

    part: str
    polygon_xy: FloatArray
    shade: float = 1.0
    dress: str = ""


@dataclass(frozen=True)
class Joint:
    """A keypoint of a figure: where it is, and the parts one of which must show there for it to be visible."""

    point_xy: FloatArray
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Pose:
    """One figure in one pose: strokes in painting order (far to near) and its keypoints, those it has, by name."""

    strokes: tuple[Stroke, ...]
    joints: Mapping[str, Joint]


def point(x: float, y: float) -> FloatArray:
    """Make a point."""
    return np.array([x, y], dtype=np.float64)


def hang(start: FloatArray, length: float, angle: float) -> FloatArray:
    """Walk from a point; an angle of 0 (radians) goes straight down, a positive one turns to the right."""
    return start + length * point(float(np.sin(angle)), -float(np.cos(angle)))


def ellipse(center: FloatArray, radii: tuple[float, float], angle: float = 0.0, corners: int = 26) -> FloatArray:
    """Draw an ellipse, turned counter-clockwise by `angle` radians."""
    turn = np.linspace(0.0, 2 * np.pi, corners, endpoint=False)
    flat = np.stack([radii[0] * np.cos(turn), radii[1] * np.sin(turn)], axis=1)
    return rotated(flat, angle) + center


def limb(start: FloatArray, end: FloatArray, width_start: float, width_end: float) -> FloatArray:
    """Draw a tapered bar with round ends."""
    along = end - start
    heading = float(np.arctan2(along[1], along[0]))
    back = np.linspace(np.pi / 2, 3 * np.pi / 2, 6)
    front = np.linspace(-np.pi / 2, np.pi / 2, 6)
    cap_back = 0.5 * width_start * np.stack([np.cos(back), np.sin(back)], axis=1)
    cap_front = 0.5 * width_end * np.stack([np.cos(front), np.sin(front)], axis=1)
    return np.concatenate([rotated(cap_back, heading) + start, rotated(cap_front, heading) + end])


def chain(points: Sequence[FloatArray], width_start: float, width_end: float) -> list[FloatArray]:
    """Draw a bending bar through points as a list of limbs, its width falling evenly."""
    widths = np.linspace(width_start, width_end, len(points))
    return [limb(points[i], points[i + 1], float(widths[i]), float(widths[i + 1])) for i in range(len(points) - 1)]


def arc(points: Sequence[FloatArray], corners: int = 6) -> list[FloatArray]:
    """Sample a quadratic Bézier curve of three points, for tails and necks."""
    start, middle, end = points
    steps = np.linspace(0.0, 1.0, corners)
    return [(1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end for t in steps]


def ring(center: FloatArray, radii: tuple[float, float], thickness: float, corners: int = 30) -> FloatArray:
    """Draw a ring as a keyhole polygon: once around outside, once back inside."""
    outer = ellipse(center, radii, corners=corners)
    # Keep the hole's margin even where a turned wheel is narrow.
    inner = ellipse(center, (max(radii[0] - thickness, 0.01), radii[1] - thickness), corners=corners)
    return np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])


def smooth(points_xy: FloatArray, corners_per_span: int = 5) -> FloatArray:
    """Round a closed polygon off with a Catmull-Rom spline through its corners."""
    before, after, beyond = (np.roll(points_xy, shift, axis=0) for shift in (1, -1, -2))
    t = np.linspace(0.0, 1.0, corners_per_span, endpoint=False)[None, :, None]
    a, b, c, d = (p[:, None, :] for p in (before, points_xy, after, beyond))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return np.asarray(curve.reshape(-1, 2), dtype=np.float64)


def rotated(points_xy: FloatArray, angle: float) -> FloatArray:
    """Turn points about the origin, counter-clockwise by `angle` radians."""
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    return np.asarray(points_xy @ np.array([[cosine, sine], [-sine, cosine]]), dtype=np.float64)


def rotated_point(x: float, y: float, angle: float) -> FloatArray:
    """Make a point and turn it about the origin, counter-clockwise by `angle` radians."""
    return np.asarray(rotated(np.array([[x, y]]), angle)[0], dtype=np.float64)


def span(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number between two bounds."""
    return float(rng.uniform(low, high))


def degrees(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw an angle between two bounds in degrees, and give it in radians."""
    return float(np.deg2rad(rng.uniform(low, high)))
