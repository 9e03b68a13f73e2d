"""Procedural surfaces: colours and patterns that every class, the clutter, the ground and the sky share.

Nothing here knows what it paints: a surface is drawn the same way for a dog and for a stone, so that a patch of it does not
tell the class. Patterns are laid out in units of 1/128 of the picture, so that they look the same at every size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hypercolumns.datasets.shapes.primitives import FloatArray, span

Float32Array = npt.NDArray[np.float32]

COLOURS: FloatArray = np.array([
    (208, 66, 58), (226, 126, 52), (238, 190, 70), (140, 176, 70), (58, 138, 86), (52, 150, 160), (64, 112, 190),
    (104, 84, 170), (176, 82, 150), (228, 140, 160), (120, 78, 50), (196, 160, 118), (240, 232, 210), (250, 250, 250),
    (150, 152, 156), (84, 88, 96), (34, 36, 44), (150, 202, 226), (176, 214, 160), (112, 36, 48),
], dtype=np.float64)  # fmt: skip
"""The colours everything is drawn in, red, green and blue, 0 to 255."""

PATTERNS = ("plain", "stripes", "checks", "dots", "cloud", "grain")


@dataclass(frozen=True)
class Surface:
    """A pattern between two colours.

    Args:
        pattern: One of `PATTERNS`.
        colours: (2, 3), red, green and blue, 0 to 255.
        period_px: The pattern's period in a picture of 128 pixels.
        angle: The direction of stripes and checks, radians.
        seed: Of the pattern's own noise.
    """

    pattern: str
    colours: FloatArray
    period_px: float
    angle: float
    seed: int


def pick_colour(rng: np.random.Generator, away_from: FloatArray | None = None) -> FloatArray:
    """Pick one of the shared colours, slightly varied.

    Args:
        rng: The source of chance.
        away_from: (n, 3) colours to keep clear of: the pick is one of the half of the palette farthest from them.
    """
    choices = COLOURS
    if away_from is not None:
        gap = np.linalg.norm(COLOURS[:, None] - away_from[None], axis=2).min(axis=1)
        choices = COLOURS[np.argsort(-gap, kind="stable")[: len(COLOURS) // 2]]
    varied = choices[rng.integers(len(choices))] + rng.uniform(-14, 14, size=3)
    return np.asarray(np.clip(varied, 0, 255), dtype=np.float64)


def pick_surface(rng: np.random.Generator, away_from: FloatArray | None = None, contrast: float = 1.0) -> Surface:
    """Draw a surface.

    Args:
        rng: The source of chance.
        away_from: (n, 3) colours its first colour keeps clear of.
        contrast: How far its second colour goes from the first to another one of the palette, 0 to 1.
    """
    first, second = pick_colour(rng, away_from), pick_colour(rng, away_from)
    second = first + contrast * (second - first)
    pattern = PATTERNS[int(rng.integers(len(PATTERNS)))]
    return Surface(
        pattern=pattern,
        colours=np.stack([first, second]),
        period_px=span(rng, 4.5, 11.0),
        angle=span(rng, 0.0, float(np.pi)),
        seed=int(rng.integers(2**32)),
    )


def paint(surface: Surface, box: tuple[int, int, int, int], unit_px: float) -> Float32Array:
    """Paint a surface over a box of the picture.

    Args:
        surface: What to paint.
        box: First and last-plus-one row and column (y0, x0, y1, x1), pixels.
        unit_px: Pixels per 1/128 of the picture.

    Returns:
        (y1 - y0, x1 - x0, 3) colours, 0 to 255.
    """
    y0, x0, y1, x1 = box
    rows = (np.arange(y0, y1, dtype=np.float32) + 0.5)[:, None] / np.float32(unit_px)
    columns = (np.arange(x0, x1, dtype=np.float32) + 0.5)[None, :] / np.float32(unit_px)
    mix = _mix(surface, rows, columns)[..., None]
    first, second = surface.colours.astype(np.float32)
    return np.asarray(first + mix * (second - first), dtype=np.float32)


def _mix(surface: Surface, rows: Float32Array, columns: Float32Array) -> Float32Array:
    """Compute how much of the second colour there is at every pixel, 0 to 1."""
    period = surface.period_px
    cosine, sine = np.float32(np.cos(surface.angle)), np.float32(np.sin(surface.angle))
    along, across = cosine * columns + sine * rows, cosine * rows - sine * columns
    turn = np.float32(2 * np.pi / period)
    if surface.pattern == "plain":
        return 0.25 * value_noise(surface.seed, rows, columns, 24.0)
    if surface.pattern == "stripes":
        return _steps(np.sin(turn * along))
    if surface.pattern == "checks":
        return _steps(np.sin(turn * along) * np.sin(turn * across) * 1.5)
    if surface.pattern == "dots":
        return _steps(np.cos(turn * along) + np.cos(turn * across) - 0.7)
    if surface.pattern == "cloud":
        return value_noise(surface.seed, rows, columns, 1.4 * period)
    return value_noise(surface.seed, across, along, 0.35 * period, stretch=5.0)


def _steps(wave: npt.NDArray[np.floating]) -> Float32Array:
    """Sharpen a wave into bands with soft edges, about a pixel wide at 128 pixels."""
    return np.asarray(np.clip(0.5 + 1.4 * wave, 0.0, 1.0), dtype=np.float32)


def value_noise(seed: int, rows: Float32Array, columns: Float32Array, cell: float, stretch: float = 1.0) -> Float32Array:
    """Interpolate random values on a lattice, 0 to 1; the lattice repeats every 16 cells.

    Args:
        seed: Of the lattice's values.
        rows: Coordinates in 1/128 of the picture, to be broadcast against `columns`.
        columns: Likewise.
        cell: The lattice's spacing in the same unit.
        stretch: Factor on the spacing along columns.
    """
    lattice = np.random.Generator(np.random.PCG64(seed)).random((16, 16), dtype=np.float32)
    y, x = rows / np.float32(cell), columns / np.float32(cell * stretch)
    y_low, x_low = np.floor(y), np.floor(x)
    fy, fx = _ease(y - y_low), _ease(x - x_low)
    iy, ix = y_low.astype(np.int32) & 15, x_low.astype(np.int32) & 15
    iy_next, ix_next = (iy + 1) & 15, (ix + 1) & 15
    low = lattice[iy, ix] * (1 - fx) + lattice[iy, ix_next] * fx
    high = lattice[iy_next, ix] * (1 - fx) + lattice[iy_next, ix_next] * fx
    return np.asarray(low * (1 - fy) + high * fy, dtype=np.float32)


def _ease(fraction: Float32Array) -> Float32Array:
    return fraction * fraction * (3 - 2 * fraction)
