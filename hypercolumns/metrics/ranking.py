"""Ranked detections: average precision, for the full set of images and for any number of resampled ones at once.

What is ranked has been judged before, image by image, and that does not change when images are drawn again: a set is a weight
for each image, how often it was drawn. Scores of all kinds of detections come from here, and so do their intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hypercolumns.errors import MetricError
from hypercolumns.metrics.bootstrap import draws, percentile_interval

__all__ = ["Area", "Ranking", "Summary", "full_scores", "intervals", "mean_over", "paired_difference"]

Area = Literal["curve", "101-point"]
"""How the monotone precision-recall curve is measured: its area, or precision at 101 levels of recall as COCO's."""

_BLOCK_NUMBERS = 4_000_000


class Summary(Protocol):
    """Anything that can be scored on a weighted set of images."""

    @property
    def images(self) -> int:
        """How many images there are."""
        ...

    def summarise(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return every score (sets,) for weights (sets, images), NaN where it is not defined."""
        ...


@dataclass(frozen=True)
class Ranking:
    """Judged detections of one kind, best first, and how many objects there are to find.

    Attributes:
        image: Image of each detection (d,).
        hit: Whether it found an object (d,).
        positives: Objects to find in each image (images,).
        area: How the curve is measured.
    """

    image: NDArray[np.int64]
    hit: NDArray[np.bool_]
    positives: NDArray[np.int64]
    area: Area = "curve"

    @classmethod
    def of(
        cls,
        judged: Iterable[tuple[int, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_]]],
        positives: Sequence[int],
        area: Area = "curve",
    ) -> Ranking:
        """Rank judged detections by score; equal scores stay in the order of images, and of detections in them.

        Args:
            judged: Image number, scores, hits, and what is to be left out, of some images' detections.
            positives: Objects to find in each image.
            area: How the curve is measured.
        """
        found = [(np.full(len(s), number, np.int64), s, hit, out) for number, s, hit, out in judged]
        if not found:
            nothing = np.empty(0, np.int64)
            return cls(nothing, nothing.astype(np.bool_), np.asarray(positives, np.int64), area)
        image, scores, hit, out = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(-scores.astype(np.float64), kind="stable")
        order = order[~out[order]]
        return cls(image[order], hit[order].astype(np.bool_), np.asarray(positives, np.int64), area)

    def average_precision(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the average precision (sets,) of sets of images (sets, images); NaN where a set has no object to find."""
        rows = max(1, _BLOCK_NUMBERS // max(1, len(self.image)))
        blocks = [self._block(weights[start : start + rows]) for start in range(0, len(weights), rows)]
        return np.concatenate(blocks)

    def _block(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        total = weights @ self.positives.astype(np.float64)
        # An image drawn twice has its detections twice: neighbours in the ranking, so that one step of two is the same.
        steps = weights[:, self.image]
        gained = steps * self.hit
        found, ranked = gained.cumsum(axis=1), steps.cumsum(axis=1)
        precision = np.divide(found, ranked, out=np.zeros_like(found), where=ranked > 0)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        safe = np.where(total > 0, total, 1)
        if self.area == "curve":
            area = (gained * envelope).sum(axis=1) / safe
        else:
            area = np.array([_at_recalls(*line) for line in zip(found / safe[:, None], envelope, strict=True)])
        return np.where(total > 0, area, np.nan)


def _at_recalls(recall: NDArray[np.float64], envelope: NDArray[np.float64]) -> float:
    places = np.searchsorted(recall, np.linspace(0.0, 1.0, 101), side="left")
    return float(np.append(envelope, 0.0)[places].mean())


def mean_over(values: Sequence[NDArray[np.float64]], sets: int) -> NDArray[np.float64]:
    """Average scores (sets,) over what is defined in each set; NaN where nothing is."""
    stacked = np.array(values).reshape(len(values), sets)
    defined = ~np.isnan(stacked)
    count = defined.sum(axis=0)
    return np.where(count > 0, np.where(defined, stacked, 0).sum(axis=0) / np.maximum(count, 1), np.nan)


def full_scores(summary: Summary) -> dict[str, float | None]:
    """Return every score on all images; None where it is not defined."""
    values = summary.summarise(np.ones((1, summary.images)))
    return {name: None if np.isnan(value[0]) else float(value[0]) for name, value in values.items()}


def intervals(
    summary: Summary, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return percentile bootstrap intervals over images of every score.

    Sets in which a score is not defined say nothing about it; a name is left out where no set defines it, and all are for
    fewer than two images.

    Args:
        summary: What is scored.
        resamples: How many times as many images are drawn with replacement.
        confidence: Level of the intervals, in (0, 1).
        seed: Seed of the draws.

    Raises:
        MetricError: a parameter is out of range.
    """
    _check(resamples, confidence)
    if summary.images < 2:
        return {}
    replicates = _replicates(summary, resamples, seed)
    tail = 50.0 * (1.0 - confidence)
    return {name: percentile_interval(values, tail) for name, values in replicates.items() if not np.isnan(values).all()}


def paired_difference(
    first: Summary,
    second: Summary,
    name: str,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """Compare two predictors on the same images, drawn together: how much better the first one is, and how surely.

    Returns:
        `difference` (first minus second, on the full set), `low` and `high` (its interval), and `probability_better` (share
        of the sets in which the first one is better; a tie counts half).

    Raises:
        MetricError: they have other images or no such score, there are fewer than two images, or a parameter is out of range.
    """
    _check(resamples, confidence)
    if first.images != second.images or first.images < 2:
        raise MetricError(f"expected two results on the same two or more images, got {first.images} and {second.images}")
    full = [full_scores(summary) for summary in (first, second)]
    if any(scores.get(name) is None for scores in full):
        raise MetricError(f"expected a score that both define, one of {', '.join(full[0])}, got {name!r}")
    differences = _replicates(first, resamples, seed)[name] - _replicates(second, resamples, seed)[name]
    defined = differences[~np.isnan(differences)]
    if not len(defined):
        raise MetricError("expected a drawn set that defines the score, got none; draw more sets or label more images")
    low, high = percentile_interval(defined, 50.0 * (1.0 - confidence))
    return {
        "difference": float(full[0][name] or 0.0) - float(full[1][name] or 0.0),
        "low": low,
        "high": high,
        "probability_better": float(((defined > 0) + 0.5 * (defined == 0)).mean()),
    }


def _check(resamples: int, confidence: float) -> None:
    if resamples < 1:
        raise MetricError(f"expected at least one resample, got {resamples}")
    if not 0.0 < confidence < 1.0:
        raise MetricError(f"expected a confidence between 0 and 1, got {confidence}")


def _replicates(summary: Summary, resamples: int, seed: int) -> dict[str, NDArray[np.float64]]:
    parts = [summary.summarise(weights) for weights in draws(summary.images, resamples, seed)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
