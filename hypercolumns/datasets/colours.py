"""Generated colours for labels whose masks bring no palette of their own: fixed, told apart also by the colour-blind.

Only arrays live here; no file is read.
"""

from __future__ import annotations

import colorsys

import numpy as np

__all__ = ["distinct_palette"]

_OKABE_ITO = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
    (64, 64, 64),
)
_VOID_COLOUR = (255, 255, 255)
_TURN, _STEP = 0.7548776662466927, 0.5698402909980532  # their multiples cover hue and lightness evenly


def distinct_palette() -> np.ndarray:
    """Generate 256 colours, uint8 RGB (256, 3): eight safe ones, then hues and lightnesses spread evenly.

    The last, VOID's, is white. Beyond the first sixteen or so no palette is safe for everyone; these differ in lightness too.

    Source: the first eight are Okabe and Ito, "Color Universal Design", 2008, with a dark grey in place of black.
    """
    colours = list(_OKABE_ITO)
    for place in range(len(_OKABE_ITO), 255):
        lightness = 0.28 + 0.58 * (place * _STEP % 1.0)
        red, green, blue = colorsys.hls_to_rgb(place * _TURN % 1.0, lightness, 0.65)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return np.array([*colours, _VOID_COLOUR], dtype=np.uint8)
