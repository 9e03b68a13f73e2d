"""Part IU: how well each part of each class is labelled inside true boxes, for weighted sets of images.

Source: Everingham et al., "The PASCAL visual object classes challenge", IJCV 2010, sec. 4.3 (intersection over union).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hypercolumns.metrics.ranking import mean_over

__all__ = ["PartScores"]


@dataclass(frozen=True)
class PartScores:
    """Confusion of parts by class; what lies outside the object is counted (number 0), not scored.

    Attributes:
        classes: Name and parts' names of each class.
        matrices: Of each class, for every image (images, P+1, P+1), rows truth.
    """

    classes: tuple[tuple[str, tuple[str, ...]], ...]
    matrices: tuple[NDArray[np.int64], ...]

    @property
    def images(self) -> int:
        """How many images there are."""
        return len(self.matrices[0]) if self.matrices else 0

    @property
    def protocol(self) -> str:
        """What has to be said beside every number."""
        return "part IU: one confusion matrix a class, outside counted but not averaged, mean over parts, then over classes"

    def summarise(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return `part_iou` (mean over classes), `part_iou/CLASS` and `part_iou/CLASS: PART` for weighted sets of images."""
        by_class: dict[str, NDArray[np.float64]] = {}
        by_part: dict[str, NDArray[np.float64]] = {}
        for (name, parts), matrices in zip(self.classes, self.matrices, strict=True):
            sums = np.tensordot(weights, matrices, axes=1)
            hits, truth, found = np.diagonal(sums, axis1=1, axis2=2), sums.sum(axis=2), sums.sum(axis=1)
            union = truth + found - hits
            # A part without a true pixel takes no part, even where it was predicted.
            iou = np.divide(hits, union, out=np.full(hits.shape, np.nan), where=truth > 0)[:, 1:]
            by_class[f"part_iou/{name}"] = mean_over(list(iou.T), len(weights))
            by_part |= {f"part_iou/{name}: {part}": iou[:, number] for number, part in enumerate(parts)}
        return {"part_iou": mean_over(list(by_class.values()), len(weights)), **by_class, **by_part}
