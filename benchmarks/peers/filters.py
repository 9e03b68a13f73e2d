"""A peer that learns no features: filters at several scales and a random forest, as in ilastik's pixel classification.

ilastik itself is not in the package registry. Its features, its default scales and its forest of a hundred trees are written
here with scipy and scikit-learn; the forest sees the same balanced pixels as the other sparse peers, and part of the priors is
restored.

Source: Berg et al., "ilastik: interactive machine learning for (bio)image analysis", Nature Methods 2019, and its user
documentation of the pixel classification workflow (smoothing, Laplacian, gradient magnitude, difference of Gaussians,
eigenvalues of the structure tensor and of the Hessian; scales 0.3 to 10).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.ensemble import RandomForestClassifier
from torch.nn import functional

from benchmarks.peers.ledger import begin, prediction_milliseconds
from benchmarks.peers.scene import CLASSES, IMAGE_HW, VOID, read_image, read_labels
from hypercolumns.canvas import best_labels
from hypercolumns.read_ahead import read_ahead
from hypercolumns.sampling import sample_points
from hypercolumns.specs import SampleSpec

__all__ = ["filter_bank"]

_SCALES = (0.7, 1.0, 1.6, 3.5, 5.0, 10.0)
_FINEST = 0.3
_TRUNCATE = 3.0
_PIXELS_PER_CLASS = 18
_RESTORED = 0.25
"""How much of log(true prior) - log(sample prior) the forest gets back: what scores best for forests here."""

_STRIDE = 2
"""Pixels between the points at which the forest labels a photograph: a quarter of its time, for next to no score."""

Plane = NDArray[np.float32]


def filter_bank(image: NDArray[np.uint8]) -> Plane:
    """Return the responses of every filter at every scale and channel, (responses, H, W)."""
    planes = [np.ascontiguousarray(image[..., channel], np.float32) for channel in range(3)]
    with_scales = [response for plane in planes for scale in _SCALES for response in _responses(plane, scale)]
    return np.stack([gaussian_filter(plane, _FINEST) for plane in planes] + with_scales)


def _responses(plane: Plane, scale: float) -> list[Plane]:
    """Return the eight responses of one channel at one scale, in pixels."""

    def smooth(values: Plane, sigma: float, order: tuple[int, int] = (0, 0)) -> Plane:
        result: Plane = gaussian_filter(values, sigma, order=order, truncate=_TRUNCATE)
        return result

    smoothed = smooth(plane, scale)
    down, across = smooth(plane, scale, (1, 0)), smooth(plane, scale, (0, 1))
    hessian = smooth(plane, scale, (2, 0)), smooth(plane, scale, (1, 1)), smooth(plane, scale, (0, 2))
    wider = scale / 2
    tensor = smooth(down * down, wider), smooth(down * across, wider), smooth(across * across, wider)
    return [
        smoothed,
        hessian[0] + hessian[2],
        np.hypot(down, across),
        smoothed - smooth(plane, 0.66 * scale),
        *_eigenvalues(*tensor),
        *_eigenvalues(*hessian),
    ]


def _eigenvalues(a: Plane, b: Plane, c: Plane) -> tuple[Plane, Plane]:
    """Return the larger and the smaller eigenvalue of [[a, b], [b, c]] at every pixel."""
    middle, spread = (a + c) / 2, np.hypot((a - c) / 2, b)
    return middle + spread, middle - spread


def main() -> int:
    """Fit the forest and label the val photographs."""
    ledger, scene, _ = begin(__doc__)
    columns, chosen, pixels = [], [], np.zeros(CLASSES)

    def read(index: int) -> tuple[Plane, NDArray[np.uint8]]:
        return filter_bank(read_image(scene.train_images[index])), read_labels(scene.train_labels[index])

    for index, (bank, labels) in enumerate(read_ahead(range(len(scene.train_images)), read, threads=2)):
        points, found = sample_points(labels, str(index), SampleSpec(pixels_per_class=_PIXELS_PER_CLASS))
        cells = points.astype(np.int64)
        columns.append(bank[:, cells[:, 1], cells[:, 0]].T)
        chosen.append(found)
        pixels += np.bincount(labels.ravel(), minlength=VOID + 1)[:CLASSES]
    drawn = np.bincount(np.concatenate(chosen), minlength=CLASSES)
    ledger.note(samples=int(drawn.sum()), sampled_seconds=ledger.seconds)
    forest = RandomForestClassifier(100, min_samples_leaf=3, n_jobs=2, random_state=0)
    forest.fit(np.concatenate(columns), np.concatenate(chosen))
    prior = ((pixels / pixels.sum()) / (drawn / drawn.sum())) ** _RESTORED

    def labels_of(bank: Plane) -> NDArray[np.uint8]:
        part = bank[:, _STRIDE // 2 :: _STRIDE, _STRIDE // 2 :: _STRIDE]
        shares = forest.predict_proba(part.reshape(len(bank), -1).T) * prior
        grid = torch.from_numpy(shares.astype(np.float32)).view(1, *part.shape[1:], CLASSES).permute(0, 3, 1, 2)
        return best_labels(functional.interpolate(grid, size=IMAGE_HW, mode="bilinear", align_corners=False)[0])

    def predict(path: Path) -> NDArray[np.uint8]:
        return labels_of(filter_bank(read_image(path)))

    ready = ledger.seconds
    banks = read_ahead(scene.val_images, lambda path: filter_bank(read_image(path)), threads=2)
    ledger.mark((labels_of(bank) for bank in banks), seconds=ready)
    ledger.note(fitted_seconds=ready, prediction_ms=prediction_milliseconds(predict, scene.val_images))
    return 0


if __name__ == "__main__":
    sys.exit(main())
