"""Average precision of whole poses by object keypoint similarity (OKS): pycocotools judges, images are resampled here.

What pycocotools finds image by image is ranked again, by its own rules (101 levels of recall, 20 detections an image), so that
scores are its scores and come with intervals. pycocotools is imported only when it is asked for.

Source: the COCO keypoint challenge, https://cocodataset.org/#keypoints-eval.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypercolumns.errors import MetricError
from hypercolumns.metrics.ranking import Ranking, mean_over

__all__ = ["THRESHOLDS", "OksScores", "score_oks"]

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""Similarities 0.5, 0.55 … 0.95."""

_MOST_DETECTIONS = 20
_KEYPOINTS = 17


@dataclass(frozen=True)
class OksScores:
    """Average precision of poses: scores and intervals by `hypercolumns.metrics.ranking`.

    Attributes:
        images: How many images.
        rankings: By OKS threshold and category name.
    """

    images: int
    rankings: dict[float, dict[str, Ranking]]

    @property
    def protocol(self) -> str:
        """What has to be said beside every number."""
        return "OKS: COCO's average precision, 101 levels of recall, all areas, at most 20 detections an image"

    def summarise(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return `oks_ap` (mean over 0.5 … 0.95), `oks_ap@T`, for weighted sets of images."""
        scores = {
            f"oks_ap@{threshold:g}": mean_over([r.average_precision(weights) for r in rankings.values()], len(weights))
            for threshold, rankings in self.rankings.items()
        }
        return {"oks_ap": mean_over(list(scores.values()), len(weights)), **scores}


def score_oks(truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> OksScores:
    """Score poses of COCO's 17 keypoints as COCO does.

    Args:
        truth: A COCO keypoint data set as read from JSON: images, categories, annotations.
        detections: COCO results: image_id, category_id, keypoints (x, y, v, …), score.

    Raises:
        MetricError: pycocotools is not installed, a record lacks something, an image or category is not in the data set, or
            a number is not finite.
    """
    coco, evaluation = (_pycocotools(name) for name in ("coco", "cocoeval"))
    _check(truth, detections)
    # pycocotools writes into what it is given, and takes an annotation whose number is 0 for none.
    data = copy.deepcopy(dict(truth))
    for number, annotation in enumerate(data["annotations"], start=1):
        annotation["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO()
        known.dataset = data
        known.createIndex()
        found = known.loadRes([dict(detection) for detection in copy.deepcopy(list(detections))]) if detections else coco.COCO()
        judge = evaluation.COCOeval(known, found, "keypoints")
        judge.params.areaRng, judge.params.areaRngLbl = judge.params.areaRng[:1], ["all"]
        judge.params.maxDets = [_MOST_DETECTIONS]
        judge.evaluate()
    return _ranked(judge.evalImgs, judge.params.imgIds, {c["id"]: c["name"] for c in data["categories"]})


def _ranked(judged: Sequence[Any], images: Sequence[int], categories: Mapping[int, str]) -> OksScores:
    place = {int(image): number for number, image in enumerate(images)}
    rankings: dict[float, dict[str, Ranking]] = {threshold: {} for threshold in THRESHOLDS}
    for category, name in sorted(categories.items()):
        own = [found for found in judged if found is not None and found["category_id"] == category]
        positives = np.zeros(len(images), np.int64)
        for found in own:
            positives[place[int(found["image_id"])]] = int((np.asarray(found["gtIgnore"]) == 0).sum())
        if not positives.any():
            continue
        for number, threshold in enumerate(THRESHOLDS):
            lines = [
                (
                    place[int(found["image_id"])],
                    np.asarray(found["dtScores"], np.float64),
                    found["dtMatches"][number] > 0,
                    found["dtIgnore"][number].astype(np.bool_),
                )
                for found in own
            ]
            rankings[threshold][name] = Ranking.of(lines, positives.tolist(), "101-point")
    return OksScores(len(images), rankings)


def _pycocotools(name: str) -> Any:
    try:
        return importlib.import_module(f"pycocotools.{name}")
    except ImportError as error:
        raise MetricError("expected pycocotools, to score poses by OKS; install it with: pip install pycocotools") from error


def _check(truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> None:
    missing = [key for key in ("images", "categories", "annotations") if key not in truth]
    if missing:
        raise MetricError(f"expected a COCO data set with images, categories and annotations, got none of {', '.join(missing)}")
    images, categories = ({entry["id"] for entry in truth[key]} for key in ("images", "categories"))
    if not images:
        raise MetricError("expected at least one image, got none")
    for number, detection in enumerate(detections):
        lacking = [key for key in ("image_id", "category_id", "keypoints", "score") if key not in detection]
        if lacking or len(detection["keypoints"]) != 3 * _KEYPOINTS:
            raise MetricError(
                f"detection {number}: expected image_id, category_id, score and keypoints of {3 * _KEYPOINTS} numbers, got "
                + (f"no {lacking[0]}" if lacking else f"{len(detection['keypoints'])} numbers")
            )
        if detection["image_id"] not in images or detection["category_id"] not in categories:
            raise MetricError(
                f"detection {number}: expected an image and a category of the data set, got image {detection['image_id']} "
                f"and category {detection['category_id']}"
            )
        if not np.isfinite([detection["score"], *detection["keypoints"]]).all():
            raise MetricError(f"detection {number}: expected a finite score and finite keypoints, got others")
