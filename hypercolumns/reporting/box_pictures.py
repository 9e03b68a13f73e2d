"""Pictures of objects in boxes: masks, skeletons and parts laid over the photograph, cut to what is around the box.

Arrays in, arrays out; no file, no font, no matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

__all__ = ["PART_COLOURS", "around", "cut", "draw_mask", "draw_parts", "draw_pose"]

Picture = NDArray[np.uint8]

PART_COLOURS = np.array(
    [
        (0, 114, 178),
        (230, 159, 0),
        (0, 158, 115),
        (213, 94, 0),
        (204, 121, 167),
        (86, 180, 233),
        (240, 228, 66),
        (120, 120, 120),
    ],
    np.uint8,
)
_INSIDE_RGB = np.array((0, 158, 115), np.float64)
_OPACITY = 0.55
_LARGEST_PX = 260
_SMALLEST_PX = 160


def around(box_xyxy: Sequence[float], image_hw: tuple[int, int], margin: float = 0.15) -> tuple[slice, slice]:
    """Return the window of an image that holds a box and a margin of its size; at least one pixel."""
    x0, y0, x1, y1 = box_xyxy
    across, down = (x1 - x0) * margin, (y1 - y0) * margin
    low_x, low_y = max(0, int(x0 - across)), max(0, int(y0 - down))
    high_x, high_y = min(image_hw[1], int(np.ceil(x1 + across))), min(image_hw[0], int(np.ceil(y1 + down)))
    return slice(low_y, max(high_y, low_y + 1)), slice(low_x, max(high_x, low_x + 1))


def draw_mask(image: Picture, mask: NDArray[np.bool_]) -> Picture:
    """Lay a mask over a photograph: tinted inside, with a dark outline."""
    picture = image.astype(np.float64)
    picture[mask] = (1 - _OPACITY) * picture[mask] + _OPACITY * _INSIDE_RGB
    return _outlined(picture, mask.astype(np.uint8))


def draw_parts(image: Picture, parts: NDArray[Any]) -> Picture:
    """Lay a part map over a photograph, one colour a part; what lies outside the object stays as it is."""
    picture = image.astype(np.float64)
    inside = (parts > 0) & (parts < 255)
    colours = PART_COLOURS[(parts[inside].astype(np.int64) - 1) % len(PART_COLOURS)]
    picture[inside] = (1 - _OPACITY) * picture[inside] + _OPACITY * colours
    return _outlined(picture, parts)


def _outlined(picture: NDArray[np.float64], labels: NDArray[Any]) -> Picture:
    edge = np.zeros(labels.shape, np.bool_)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    picture[edge] *= 0.35
    return picture.astype(np.uint8)


def draw_pose(
    image: Picture, points_xy: NDArray[Any], shown: NDArray[np.bool_], skeleton: Sequence[tuple[int, int]]
) -> Picture:
    """Draw keypoints and the lines between them on a photograph.

    Args:
        image: The photograph (H, W, 3).
        points_xy: Keypoints (K, 2) in its pixels.
        shown: Which to draw (K,).
        skeleton: Pairs of keypoints, joined where both are drawn.
    """
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    size = max(1.5, max(image.shape[:2]) / 110)
    for first, second in skeleton:
        if shown[first] and shown[second]:
            draw.line([tuple(points_xy[first]), tuple(points_xy[second])], fill=(230, 159, 0), width=max(1, round(size / 1.5)))
    for number, (x, y) in enumerate(points_xy.tolist()):
        if shown[number]:
            colour = tuple(int(part) for part in PART_COLOURS[number % len(PART_COLOURS)])
            draw.ellipse([x - size, y - size, x + size, y + size], fill=colour, outline=(255, 255, 255))
    return np.asarray(canvas)


def cut(picture: Picture, window: tuple[slice, slice]) -> Picture:
    """Cut a window out of a picture, made larger or smaller to a size that can be looked at."""
    part = picture[window]
    scale = _LARGEST_PX / max(part.shape[:2])
    if max(part.shape[:2]) >= _SMALLEST_PX:
        scale = min(1.0, scale)
    size = max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale))
    return np.asarray(Image.fromarray(part).resize(size, Image.Resampling.BILINEAR))
