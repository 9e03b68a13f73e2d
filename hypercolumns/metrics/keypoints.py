"""Keypoints inside boxes: PCK where the box is given, APK where it is detected. Similarity of whole poses is `metrics.oks`.

Both call a point right when it lies within α times a scale of the truth: the box's longer side, as returned by
`hypercolumns.boxes.longer_sides`, or the torso's length. Keypoints that are not annotated take no part.

Source: Yang and Ramanan, "Articulated human detection with flexible mixtures of parts", PAMI 2013, sec. 6 (PCK, APK).
Deviation: average precision is the area under the monotone precision-recall curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypercolumns.errors import MetricError
from hypercolumns.metrics.ranking import Ranking, mean_over

__all__ = ["ApkScores", "PckScores", "PoseImage", "score_apk", "score_pck", "torso_scales"]


def torso_scales(truth: NDArray[Any], labelled: NDArray[np.bool_], ends: tuple[int, int]) -> NDArray[np.float64]:
    """Return the distance between two annotated keypoints of each pose, such as left shoulder and right hip; else NaN.

    Args:
        truth: Keypoints (n, K, 2) as x, y.
        labelled: Which are annotated (n, K).
        ends: Numbers of the two keypoints.

    Raises:
        MetricError: shapes disagree, or there are no such keypoints.
    """
    _check_poses("truth", truth, labelled, labelled.shape[-1])
    if not all(0 <= end < labelled.shape[1] for end in ends):
        raise MetricError(f"expected two keypoints in 0..{labelled.shape[1] - 1}, got {ends}")
    lengths = np.hypot(*(truth[:, ends[0]] - truth[:, ends[1]]).astype(np.float64).T)
    scales: NDArray[np.float64] = np.where(labelled[:, list(ends)].all(axis=1) & (lengths > 0), lengths, np.nan)
    return scales


@dataclass(frozen=True)
class PckScores:
    """Right and annotated keypoints: scores and intervals by `hypercolumns.metrics.ranking`.

    Attributes:
        names: The keypoints' names.
        alphas: The tolerances α.
        right: Right keypoints of each image (images, alphas, K).
        labelled: Annotated keypoints of each image (images, K).
        left_out: Poses without a scale, which are not counted.
    """

    names: tuple[str, ...]
    alphas: tuple[float, ...]
    right: NDArray[np.int64]
    labelled: NDArray[np.int64]
    left_out: int

    @property
    def images(self) -> int:
        """How many images there are."""
        return len(self.right)

    @property
    def protocol(self) -> str:
        """What has to be said beside every number."""
        return f"PCK: distance ≤ α·scale, mean over keypoints; {self.left_out} poses without a scale left out"

    def summarise(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return `pck@A` (mean over keypoints) and `pck@A/KEYPOINT` for weighted sets of images."""
        scores: dict[str, NDArray[np.float64]] = {}
        total = weights @ self.labelled
        for number, alpha in enumerate(self.alphas):
            share = np.divide(weights @ self.right[:, number], total, out=np.full(total.shape, np.nan), where=total > 0)
            scores[f"pck@{alpha:g}"] = mean_over(list(share.T), len(weights))
            scores |= {f"pck@{alpha:g}/{name}": values for name, values in zip(self.names, share.T, strict=True)}
        return scores


def score_pck(
    predicted: NDArray[Any],
    truth: NDArray[Any],
    labelled: NDArray[np.bool_],
    scales: NDArray[Any],
    image: NDArray[Any],
    names: Sequence[str],
    *,
    alphas: Sequence[float] = (0.1,),
) -> PckScores:
    """Count the keypoints that lie within α·scale of the truth.

    Args:
        predicted: Keypoints (n, K, 2) as x, y of each pose whose box is given; one that is not predicted is NaN, and wrong.
        truth: Keypoints (n, K, 2).
        labelled: Which are annotated (n, K), hidden ones included if they are to count.
        scales: Scale of each pose (n,), > 0; NaN leaves the pose out.
        image: Number of each pose's image (n,), 0 … images-1.
        names: The keypoints' names.
        alphas: Tolerances, > 0.

    Raises:
        MetricError: shapes disagree, or a number is out of range.
    """
    _check_names(names, alphas)
    _check_poses("truth", truth, labelled, len(names))
    _check_poses("predicted", predicted, labelled, len(names), finite=False)
    scales, image = np.asarray(scales, np.float64), np.asarray(image)
    if scales.shape != (len(truth),) or image.shape != (len(truth),) or (scales <= 0).any() or np.isinf(scales).any():
        raise MetricError(f"expected a scale > 0 (or NaN) and an image for each of {len(truth)} poses, got others")
    if len(image) and (not np.issubdtype(image.dtype, np.integer) or image.min() < 0):
        raise MetricError("expected images as whole numbers from 0, got others")
    counted = labelled & ~np.isnan(scales)[:, None]
    distance = np.hypot(*np.moveaxis(predicted.astype(np.float64) - truth, -1, 0))
    within = [counted & (distance <= alpha * scales[:, None]) for alpha in alphas]
    images = int(image.max()) + 1 if len(image) else 0
    right, total = np.zeros((images, len(alphas), len(names)), np.int64), np.zeros((images, len(names)), np.int64)
    np.add.at(right, image, np.stack(within, axis=1).astype(np.int64))
    np.add.at(total, image, counted.astype(np.int64))
    return PckScores(tuple(names), tuple(alphas), right, total, int(np.isnan(scales).sum()))


