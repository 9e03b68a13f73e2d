"""Means of a number per object, such as the overlap of a mask with its instance: by class, and over the classes.

What matters of an image are sums and counts; scores and intervals come from `hypercolumns.metrics.ranking`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypercolumns.errors import MetricError
from hypercolumns.metrics.ranking import Summary, mean_over

__all__ = ["MeanOf", "MeanScores", "box_mask_iou", "score_means"]


@dataclass(frozen=True)
class MeanScores:
    """Sums and counts of a number by image and class.

    Attributes:
        name: What is averaged.
        class_names: The classes' names.
        sums: (images, classes).
        counts: (images, classes).
    """

    name: str
    class_names: tuple[str, ...]
    sums: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def images(self) -> int:
        """How many images there are."""
        return len(self.counts)

    def summarise(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return `NAME` (mean over classes), `NAME/all` (over objects) and `NAME/CLASS` for weighted sets of images."""
        totals, counts = weights @ self.sums, weights @ self.counts
        by_class = _share(totals, counts)
        present = self.counts.sum(axis=0) > 0
        scores = {
            self.name: mean_over(list(by_class.T), len(weights)),
            f"{self.name}/all": _share(totals.sum(axis=1), counts.sum(axis=1)),
        }
        return scores | {
            f"{self.name}/{name}": by_class[:, number] for number, name in enumerate(self.class_names) if present[number]
        }


@dataclass(frozen=True)
class MeanOf:
    """The mean over classes of scores that were made class by class.

    Attributes:
        members: Scores of the same images, by class.
    """

    members: Mapping[str, Summary]

    @property
    def images(self) -> int:
        """How many images there are."""
        return next(iter(self.members.values())).images

    @property
    def protocol(self) -> str:
        """What has to be said beside every number."""
        said = [str(getattr(each, "protocol", "")) for each in self.members.values()]
        return "; ".join(["mean over classes", *dict.fromkeys(said)])

    def summarise(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return each score's mean over the classes, `SCORE/CLASS`, and `SCORE/CLASS: REST` of what has a rest already."""
        found = {name: member.summarise(weights) for name, member in self.members.items()}
        heads = dict.fromkeys(score for scores in found.values() for score in scores if "/" not in score)
        means = {head: mean_over([scores[head] for scores in found.values() if head in scores], len(weights)) for head in heads}
        parts = {
            f"{score}/{name}" if "/" not in score else score.replace("/", f"/{name}: ", 1): values
            for name, scores in found.items()
            for score, values in scores.items()
        }
        return means | parts


def _share(totals: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    share: NDArray[np.float64] = np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0)
    return share


def score_means(
    name: str,
    values: NDArray[Any],
    labels: NDArray[np.int64],
    image: NDArray[np.int64],
    images: int,
    class_names: Sequence[str],
) -> MeanScores:
    """Sum up numbers of objects.

    Args:
        name: What they are.
        values: One an object (n,), finite.
        labels: Class of each object (n,).
        image: Number of each object's image (n,).
        images: How many images there are.
        class_names: The classes' names.

    Raises:
        MetricError: lengths disagree, or a number is out of range.
    """
    values, labels, image = np.asarray(values, np.float64), np.asarray(labels, np.int64), np.asarray(image, np.int64)
    shape = (len(values),)
    if values.shape != shape or labels.shape != shape or image.shape != shape or not np.isfinite(values).all():
        raise MetricError(f"expected finite values, labels and images of {len(values)} objects, got others")
    for what, numbers, limit in (("labels", labels, len(class_names)), ("images", image, images)):
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= limit):
            raise MetricError(f"expected {what} in 0..{limit - 1}, got {int(numbers.min())} to {int(numbers.max())}")
    sums, counts = np.zeros((images, len(class_names))), np.zeros((images, len(class_names)), np.int64)
    np.add.at(sums, (image, labels), values)
    np.add.at(counts, (image, labels), 1)
    return MeanScores(name, tuple(class_names), sums, counts)


def box_mask_iou(predicted: NDArray[np.bool_], truth: NDArray[np.bool_], window: tuple[slice, slice]) -> float:
    """Return the overlap of two masks (H, W) of an image inside a window of it: 1 where both are empty there."""
    first, second = predicted[window], truth[window]
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0
