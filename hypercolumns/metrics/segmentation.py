"""Segmentation scores from one confusion matrix, and the trivial baselines that need no model.

The matrix is the only thing ever counted; every score is a ratio of its sums. Nothing here reads files or knows a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypercolumns.datasets.base import VOID
from hypercolumns.errors import MetricError

__all__ = ["METRICS", "SegmentationScores", "confusion_matrix", "expected_prior_matrix", "majority_matrix", "score"]

METRICS = ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu")

_LABELS = 256


@dataclass(frozen=True)
class SegmentationScores:
    """The four scores of Long et al., and what each class contributes to them.

    Attributes:
        pixel_accuracy: share of the labelled pixels that are right, in [0, 1].
        mean_accuracy: mean over the present classes of the share of a class's pixels that are right, in [0, 1].
        mean_iu: mean over the present classes of intersection over union, in [0, 1].
        frequency_weighted_iu: IU weighted by the classes' ground-truth pixels, in [0, 1].
        per_class_iu: IU of every class; None for a class without a ground-truth pixel.
        per_class_pixels: ground-truth pixels of every class.
        absent_classes: classes without a ground-truth pixel; they take no part in the means.
        images: how many images were counted.
    """

    pixel_accuracy: float
    mean_accuracy: float
    mean_iu: float
    frequency_weighted_iu: float
    per_class_iu: dict[str, float | None]
    per_class_pixels: dict[str, int]
    absent_classes: tuple[str, ...]
    images: int

    def to_json(self) -> dict[str, Any]:
        """Return the scores as plain JSON values."""
        return {**asdict(self), "absent_classes": list(self.absent_classes)}


def confusion_matrix(truth: NDArray[np.uint8], prediction: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Count how often each class was predicted as each class, void left out.

    Args:
        truth: labels, (height, width), uint8, each in [0, classes) or `VOID`.
        prediction: labels of the same shape, any integer type, each in [0, classes), also where the truth is void.
        classes: number of classes, 1 to 255.

    Returns:
        Pixels, (classes, classes), int64: rows are the truth, columns the prediction.

    Raises:
        MetricError: the shapes differ, a type is wrong, or a label is out of range.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    _check_labels(truth, prediction, classes)
    # One 16-bit key a pixel, a row for each of the 256 labels: void needs no mask, and wrong labels show in the counts.
    keys = truth.astype(np.uint16)
    keys *= np.uint16(classes)
    keys += prediction.astype(np.uint16)
    counts = np.bincount(keys.ravel(), minlength=_LABELS * classes).reshape(_LABELS, classes)
    foreign = np.flatnonzero(counts[classes:VOID].any(axis=1)) + classes
    if len(foreign):
        raise MetricError(
            f"expected true labels in 0..{classes - 1} or {VOID} (void), got {foreign.tolist()}; "
            "map them to void or name the classes"
        )
    return counts[:classes].astype(np.int64)


def _check_labels(truth: NDArray[Any], prediction: NDArray[Any], classes: int) -> None:
    if not 1 <= classes <= VOID:
        raise MetricError(f"expected 1 to {VOID} classes, got {classes}: label {VOID} is void")
    if truth.shape != prediction.shape:
        raise MetricError(
            f"expected a prediction of the truth's shape {truth.shape}, got {prediction.shape}; "
            "resample the logits to the label's size"
        )
    if truth.dtype != np.uint8:
        raise MetricError(f"expected a truth of uint8 labels, got {truth.dtype}")
    if not np.issubdtype(prediction.dtype, np.integer):
        raise MetricError(f"expected a prediction of integer labels, got {prediction.dtype}; take the argmax first")
    if prediction.size and (prediction.min() < 0 or prediction.max() >= classes):
        raise MetricError(
            f"expected predicted labels in 0..{classes - 1}, got {prediction.min()} to {prediction.max()}; "
            "void cannot be predicted"
        )


def score(matrix: NDArray[Any], class_names: Sequence[str], *, images: int | None = None) -> SegmentationScores:
    """Turn a confusion matrix into the four scores and the per-class IU.

    A class is absent when it has no ground-truth pixel: it is left out of the means, and named. Pixels predicted as such a
    class stay in the matrix, as errors of the classes they truly are.

    Args:
        matrix: pixels, (classes, classes), rows truth; or one such matrix an image, (images, classes, classes), to be summed.
        class_names: the classes' names, in label order.
        images: how many images a single matrix sums up; a single matrix is taken for one image, a stack counts itself.

    Raises:
        MetricError: the matrix does not fit the names, has impossible entries, or no labelled pixel at all.

    Source:
        Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation (arXiv 1605.06211), sec. 3.4.1.
        Deviation: the number of classes n_cl counts the classes that are present in the ground truth.
    """
    matrix = check_matrix(matrix, class_names)
    if matrix.ndim == 3:
        images, matrix = len(matrix), matrix.sum(axis=0)
    truth_pixels = matrix.sum(axis=1)
    if not truth_pixels.any():
        raise MetricError("expected at least one labelled pixel, got none: every pixel is void, or there are no images")
    iu, summary = summarise(np.diagonal(matrix), truth_pixels, matrix.sum(axis=0))
    return SegmentationScores(
        **{name: float(summary[name]) for name in METRICS},
        per_class_iu={name: None if np.isnan(value) else float(value) for name, value in zip(class_names, iu, strict=True)},
        per_class_pixels={name: round(float(count)) for name, count in zip(class_names, truth_pixels, strict=True)},
        absent_classes=tuple(name for name, count in zip(class_names, truth_pixels, strict=True) if count == 0),
        images=1 if images is None else images,
    )


def summarise(
    hits: NDArray[Any], truth_pixels: NDArray[Any], predicted_pixels: NDArray[Any]
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Compute per-class IU and the four scores from a matrix's diagonal and sums, for any number of matrices at once.

    Args:
        hits: diagonal of the matrices, (..., classes).
        truth_pixels: row sums, (..., classes).
        predicted_pixels: column sums, (..., classes).

    Returns:
        IU, (..., classes), NaN where a class is absent; and each of `METRICS`, (...), NaN where nothing is labelled.
    """
    present = truth_pixels > 0
    union = np.where(present, truth_pixels + predicted_pixels - hits, 1)
    recall = np.where(present, hits / np.where(present, truth_pixels, 1), np.nan)
    iu = np.where(present, hits / union, np.nan)
    count, total = present.sum(axis=-1), truth_pixels.sum(axis=-1)

    def ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> NDArray[np.float64]:
        defined = denominator > 0
        quotient: NDArray[np.float64] = np.where(defined, numerator / np.where(defined, denominator, 1), np.nan)
        return quotient

    return iu, {
        "pixel_accuracy": ratio(hits.sum(axis=-1), total),
        "mean_accuracy": ratio(np.nansum(recall, axis=-1), count),
        "mean_iu": ratio(np.nansum(iu, axis=-1), count),
        "frequency_weighted_iu": ratio(np.nansum(truth_pixels * iu, axis=-1), total),
    }


