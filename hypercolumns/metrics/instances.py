"""AP^r and AP^b: ranked detections of instances, matched by the overlap of masks (r, regions) or boxes (b).

Detections and instances of an image come as a table of overlaps (`hypercolumns.metrics.overlaps`). Matching is greedy, best
score first, under one of three rules, because published numbers come from programs that differ:

- ``coco`` (default): the best instance not yet found, if the overlap is at least t; of equal overlaps the last instance.
- ``sds_matlab``: the best instance, found or not, if the overlap is at least t; if it was found before, the detection is wrong.
- ``sds_python``: the best instance not yet found, if the overlap is more than t.

A detection that finds nothing but overlaps a crowd as much (its share inside the crowd) is left out, under all three.

Source: Hariharan et al., "Simultaneous detection and segmentation", ECCV 2014, sec. 4 (AP^r, its volume). Deviation: average
precision is the area under the monotone precision-recall curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hypercolumns.errors import MetricError
from hypercolumns.metrics.overlaps import Overlaps
from hypercolumns.metrics.ranking import Ranking, mean_over

__all__ = ["VOLUME", "Evaluator", "InstanceScores", "match", "score_instances"]

Evaluator = Literal["coco", "sds_matlab", "sds_python"]

VOLUME = tuple(round(0.1 * step, 1) for step in range(1, 10))
"""The overlaps 0.1, 0.2 … 0.9 whose mean average precision is the volume under AP^r."""


def match(
    overlaps: NDArray[Any], scores: NDArray[Any], crowd: NDArray[np.bool_], threshold: float, evaluator: Evaluator = "coco"
) -> NDArray[np.int64]:
    """Match one image's detections of one class with its instances of that class.

    Args:
        overlaps: As of `Overlaps`, of that class alone (d, g).
        scores: (d,); equal ones are taken in the order given.
        crowd: (g,).
        threshold: t, in (0, 1].
        evaluator: The rule.

    Returns:
        The instance that each detection found or the crowd that it lies in (d,); -1 where it is wrong.
    """
    found = np.full(len(scores), -1, np.int64)
    free = ~crowd
    least = min(threshold, 1 - 1e-10)
    for detection in np.argsort(-np.asarray(scores, np.float64), kind="stable"):
        line = overlaps[detection]
        best = _best(line, ~crowd if evaluator == "sds_matlab" else free, evaluator == "coco")
        reached = best >= 0 and (line[best] > threshold if evaluator == "sds_python" else line[best] >= least)
        if reached and free[best]:
            found[detection], free[best] = best, False
        elif (in_crowd := _best(line, crowd, evaluator == "coco")) >= 0 and line[in_crowd] >= least:
            found[detection] = in_crowd
    return found


def _best(line: NDArray[Any], allowed: NDArray[np.bool_], last: bool) -> int:
    """Return the instance of the largest overlap among the allowed ones, the last or first of equals; -1 if there is none."""
    numbers = np.flatnonzero(allowed)
    if not len(numbers):
        return -1
    values = line[numbers]
    return int(numbers[len(values) - 1 - values[::-1].argmax()] if last else numbers[values.argmax()])


@dataclass(frozen=True)
class InstanceScores:
    """Average precision of matched detections, by class and threshold: scores and intervals by `hypercolumns.metrics.ranking`.

    Attributes:
        images: How many images.
        evaluator: The rule of matching.
        thresholds: The overlaps asked for.
        instances: Instances of every class, crowds not counted.
        rankings: By threshold and class name; classes without an instance have none.
    """

    images: int
    evaluator: Evaluator
    thresholds: tuple[float, ...]
    instances: dict[str, int]
    rankings: dict[float, dict[str, Ranking]]

    @property
    def absent_classes(self) -> tuple[str, ...]:
        """Classes without an instance: they take no part in the means."""
        return tuple(name for name, count in self.instances.items() if count == 0)

    @property
    def protocol(self) -> str:
        """What has to be said beside every number."""
        rule = {
            "coco": "best uncovered instance, overlap ≥ t",
            "sds_matlab": "best instance, wrong if covered, overlap ≥ t",
            "sds_python": "best uncovered instance, overlap > t",
        }
        return f"{self.evaluator}: {rule[self.evaluator]}; area under the monotone precision-recall curve"

    def summarise(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return `ap@T` and `ap@T/CLASS` for weighted sets of images, and `ap_volume` where all of `VOLUME` was asked for."""
        scores: dict[str, NDArray[np.float64]] = {}
        for threshold, rankings in self.rankings.items():
            by_class = {name: ranking.average_precision(weights) for name, ranking in rankings.items()}
            scores[f"ap@{threshold:g}"] = mean_over(list(by_class.values()), len(weights))
            scores |= {f"ap@{threshold:g}/{name}": values for name, values in by_class.items()}
        if set(VOLUME) <= set(self.thresholds):
            for tail in ["", *(f"/{name}" for name in self.rankings[VOLUME[0]])]:
                scores[f"ap_volume{tail}"] = np.mean([scores[f"ap@{threshold:g}{tail}"] for threshold in VOLUME], axis=0)
        return scores


