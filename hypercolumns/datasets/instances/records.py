"""What every reader of annotations shares: a ledger of wrong records, and the checks of boxes and keypoints.

A check raises `DatasetError` with the reason alone; the ledger adds file and record. Nothing here knows a file format.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypercolumns.box_specs import InstancesSpec
from hypercolumns.datasets.instances.base import KeypointScheme, RejectedRecord
from hypercolumns.errors import DatasetError

__all__ = [
    "Ledger",
    "box_of_mask",
    "checked_box",
    "checked_keypoints",
    "checked_numbers",
]

_LISTED = 5
_TOLERANCE_PX = 1.0
_MARGIN_XYXY = np.array([-1.0, -1.0, 1.0, 1.0]) * _TOLERANCE_PX


class Ledger:
    """The records that cannot be used, with their reasons, and the images that there are.

    Args:
        skip: Whether to go on without them.

    Attributes:
        rejected: The records.
        images: By split, the numbers of all its images, of those too that were not asked for.
    """

    def __init__(self, *, skip: bool) -> None:
        self.skip = skip
        self.rejected: list[RejectedRecord] = []
        self.images: dict[str, set[int]] = {}

    @contextmanager
    def record(self, path: Path, record: str) -> Iterator[None]:
        """Note a `DatasetError` that is raised inside as this record's."""
        try:
            yield
        except DatasetError as error:
            self.rejected.append(RejectedRecord(path, record, str(error).removeprefix(f"{path}: ")))

    def settle(self) -> tuple[RejectedRecord, ...]:
        """Return what was left out.

        Raises:
            DatasetError: there is something, and it may not be left out; names the first few with their files.
        """
        if self.rejected and not self.skip:
            first = "; ".join(f"{each.path}: {each.record}: {each.reason}" for each in self.rejected[:_LISTED])
            more = f"; and {len(self.rejected) - _LISTED} more" if len(self.rejected) > _LISTED else ""
            raise DatasetError(
                f"{len(self.rejected)} records cannot be used: {first}{more}. "
                "Remedy: correct them, or set on_bad_record=skip to leave them out"
            )
        return tuple(self.rejected)


def checked_numbers(values: Any, count: int, what: str) -> NDArray[np.float64]:
    """Return finite numbers as an array (count,).

    Raises:
        DatasetError: there are more or fewer, or one is no finite number.
    """
    if not isinstance(values, list | tuple) or len(values) != count:
        got = f"{len(values)}" if isinstance(values, list | tuple) else repr(values)[:60]
        raise DatasetError(f"{what}: expected {count} numbers, got {got}")
    wrong = [value for value in values if isinstance(value, bool) or not isinstance(value, int | float)]
    # A whole number too large for a float is no position either.
    if wrong or not all(abs(value) < 1e15 for value in values):
        shown = wrong[0] if wrong else next(value for value in values if not abs(value) < 1e15)
        raise DatasetError(f"{what}: expected finite numbers, got {str(shown)[:60]}")
    return np.array(values, np.float64)


def checked_box(box_xyxy: NDArray[np.float64], image_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Return a box clipped to the image, from which it may stick out by a pixel: annotators round.

    Raises:
        DatasetError: it has no area, or does not lie in the image.
    """
    height, width = image_hw
    x0, y0, x1, y1 = box_xyxy.tolist()
    if not (math.isfinite(x0 + y0 + x1 + y1) and x1 > x0 and y1 > y0):
        raise DatasetError(f"box: expected finite x0 < x1 and y0 < y1, got {[x0, y0, x1, y1]}")
    clipped = box_xyxy.clip([0, 0, 0, 0], [width, height, width, height])
    if np.abs(clipped - box_xyxy).max() > _TOLERANCE_PX or (clipped[2:] <= clipped[:2]).any():
        raise DatasetError(f"box: expected one inside the image of {width} x {height} pixels, got {[x0, y0, x1, y1]}")
    return clipped


def box_of_mask(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the tight box (4,) around the pixels of a mask.

    Raises:
        DatasetError: it has none.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise DatasetError("mask: expected at least one pixel, got none")
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def checked_keypoints(
    xyv: NDArray[np.float64],
    scheme: KeypointScheme,
    box_xyxy: NDArray[np.float64],
    image_hw: tuple[int, int],
    spec: InstancesSpec,
) -> NDArray[np.float64] | None:
    """Return keypoints (K, 3) in continuous positions; None where none is labelled.

    Args:
        xyv: Keypoints (K, 3) as the file has them.
        scheme: The class's keypoints.
        box_xyxy: The instance's box.
        image_hw: The image's size.
        spec: Says what whole coordinates mean, and what becomes of keypoints outside the box.

    Raises:
        DatasetError: a visibility is none of 0, 1 and 2, or a labelled keypoint lies outside the image, or outside the box
            where that is refused.
    """
    unknown = ~np.isin(xyv[:, 2], [0, 1, 2])
    if unknown.any():
        number = int(unknown.argmax())
        raise DatasetError(f"keypoint {scheme.names[number]}: expected visibility 0, 1 or 2, got {xyv[number, 2]:g}")
    labelled = np.asarray(xyv[:, 2] > 0)
    indices = spec.keypoint_origin == "pixel_index" or (spec.keypoint_origin is None and spec.kind == "coco")
    points = np.where(labelled[:, None], xyv[:, :2] + (0.5 if indices else 0.0), 0.0)
    height, width = image_hw
    _refuse_outside(points, labelled, np.array([0.0, 0.0, width, height]), scheme, "image")
    if spec.keypoints_outside_box == "fail":
        _refuse_outside(points, labelled, box_xyxy + _MARGIN_XYXY, scheme, "box")
    elif spec.keypoints_outside_box == "drop":
        labelled = np.asarray(labelled & ~_outside(points, box_xyxy + _MARGIN_XYXY))
    if not labelled.any():
        return None
    return np.where(labelled[:, None], np.column_stack([points, xyv[:, 2]]), 0.0)


def _outside(points: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(((points < box[:2]) | (points > box[2:])).any(axis=1))


def _refuse_outside(
    points: NDArray[np.float64], labelled: NDArray[np.bool_], box: NDArray[np.float64], scheme: KeypointScheme, what: str
) -> None:
    wrong = labelled & _outside(points, box)
    if wrong.any():
        number = int(wrong.argmax())
        raise DatasetError(
            f"keypoint {scheme.names[number]}: expected a position inside the {what} {box.tolist()}, got "
            f"{points[number].tolist()}"
        )
