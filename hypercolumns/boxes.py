"""Plain arithmetic on boxes as numpy arrays: overlap, suppression, and what is done to boxes before they are used.

Boxes are (x0, y0, x1, y1), continuous and half-open (`hypercolumns.geometry`); every function checks them by that rule.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hypercolumns.errors import GeometryError
from hypercolumns.geometry import check_boxes

__all__ = [
    "box_areas",
    "box_intersection",
    "box_iou",
    "clip_boxes",
    "jitter_boxes",
    "longer_sides",
    "non_maximum_suppression",
    "pixel_slices",
]

Boxes = NDArray[np.float64]

_TRIES = 100


def box_iou(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Return intersection over union of every box (n, 4) with every other (m, 4): (n, m).

    Raises:
        GeometryError: the boxes are not boxes.
    """
    shared = box_intersection(first, second)
    overlap: NDArray[np.float64] = shared / (box_areas(first)[:, None] + box_areas(second)[None, :] - shared)
    return overlap


def box_intersection(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Return the area that every box (n, 4) shares with every other (m, 4): (n, m).

    Raises:
        GeometryError: the boxes are not boxes.
    """
    first, second = _checked(first), _checked(second)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared: NDArray[np.float64] = np.clip(high - low, 0, None).prod(axis=2)
    return shared


def box_areas(boxes: NDArray[Any]) -> NDArray[np.float64]:
    """Return the area of each box (n, 4).

    Raises:
        GeometryError: the boxes are not boxes.
    """
    boxes = _checked(boxes)
    areas: NDArray[np.float64] = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return areas


def non_maximum_suppression(boxes: NDArray[Any], scores: NDArray[Any], most_iou: float = 0.3) -> NDArray[np.int64]:
    """Choose boxes best first, leaving out those that overlap a chosen one by more than a limit.

    Args:
        boxes: Boxes (n, 4) of one class in one image.
        scores: Their scores (n,); equal ones are taken in the order given.
        most_iou: Overlap that is still allowed, in [0, 1].

    Returns:
        Numbers of the chosen boxes, best first.

    Raises:
        GeometryError: boxes, scores or limit are not what they should be.
    """
    scores = np.asarray(scores, np.float64)
    if scores.shape != (len(boxes),) or not np.isfinite(scores).all():
        raise GeometryError(f"expected one finite score for each of {len(boxes)} boxes, got shape {scores.shape}")
    if not 0 <= most_iou <= 1:
        raise GeometryError(f"expected a limit of overlap in [0, 1], got {most_iou}")
    clashes = box_iou(boxes, boxes) > most_iou
    free = np.ones(len(scores), np.bool_)
    chosen = []
    for number in np.argsort(-scores, kind="stable"):
        if free[number]:
            chosen.append(number)
            free &= ~clashes[number]
    return np.array(chosen, np.int64)


def clip_boxes(boxes: NDArray[Any], image_hw: tuple[int, int]) -> Boxes:
    """Cut boxes (n, 4) off at the image's edges.

    Raises:
        GeometryError: the boxes are not boxes, or one lies outside the image altogether.
    """
    boxes = _checked(boxes)
    height, width = image_hw
    clipped = boxes.clip([0, 0, 0, 0], [width, height, width, height])
    outside = np.flatnonzero((clipped[:, 2:] <= clipped[:, :2]).any(axis=1))
    if len(outside):
        raise GeometryError(
            f"box {outside[0]}: expected a box that meets the image of {width} x {height} pixels, got "
            f"{boxes[outside[0]].tolist()}; leave such boxes out"
        )
    return clipped


def jitter_boxes(
    boxes: NDArray[Any],
    image_hw: tuple[int, int],
    generator: np.random.Generator,
    *,
    spread: float = 0.1,
    least_iou: float = 0.7,
) -> Boxes:
    """Shift the sides of boxes at random, as a detector would miss them.

    Each side moves by a share of the box's size drawn evenly from ±spread; the result is clipped to the image and drawn again
    until it overlaps the box's part in the image by a limit. After a hundred draws the spread is halved, as often as it takes.

    Args:
        boxes: Boxes (n, 4).
        image_hw: Size of the image in pixels.
        generator: What draws.
        spread: Largest shift of a side, ≥ 0 and below ½.
        least_iou: Overlap with the clipped box that is asked for, in [0, 1).

    Raises:
        GeometryError: a box lies outside the image, or a number is out of range.
    """
    if not 0 <= spread < 0.5 or not 0 <= least_iou < 1:
        raise GeometryError(f"expected a spread in [0, 0.5) and an overlap in [0, 1), got {spread} and {least_iou}")
    jittered = clip_boxes(boxes, image_hw)
    for number, box in enumerate(jittered.copy()):
        sides = np.tile(box[2:] - box[:2], 2)
        for turn in range(_TRIES * 64):
            reach = spread * 0.5 ** (turn // _TRIES)
            drawn = clip_boxes((box + generator.uniform(-reach, reach, 4) * sides)[None], image_hw)[0]
            if box_iou(drawn[None], box[None])[0, 0] >= least_iou:
                jittered[number] = drawn
                break
    return jittered


def longer_sides(boxes: NDArray[Any]) -> NDArray[np.float64]:
    """Return the longer side of each box (n, 4): max(height, width), the usual scale of distances in it.

    Raises:
        GeometryError: the boxes are not boxes.
    """
    boxes = _checked(boxes)
    sides: NDArray[np.float64] = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    return sides


def pixel_slices(box: NDArray[Any], image_hw: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns of an image whose pixels' centres lie in a box (4,); both may be empty.

    Raises:
        GeometryError: the box is not one.
    """
    x0, y0, x1, y1 = _checked(np.asarray(box)[None])[0].tolist()
    height, width = image_hw
    # Pixel p has its centre at p + ½ and belongs to [x0, x1) with it.
    rows, columns = (
        slice(*(min(max(math.ceil(end - 0.5), 0), size) for end in ends))
        for ends, size in (((y0, y1), height), ((x0, x1), width))
    )
    return rows, columns


def _checked(boxes: NDArray[Any]) -> Boxes:
    checked: Boxes = check_boxes(torch.from_numpy(np.array(boxes, np.float64))).numpy()
    return checked
