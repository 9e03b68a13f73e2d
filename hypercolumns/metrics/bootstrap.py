"""How sure a score is: percentile bootstrap over images.

Images are drawn, not pixels, because the pixels of one image are not independent. Only sums of confusion matrices are
resampled; nothing here sees an image or a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypercolumns.errors import MetricError
from hypercolumns.metrics.segmentation import METRICS, check_matrix, score, summarise

__all__ = ["bootstrap_intervals", "paired_bootstrap", "paired_class_intervals"]

_BLOCK_NUMBERS = 4_000_000  # drawn image indices held at once: 32 MB


def bootstrap_intervals(
    matrices: NDArray[Any], class_names: Sequence[str], *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return percentile intervals of the four scores and of every present class's IU.

    The classes are those present in the full set. A replicate in which a class has no ground-truth pixel says nothing about
    that class: it is skipped in the class's own interval, and the replicate's means run over the classes it does have.

    Args:
        matrices: one confusion matrix an image, (images, classes, classes), rows truth.
        class_names: the classes' names, in label order.
        resamples: how many times as many images are drawn with replacement.
        confidence: level of the intervals, in (0, 1).
        seed: seed of the draws.

    Returns:
        (low, high) under each name of `METRICS` and under `iu/CLASS` for each present class; a name is left out when no
        replicate defines it. Empty for fewer than two images, from which no spread can be had.

    Raises:
        MetricError: the matrices do not fit the names, nothing is labelled, or a parameter is out of range.
    """
    matrices = _check(matrices, class_names, resamples, confidence)
    if len(matrices) < 2:
        return {}
    iu, scores = _replicates(matrices, resamples, seed)
    tail = 50.0 * (1.0 - confidence)
    replicates = {name: scores[name] for name in METRICS}
    replicates |= {f"iu/{name}": iu[:, index] for index, name in enumerate(class_names)}
    return {name: percentile_interval(values, tail) for name, values in replicates.items() if not np.isnan(values).all()}


def paired_bootstrap(
    matrices_a: NDArray[Any],
    matrices_b: NDArray[Any],
    class_names: Sequence[str],
    *,
    metric: str = "mean_iu",
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """Compare two predictors on the same images: how much better the first one is, and how surely.

    Both are scored on the same drawn images each time, so that what is hard for both cancels out.

    Args:
        matrices_a: confusion matrices of the first predictor, (images, classes, classes), rows truth.
        matrices_b: confusion matrices of the second one, of the same images in the same order.
        class_names: the classes' names, in label order.
        metric: which of `METRICS` to compare.
        resamples: how many times as many images are drawn with replacement.
        confidence: level of the interval, in (0, 1).
        seed: seed of the draws.

    Returns:
        `difference` (first minus second, on the full set), `low` and `high` (its interval), and `probability_better` (share
        of the replicates in which the first one is better; a tie counts half).

    Raises:
        MetricError: the two were not scored on the same truth, there are fewer than two images, or a parameter is out of range.
    """
    if metric not in METRICS:
        raise MetricError(f"expected one of {', '.join(METRICS)}, got {metric!r}")
    first, second = _check_pair(matrices_a, matrices_b, class_names, resamples, confidence)
    differences = _replicates(first, resamples, seed)[1][metric] - _replicates(second, resamples, seed)[1][metric]
    defined = differences[~np.isnan(differences)]
    if not len(defined):
        raise MetricError("expected a replicate with labelled pixels, got none; draw more resamples or label more images")
    low, high = percentile_interval(defined, 50.0 * (1.0 - confidence))
    full_a, full_b = (getattr(score(matrices, class_names), metric) for matrices in (first, second))
    return {
        "difference": full_a - full_b,
        "low": low,
        "high": high,
        "probability_better": float(((defined > 0) + 0.5 * (defined == 0)).mean()),
    }


def paired_class_intervals(
    matrices_a: NDArray[Any],
    matrices_b: NDArray[Any],
    class_names: Sequence[str],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return, per class, the interval of how much higher the first predictor's IU is than the second's on the same images.

    A replicate in which a class has no ground-truth pixel says nothing about it and is skipped.

    Args:
        matrices_a: confusion matrices of the first predictor, (images, classes, classes), rows truth.
        matrices_b: confusion matrices of the second one, of the same images in the same order.
        class_names: the classes' names, in label order.
        resamples: how many times as many images are drawn with replacement.
        confidence: level of the intervals, in (0, 1).
        seed: seed of the draws.

    Returns:
        (low, high) of each class that has a ground-truth pixel in some replicate.

    Raises:
        MetricError: the two were not scored on the same truth, there are fewer than two images, or a parameter is out of range.
    """
    first, second = _check_pair(matrices_a, matrices_b, class_names, resamples, confidence)
    differences = _replicates(first, resamples, seed)[0] - _replicates(second, resamples, seed)[0]
    tail = 50.0 * (1.0 - confidence)
    columns = zip(class_names, differences.T, strict=True)
    return {name: percentile_interval(column, tail) for name, column in columns if not np.isnan(column).all()}


def _check_pair(
    matrices_a: NDArray[Any], matrices_b: NDArray[Any], class_names: Sequence[str], resamples: int, confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first = _check(matrices_a, class_names, resamples, confidence)
    second = _check(matrices_b, class_names, resamples, confidence)
    if first.shape != second.shape or not np.allclose(first.sum(axis=2), second.sum(axis=2), rtol=1e-9, atol=1e-6):
        raise MetricError(
            "expected two predictors scored on the same images in the same order, got different true pixels; "
            "score both by one protocol"
        )
    if len(first) < 2:
        raise MetricError(f"expected at least two images to resample, got {len(first)}")
    return first, second


def _check(matrices: NDArray[Any], class_names: Sequence[str], resamples: int, confidence: float) -> NDArray[np.float64]:
    checked = check_matrix(matrices, class_names)
    if checked.ndim != 3:
        raise MetricError(f"expected one matrix an image, (images, classes, classes), got shape {checked.shape}")
    if not checked.any():
        raise MetricError("expected at least one labelled pixel, got none: every pixel is void, or there are no images")
    if resamples < 1:
        raise MetricError(f"expected at least one resample, got {resamples}")
    if not 0.0 < confidence < 1.0:
        raise MetricError(f"expected a confidence between 0 and 1, got {confidence}")
    return checked.astype(np.float64)  # exact up to 2**53 pixels, and multiplied by BLAS


def _replicates(matrices: NDArray[np.float64], resamples: int, seed: int) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """Score every resampled set; the scores need no more of a matrix than its diagonal and its two sums."""
    parts = np.diagonal(matrices, axis1=1, axis2=2), matrices.sum(axis=2), matrices.sum(axis=1)
    columns = np.concatenate(parts, axis=1)
    drawn = np.concatenate([weights @ columns for weights in draws(len(matrices), resamples, seed)])
    hits, truth, predicted = np.split(drawn, 3, axis=1)
    return summarise(hits, truth, predicted)


def draws(images: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield blocks of (replicates, images) weights: how often each image was drawn."""
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_NUMBERS // images)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        chosen = generator.integers(0, images, size=(rows, images)) + images * np.arange(rows)[:, None]
        yield np.bincount(chosen.ravel(), minlength=rows * images).reshape(rows, images).astype(np.float64)


def percentile_interval(replicates: NDArray[Any], tail_percent: float) -> tuple[float, float]:
    """Return the percentile interval of the replicates that are defined."""
    low, high = np.nanpercentile(replicates, [tail_percent, 100.0 - tail_percent])
    return float(low), float(high)
