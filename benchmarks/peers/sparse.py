"""Peers that fit a classic classifier to sparse hypercolumns: logistic regression, a random forest, nearest neighbours.

They learn from the same balanced pixels as the project's sparse stage, with part of the class priors restored. A
val photograph is labelled at a grid of points; class scores are interpolated from it to the photograph's size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from benchmarks.peers.columns import Taps, at_points, on_grid
from benchmarks.peers.gradients import as_batch, fast_arithmetic, fast_dtype
from benchmarks.peers.ledger import begin, prediction_milliseconds
from benchmarks.peers.scene import CLASSES, IMAGE_HW, VOID, Scene, read_image, read_labels
from hypercolumns.allocator import keep_freed_memory
from hypercolumns.canvas import best_labels
from hypercolumns.read_ahead import read_ahead
from hypercolumns.sampling import sample_points
from hypercolumns.specs import SampleSpec

__all__ = ["main"]

_PIXELS_PER_CLASS = 18
_BATCH = 8
_FEW = 10_000

Columns = NDArray[np.float32]
LogScores = Callable[[Columns], Columns]
"""Columns (m, D) to log scores (m, classes)."""


def _sample(taps: Taps, scene: Scene) -> tuple[Columns, NDArray[np.uint8], NDArray[np.float64]]:
    """Return sampled hypercolumns (m, D), their labels (m,), and the pixels of each class in the train labels."""

    def read(first: int) -> tuple[Tensor, list[NDArray[np.uint8]]]:
        part = slice(first, first + _BATCH)
        return as_batch([read_image(path) for path in scene.train_images[part]]), [
            read_labels(path) for path in scene.train_labels[part]
        ]

    columns, chosen, pixels = [], [], np.zeros(CLASSES)
    starts = range(0, len(scene.train_images), _BATCH)
    for first, (images, masks) in zip(starts, read_ahead(starts, read), strict=True):
        maps = _maps(taps, images)
        for number, labels in enumerate(masks):
            points, found = sample_points(labels, str(first + number), SampleSpec(pixels_per_class=_PIXELS_PER_CLASS))
            columns.append(at_points([m[number : number + 1] for m in maps], torch.from_numpy(points)).numpy())
            chosen.append(found)
            pixels += np.bincount(labels.ravel(), minlength=VOID + 1)[:CLASSES]
    return np.concatenate(columns), np.concatenate(chosen), pixels


def _maps(taps: Taps, images: Tensor) -> list[Tensor]:
    with fast_arithmetic():
        maps: list[Tensor] = taps(images)
    return maps


def _logistic(columns: Columns, labels: NDArray[np.uint8]) -> LogScores:
    mean, std = columns.mean(0), columns.std(0) + 1e-6
    columns -= mean
    columns /= std
    model = LogisticRegression(C=1e-3, max_iter=100, tol=1e-3).fit(columns, labels)
    weight = torch.from_numpy((model.coef_ / std).astype(np.float32).T.copy())
    bias = torch.from_numpy((model.intercept_ - model.coef_ @ (mean / std)).astype(np.float32))
    return lambda found: (torch.from_numpy(found) @ weight + bias).log_softmax(1).numpy()


def _forest(columns: Columns, labels: NDArray[np.uint8]) -> LogScores:
    model = RandomForestClassifier(100, min_samples_leaf=3, n_jobs=2, random_state=0).fit(columns, labels)
    return lambda found: np.log(model.predict_proba(found) + 1e-3).astype(np.float32)


def _neighbours(columns: Columns, labels: NDArray[np.uint8], count: int = 20, dims: int = 128) -> LogScores:
    """Vote by cosine similarity of standardised columns, in the space of their first principal components."""
    mean, std = columns.mean(0), columns.std(0) + 1e-6
    columns = (columns - mean) / std
    axes = PCA(dims, svd_solver="randomized", random_state=0).fit(columns[:: max(1, len(columns) // _FEW)]).components_
    project = torch.from_numpy(axes.T.astype(np.float32).copy())
    known = functional.normalize(torch.from_numpy(columns) @ project).to(fast_dtype())
    votes = functional.one_hot(torch.from_numpy(labels.astype(np.int64)), CLASSES).float()

    def scores(found: Columns) -> Columns:
        asked = functional.normalize(torch.from_numpy((found - mean) / std) @ project).to(fast_dtype())
        likeness, nearest = (asked @ known.T).float().topk(count, dim=1, sorted=False)
        shares = (votes[nearest] * (likeness * 10).exp()[..., None]).sum(1)
        return (shares / shares.sum(1, keepdim=True) + 1e-2).log().numpy()

    return scores


def _labels(taps: Taps, log_scores: LogScores, offset: Columns, stride: int, path: Path) -> NDArray[np.uint8]:
    scores = log_scores(on_grid(_maps(taps, as_batch([read_image(path)])), stride).numpy()) + offset
    grid: Tensor = torch.from_numpy(scores.astype(np.float32))
    grid = grid.view(1, IMAGE_HW[0] // stride, IMAGE_HW[1] // stride, CLASSES).permute(0, 3, 1, 2)
    return best_labels(functional.interpolate(grid, size=IMAGE_HW, mode="bilinear", align_corners=False)[0])


_VARIANTS: dict[str, tuple[Callable[[Columns, NDArray[np.uint8]], LogScores], int | None, int, float]] = {
    "logistic": (_logistic, None, 4, 0.5),
    "logistic-10k": (_logistic, _FEW, 4, 0.5),
    "forest": (_forest, None, 4, 0.25),
    "neighbours": (_neighbours, None, 8, 0.5),
}
"""How it is fitted, to how many samples at most, the stride of the grid it labels a photograph at, and how much of
log(true prior) - log(sample prior) it gets back: of 0, 0.25, 0.5, 0.75 and 1 what scores best for it."""


def main() -> int:
    """Fit the chosen classifier."""
    keep_freed_memory()
    ledger, scene, variant = begin(__doc__)
    fit, most, stride, restored = _VARIANTS[variant]
    taps = Taps(scene.weights)
    columns, labels, pixels = _sample(taps, scene)
    sampled_seconds = ledger.seconds
    if most is not None:
        chosen = np.random.default_rng(0).permutation(len(labels))[:most]
        columns, labels = columns[chosen], labels[chosen]
    log_scores = fit(columns, labels)
    drawn = np.bincount(labels, minlength=CLASSES)
    offset = (restored * (np.log(pixels / pixels.sum()) - np.log(drawn / drawn.sum()))).astype(np.float32)
    fitted_seconds = ledger.seconds

    def predict(path: Path) -> NDArray[np.uint8]:
        return _labels(taps, log_scores, offset, stride, path)

    ledger.note(samples=len(labels), sampled_seconds=sampled_seconds, fitted_seconds=fitted_seconds)
    ledger.mark((predict(path) for path in scene.val_images), seconds=fitted_seconds)
    ledger.note(prediction_ms=prediction_milliseconds(predict, scene.val_images))
    return 0


if __name__ == "__main__":
    sys.exit(main())
