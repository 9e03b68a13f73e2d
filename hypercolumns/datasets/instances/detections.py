"""Scored class boxes, as a detector gives them: what the heads inside boxes are run on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hypercolumns.boxes import non_maximum_suppression
from hypercolumns.errors import GeometryError

__all__ = ["Detections", "suppressed"]


@dataclass(frozen=True, eq=False)
class Detections:
    """One image's detections.

    Attributes:
        boxes_xyxy: Boxes (n, 4), float64, inside the image and with an area.
        scores: Scores (n,), float64, finite.
        labels: Classes (n,), int64: places in the data set's `classes`.
        sources: The instance that a box was made from (n,), int64: its place in the image's `instances`, -1 for none.

    Raises:
        GeometryError: shapes disagree, or a score is not finite.
    """

    boxes_xyxy: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    sources: NDArray[np.int64]

    def __post_init__(self) -> None:
        count = len(self.boxes_xyxy)
        shapes = [np.shape(part) for part in (self.boxes_xyxy, self.scores, self.labels, self.sources)]
        if shapes != [(count, 4), (count,), (count,), (count,)]:
            raise GeometryError(f"expected boxes (n, 4), scores, labels and sources (n,), got {shapes}")
        if not np.isfinite(self.scores).all():
            first = int(np.flatnonzero(~np.isfinite(self.scores))[0])
            raise GeometryError(f"detection {first}: expected a finite score, got {self.scores[first]}")

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    def select(self, chosen: NDArray[np.int64]) -> Detections:
        """Return some of the detections, in that order."""
        return Detections(self.boxes_xyxy[chosen], self.scores[chosen], self.labels[chosen], self.sources[chosen])

    @classmethod
    def none(cls) -> Detections:
        """Return no detections."""
        return cls(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))


def suppressed(
    detections: Detections, *, most_iou: float = 0.3, most_boxes: int | None = None, min_score: float | None = None
) -> Detections:
    """Leave out the boxes that overlap a better one of their class too much; what is left comes best first.

    Args:
        detections: One image's.
        most_iou: Overlap (IoU) with a better box of the class that is still allowed.
        most_boxes: Boxes to keep, over all classes; None keeps all.
        min_score: Boxes below this score go first.

    Raises:
        GeometryError: the boxes are not boxes, or the limit is out of range.
    """
    kept: list[int] = []
    allowed = np.ones(len(detections), np.bool_) if min_score is None else detections.scores >= min_score
    for label in np.unique(detections.labels):
        own = np.flatnonzero((detections.labels == label) & allowed)
        kept += own[non_maximum_suppression(detections.boxes_xyxy[own], detections.scores[own], most_iou)].tolist()
    numbers = np.array(sorted(kept), np.int64)
    best_first = numbers[np.argsort(-detections.scores[numbers], kind="stable")]
    return detections.select(best_first[:most_boxes])
