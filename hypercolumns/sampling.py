"""Which pixels become samples: seeded, balanced over the classes of each image, and independent of the order of images.

The choice for an image depends on the seed, the image's row key and its labels alone, so that any number of workers in any
order take the same pixels. It never touches features.

Source: Bansal et al., "PixelNet: Representation of the pixels, by the pixels, and for the pixels", 2017, sec. 3.1 (few pixels
an image suffice); drawing per class follows Hariharan et al., CVPR 2015, in balancing what the classifier sees.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from hypercolumns.datasets.base import VOID
from hypercolumns.errors import SamplingError
from hypercolumns.specs import SampleSpec

__all__ = ["held_out", "sample_points"]


def sample_points(labels: NDArray[np.uint8], row_key: str, spec: SampleSpec) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Draw pixels of one labelled canvas: up to `pixels_per_class` of each class present, without replacement.

    Args:
        labels: Label per canvas pixel (H, W); 255 is void and is never drawn.
        row_key: Key of the image's row; it seeds the draw together with the spec's seed.
        spec: How many, and the seed.

    Returns:
        points_xy (m, 2): centres of the drawn pixels in canvas pixels; and their labels (m,). Classes ascend. A class with
        fewer pixels than asked for gives all it has; an image without labelled pixels gives none.

    Raises:
        SamplingError: labels are not two-dimensional.
    """
    if labels.ndim != 2:
        raise SamplingError(f"expected labels (H, W), got an array of shape {labels.shape}")
    width = labels.shape[1]
    flat = labels.reshape(-1)
    chosen, classes = [], []
    for label in np.flatnonzero(np.bincount(flat, minlength=VOID + 1)[:VOID]):
        candidates = np.flatnonzero(flat == label)
        count = min(spec.pixels_per_class, candidates.size)
        picks = _generator(spec.seed, row_key, int(label)).choice(candidates.size, count, replace=False)
        chosen.append(candidates[np.sort(picks)])
        classes.append(np.full(count, label, np.uint8))
    if not chosen:
        return np.empty((0, 2), np.float32), np.empty(0, np.uint8)
    cells = np.concatenate(chosen)
    points = np.stack([cells % width, cells // width], axis=1).astype(np.float32) + np.float32(0.5)
    return points, np.concatenate(classes)


def held_out(row_key: str, share: float, group: str | None = None) -> bool:
    """Say whether an image is held out of training for early stopping, by the hash of its group or row key.

    The same image is always on the same side, whatever else is in the data set; images of one group (video, patient) stay
    together. Views of an image follow the image.
    """
    name = group if group is not None else row_key.split(":", 1)[0]
    number = int.from_bytes(hashlib.sha256(f"held-out:{name}".encode()).digest()[:8], "big")
    return number < share * 2**64


def _generator(seed: int, row_key: str, label: int) -> np.random.Generator:
    words = hashlib.sha256(f"{seed}:{row_key}:{label}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(words[:16], "big")))