def check_matrix(matrix: NDArray[Any], class_names: Sequence[str]) -> NDArray[Any]:
    """Return the matrix, or the stack of matrices, as an array, checked against the names.

    Raises:
        MetricError: the names repeat, the shape does not fit them, or an entry is negative or not finite.
    """
    matrix, classes = np.asarray(matrix), len(class_names)
    if classes == 0 or len(set(class_names)) != classes:
        raise MetricError(f"expected distinct class names, at least one, got {list(class_names)}")
    if matrix.ndim not in (2, 3) or matrix.shape[-2:] != (classes, classes):
        raise MetricError(f"expected ({classes}, {classes}) pixels for {classes} class names, got shape {matrix.shape}")
    if not np.issubdtype(matrix.dtype, np.number) or not np.isfinite(matrix).all() or (matrix < 0).any():
        raise MetricError(f"expected pixel counts, finite and not negative, got {matrix.dtype} with other entries")
    return matrix


def expected_prior_matrix(truth_histogram: NDArray[Any], prior: NDArray[Any]) -> NDArray[np.float64]:
    """Return the expected confusion of guessing every pixel's class at random from a prior, without drawing anything.

    Args:
        truth_histogram: ground-truth pixels of each class, (classes,) or one such row an image, (images, classes).
        prior: probability of each class, (classes,), usually its share of the training pixels.

    Returns:
        Expected pixels, (classes, classes) or (images, classes, classes), float64: rows truth, columns guess.

    Raises:
        MetricError: the shapes disagree, or the prior is not a distribution.
    """
    histogram, prior = _check_histogram(truth_histogram), np.asarray(prior, dtype=np.float64)
    if prior.shape != histogram.shape[-1:]:
        raise MetricError(f"expected a prior of {histogram.shape[-1]} classes, got shape {prior.shape}")
    if not (prior >= 0).all() or not np.isclose(prior.sum(), 1.0, rtol=0, atol=1e-6):
        raise MetricError(f"expected probabilities that sum to 1, got a sum of {prior.sum():.6g}; divide by the sum")
    expected: NDArray[np.float64] = histogram[..., :, None] * prior
    return expected


def majority_matrix(truth_histogram: NDArray[Any], majority_class: int) -> NDArray[np.int64]:
    """Return the confusion of calling every pixel the same class.

    Args:
        truth_histogram: ground-truth pixels of each class, (classes,) or one such row an image, (images, classes).
        majority_class: the label given to every pixel, usually the most frequent one in the training pixels.

    Returns:
        Pixels, (classes, classes) or (images, classes, classes), int64: rows truth, columns prediction.

    Raises:
        MetricError: the histogram is not one, or there is no such class.
    """
    histogram = _check_histogram(truth_histogram).astype(np.int64)
    classes = histogram.shape[-1]
    if not 0 <= majority_class < classes:
        raise MetricError(f"expected a majority class in 0..{classes - 1}, got {majority_class}")
    matrix = np.zeros((*histogram.shape, classes), np.int64)
    matrix[..., majority_class] = histogram
    return matrix


def _check_histogram(truth_histogram: NDArray[Any]) -> NDArray[Any]:
    histogram = np.asarray(truth_histogram)
    if histogram.ndim not in (1, 2) or histogram.shape[-1] == 0 or (histogram < 0).any():
        raise MetricError(f"expected pixel counts of shape (classes,) or (images, classes), got shape {histogram.shape}")
    return histogram
