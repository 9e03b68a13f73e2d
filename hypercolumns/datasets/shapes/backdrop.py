"""The stage: a textured ground and sky that meet at a horizon, strewn with flat clutter, and the distance of every pixel.

Flat clutter (patches on the ground, drifts in the sky) wears the same surfaces as figures do, but changes no label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hypercolumns.datasets.shapes.primitives import FloatArray, degrees, ellipse, limb, point, smooth, span
from hypercolumns.datasets.shapes.rasters import Coverage, cover
from hypercolumns.datasets.shapes.textures import Float32Array, Surface, paint, pick_colour, pick_surface

SKY, UPRIGHT, GROUND = 0, 1, 2
DEPTH_PER_METRE = 256
_EYE_HEIGHT_M = 1.6
_FARTHEST_M = 100.0


@dataclass(frozen=True)
class Backdrop:
    """A stage without actors; its arrays are painted over when items are added.

    Args:
        colour: (h, w, 3) colours, 0 to 255.
        layout: (h, w), 0 sky, 2 ground.
        depth: (h, w), metres times `DEPTH_PER_METRE`, 0 in the sky.
        horizon: The horizon's row at the left and at the right edge, pixels.
        colours: (n, 3) main colours of ground and sky.
    """

    colour: Float32Array
    layout: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.uint16]
    horizon: tuple[float, float]
    colours: FloatArray

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.layout.shape[0], self.layout.shape[1]

    @property
    def unit_px(self) -> float:
        """Pixels per 1/128 of the picture's smaller side."""
        return min(self.image_hw) / 128

    def horizon_y(self, x: float) -> float:
        """Find the horizon's row at a column, pixels."""
        left, right = self.horizon
        return left + (right - left) * x / self.image_hw[1]

    def distance_m(self, drop_px: float) -> float:
        """Compute how far away the ground is, a number of pixels below the horizon."""
        return float(_distances(np.array(drop_px), self.image_hw))

    def blend(self, coverage: Coverage | None, surface: Surface, opacity: float = 1.0) -> None:
        """Paint a surface over what is covered; no label changes."""
        if coverage is None:
            return
        y0, x0, y1, x1 = coverage.box
        weight = np.float32(opacity) * coverage.total[..., None]
        window = self.colour[y0:y1, x0:x1]
        window += weight * (paint(surface, coverage.box, self.unit_px) - window)


def draw_backdrop(
    rng: np.random.Generator, image_hw: tuple[int, int], horizon_range: tuple[float, float] = (0.22, 0.42)
) -> Backdrop:
    """Draw ground, sky and their flat clutter.

    Args:
        rng: The source of chance.
        image_hw: Height and width, pixels.
        horizon_range: Where the horizon may lie, as a share of the height from the top.
    """
    height, width = image_hw
    middle, tilt = span(rng, *horizon_range) * height, 0.5 * span(rng, -0.07, 0.07) * height
    horizon = (middle - tilt, middle + tilt)
    sky, ground = _muted(pick_surface(rng, contrast=0.35), 0.35), _muted(pick_surface(rng, contrast=0.35), 0.2)
    columns = np.arange(width) + 0.5
    drop_px = (np.arange(height) + 0.5)[:, None] - (horizon[0] + (horizon[1] - horizon[0]) * columns / width)[None, :]
    on_ground = drop_px > 0
    box, unit_px = (0, 0, height, width), min(image_hw) / 128
    colour = np.where(on_ground[..., None], paint(ground, box, unit_px), paint(sky, box, unit_px))
    # Brighter towards the horizon, as in the open air: it makes the ground recede.
    haze = np.exp(-np.abs(drop_px) / (0.22 * height)).astype(np.float32)[..., None] * np.float32(0.4)
    colour += haze * (np.float32(235.0) - colour)
    depth = np.where(on_ground, np.rint(_distances(drop_px, image_hw) * DEPTH_PER_METRE), 0).astype(np.uint16)
    colours = np.stack([sky.colours.mean(axis=0), ground.colours.mean(axis=0)])
    layout = np.where(on_ground, GROUND, SKY).astype(np.uint8)
    backdrop = Backdrop(colour.astype(np.float32), layout, depth, horizon, colours)
    _strew(rng, backdrop)
    return backdrop


def _distances(drop_px: FloatArray, image_hw: tuple[int, int]) -> FloatArray:
    """Apply the pinhole relation for a flat ground: distance = eye height · focal length / drop, focal length = height."""
    return np.minimum(_EYE_HEIGHT_M * image_hw[0] / np.maximum(drop_px, 1e-6), _FARTHEST_M)


def _muted(surface: Surface, amount: float) -> Surface:
    """Pull a surface's colours towards a light grey, so that figures stand out."""
    colours = surface.colours + amount * (np.array([178.0, 182.0, 186.0]) - surface.colours)
    return Surface(surface.pattern, colours, surface.period_px, surface.angle, surface.seed)


def _strew(rng: np.random.Generator, backdrop: Backdrop) -> None:
    """Scatter flat clutter: lying patches and stripes on the ground, drifts in the sky."""
    height, width = backdrop.image_hw
    for _ in range(int(rng.integers(3, 7))):
        x = span(rng, 0, width)
        drop_px = span(rng, 0.06, 0.7) * height
        middle = point(x, backdrop.horizon_y(x) + drop_px)
        surface = pick_surface(rng)
        # A patch lying down is foreshortened, the more the nearer to the horizon, and never reaches it.
        reach = (span(rng, 0.1, 0.4) * drop_px + 0.03 * height, span(rng, 0.06, 0.16) * drop_px)
        backdrop.blend(cover([_flat_shape(rng, middle, reach)], [0], backdrop.image_hw), surface, span(rng, 0.6, 1.0))
    for _ in range(int(rng.integers(1, 4))):
        x = span(rng, 0, width)
        y = backdrop.horizon_y(x) * span(rng, 0.1, 0.75)
        reach = (span(rng, 0.06, 0.2) * width, span(rng, 0.02, 0.06) * height)
        shape = smooth(ellipse(point(x, y), reach, corners=7) + rng.uniform(-0.25, 0.25, size=(7, 2)) * reach)
        sky_surface = Surface("plain", np.stack([pick_colour(rng), pick_colour(rng)]), 8.0, 0.0, int(rng.integers(2**32)))
        backdrop.blend(cover([shape], [0], backdrop.image_hw), sky_surface, span(rng, 0.5, 0.9))


def _flat_shape(rng: np.random.Generator, middle: FloatArray, reach: tuple[float, float]) -> FloatArray:
    if rng.random() < 0.3:
        along = point(reach[0] * 1.6, reach[1] * span(rng, -1.0, 1.0))
        return limb(middle - along, middle + along, reach[1] * 0.6, reach[1] * 0.9)
    outline = ellipse(middle, reach, degrees(rng, -4, 4), corners=8)
    return smooth(outline + rng.uniform(-0.3, 0.3, size=(8, 2)) * reach)