def score_instances(
    images: Sequence[Overlaps],
    class_names: Sequence[str],
    *,
    thresholds: Sequence[float] = VOLUME,
    evaluator: Evaluator = "coco",
) -> InstanceScores:
    """Match and rank the detections of all images.

    Args:
        images: All images, those without detections or instances too.
        class_names: The classes' names, in label order.
        thresholds: Overlaps asked for, each in (0, 1].
        evaluator: The rule of matching.

    Raises:
        MetricError: a label has no name, or a parameter is out of range.
    """
    check_instances(images, class_names, thresholds, evaluator)
    rankings: dict[float, dict[str, Ranking]] = {threshold: {} for threshold in thresholds}
    instances = {}
    for label, name in enumerate(class_names):
        counts = [int(((image.truth_labels == label) & ~image.crowd).sum()) for image in images]
        instances[name] = sum(counts)
        if instances[name]:
            for threshold in thresholds:
                judged = [(number, *_judge(image, label, threshold, evaluator)) for number, image in enumerate(images)]
                rankings[threshold][name] = Ranking.of(judged, counts)
    return InstanceScores(len(images), evaluator, tuple(thresholds), instances, rankings)


def _judge(
    image: Overlaps, label: int, threshold: float, evaluator: Evaluator
) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return scores of the image's detections of a class, which of them hit, and which are left out."""
    own, truth = image.labels == label, image.truth_labels == label
    scores, crowd = image.scores[own], image.crowd[truth]
    found = match(image.overlaps[np.ix_(own, truth)], scores, crowd, threshold, evaluator)
    in_crowd = np.append(crowd, False)[found]
    return scores, (found >= 0) & ~in_crowd, in_crowd


def check_instances(
    images: Sequence[Overlaps], class_names: Sequence[str], thresholds: Sequence[float], evaluator: str
) -> None:
    """Check what matching is asked for.

    Raises:
        MetricError: a label has no name, or a parameter is out of range.
    """
    if evaluator not in get_args(Evaluator):
        raise MetricError(f"expected evaluator {', '.join(get_args(Evaluator))}, got {evaluator!r}")
    if not thresholds or not all(0 < threshold <= 1 for threshold in thresholds):
        raise MetricError(f"expected thresholds in (0, 1], at least one, got {list(thresholds)}")
    if not class_names or len(set(class_names)) != len(class_names):
        raise MetricError(f"expected distinct class names, at least one, got {list(class_names)}")
    for image in images:
        labels = np.concatenate([image.labels, image.truth_labels]).astype(np.int64)
        foreign = labels[(labels < 0) | (labels >= len(class_names))]
        if len(foreign):
            raise MetricError(f"image {image.image}: expected labels in 0..{len(class_names) - 1}, got {int(foreign[0])}")