@dataclass(frozen=True)
class PoseImage:
    """One image's detected poses and true ones.

    Attributes:
        image: Name of the image, for messages.
        points: Detected keypoints (d, K, 2) as x, y; NaN where a pose has none.
        scores: Score of each (d, K), finite where there is a point.
        truth: True keypoints (g, K, 2).
        labelled: Which are annotated (g, K).
        scales: Scale of each true pose (g,), > 0.
    """

    image: str
    points: NDArray[Any]
    scores: NDArray[Any]
    truth: NDArray[Any]
    labelled: NDArray[np.bool_]
    scales: NDArray[Any]


@dataclass(frozen=True)
class ApkScores:
    """Average precision of keypoints: scores and intervals by `hypercolumns.metrics.ranking`.

    Attributes:
        images: How many images.
        alphas: The tolerances α.
        keypoints: Annotated keypoints of each name.
        rankings: By tolerance and name; keypoints that are nowhere annotated have none.
    """

    images: int
    alphas: tuple[float, ...]
    keypoints: dict[str, int]
    rankings: dict[float, dict[str, Ranking]]

    @property
    def absent(self) -> tuple[str, ...]:
        """Keypoints that are nowhere annotated: they take no part in the means."""
        return tuple(name for name, count in self.keypoints.items() if count == 0)

    @property
    def protocol(self) -> str:
        """What has to be said beside every number."""
        return "APK: nearest keypoint of the image, wrong if found before; area under the monotone precision-recall curve"

    def summarise(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return `apk@A` (mean over keypoints) and `apk@A/KEYPOINT` for weighted sets of images."""
        scores: dict[str, NDArray[np.float64]] = {}
        for alpha, rankings in self.rankings.items():
            by_name = {name: ranking.average_precision(weights) for name, ranking in rankings.items()}
            scores[f"apk@{alpha:g}"] = mean_over(list(by_name.values()), len(weights))
            scores |= {f"apk@{alpha:g}/{name}": values for name, values in by_name.items()}
        return scores


def score_apk(images: Sequence[PoseImage], names: Sequence[str], *, alphas: Sequence[float] = (0.1,)) -> ApkScores:
    """Rank detected keypoints by score: a hit lies within α·scale of the nearest true one, if that was not found before.

    Args:
        images: All images, those without detections or poses too.
        names: The keypoints' names.
        alphas: Tolerances, > 0.

    Raises:
        MetricError: shapes disagree, or a number is out of range.
    """
    _check_names(names, alphas)
    for image in images:
        _check_image(image, len(names))
    rankings: dict[float, dict[str, Ranking]] = {alpha: {} for alpha in alphas}
    keypoints = {}
    for number, name in enumerate(names):
        counts = [int(image.labelled[:, number].sum()) for image in images]
        keypoints[name] = sum(counts)
        if keypoints[name]:
            for alpha in alphas:
                judged = [(place, *_judge(image, number, alpha)) for place, image in enumerate(images)]
                rankings[alpha][name] = Ranking.of(judged, counts)
    return ApkScores(len(images), tuple(alphas), keypoints, rankings)


def _judge(image: PoseImage, number: int, alpha: float) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return scores of an image's detections of a keypoint, which of them hit, and which are left out: none."""
    there = ~np.isnan(image.points[:, number]).any(axis=1)
    points, scores = image.points[there, number], image.scores[there, number]
    own = image.labelled[:, number]
    truth, scales = image.truth[own, number], np.asarray(image.scales, np.float64)[own]
    hit, free = np.zeros(len(points), np.bool_), np.ones(len(truth), np.bool_)
    for detection in np.argsort(-np.asarray(scores, np.float64), kind="stable") if len(truth) else ():
        distance = np.hypot(*(truth - points[detection]).astype(np.float64).T)
        nearest = int(distance.argmin())
        if distance[nearest] <= alpha * scales[nearest] and free[nearest]:
            hit[detection], free[nearest] = True, False
    return scores, hit, np.zeros(len(points), np.bool_)


def _check_names(names: Sequence[str], alphas: Sequence[float]) -> None:
    if not names or len(set(names)) != len(names):
        raise MetricError(f"expected distinct names of keypoints, at least one, got {list(names)}")
    if not alphas or not all(0 < alpha < np.inf for alpha in alphas):
        raise MetricError(f"expected tolerances > 0, at least one, got {list(alphas)}")


def _check_poses(what: str, points: NDArray[Any], there: NDArray[np.bool_], keypoints: int, *, finite: bool = True) -> None:
    """Check keypoints against their annotation; where they are annotated they have to be numbers."""
    expected = (len(points), keypoints)
    if np.shape(points) != (*expected, 2) or np.shape(there) != expected or np.asarray(there).dtype != np.bool_:
        raise MetricError(
            f"{what}: expected points {(*expected, 2)} and a boolean annotation {expected}, got {np.shape(points)} and "
            f"{np.asarray(there).dtype} {np.shape(there)}"
        )
    if finite and not np.isfinite(points[there]).all():
        raise MetricError(f"{what}: expected finite positions of annotated keypoints, got others")


def _check_image(image: PoseImage, keypoints: int) -> None:
    there = ~np.isnan(image.points).any(axis=-1)
    _check_poses(f"image {image.image}: points", image.points, there, keypoints)
    _check_poses(f"image {image.image}: truth", image.truth, image.labelled, keypoints)
    scales = np.asarray(image.scales, np.float64)
    if np.shape(image.scores) != there.shape or not np.isfinite(np.asarray(image.scores)[there]).all():
        raise MetricError(f"image {image.image}: expected a finite score for each point, got others")
    if scales.shape != (len(image.truth),) or not ((scales > 0) & np.isfinite(scales)).all():
        raise MetricError(f"image {image.image}: expected a scale > 0 for each true pose, got {scales.tolist()}")
