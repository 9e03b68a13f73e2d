"""What a case of the corpus is, and what may be expected of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

HW = (24, 32)
"""Size of the scene and of its mask."""

IMAGE, MASK = Path("images/train"), Path("masks/train")


def scene() -> np.ndarray:
    """Draw the scene, uint8 RGB (24, 32, 3): no two corners and no two rows alike, so that any turn shows."""
    y, x = np.mgrid[: HW[0], : HW[1]]
    return np.stack([y * 10, x * 7, 255 - y * 5 - x * 3], axis=-1).astype(np.uint8)


def labels() -> np.ndarray:
    """Draw the scene's labels, uint8 (24, 32): four classes, of another shape in each corner, and void."""
    drawn = np.zeros(HW, np.uint8)
    drawn[:5, :9] = 1
    drawn[:3, -4:] = 2
    drawn[-7:, :2] = 3
    drawn[-2:, -11:] = 255
    return drawn


@dataclass(frozen=True)
class Shown:
    """The image is decoded, to these upright pixels, and its mask to these labels.

    Args:
        pixels: uint8 RGB (H, W, 3).
        tolerance: the largest difference that a lossy format may make.
        labels: the labels (H, W); the scene's own when they are not said.
    """

    pixels: np.ndarray = field(default_factory=scene)
    tolerance: int = 0
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class Rejected:
    """The file is named with this reason; `fail` stops, `skip` goes on without the image."""

    reason: str


@dataclass(frozen=True)
class Refused:
    """The data set's layout is refused with this message, whatever `on_bad_image` says."""

    message: str


@dataclass(frozen=True)
class Whole:
    """Either shown whole, as `shown` says, or rejected with a reason; never in parts."""

    shown: Shown = field(default_factory=Shown)


@dataclass(frozen=True)
class PassedOver:
    """Hidden, and so no part of the data set."""


@dataclass(frozen=True)
class Case:
    """One bad (or odd) file in an otherwise sound data set.

    Args:
        name: what is wrong with it.
        write: puts it below the data set's root, as an image of the train split or its mask.
        expected: the documented answer.
        file: path of the image below the root; the mask has its stem.
        has_mask: whether the runner adds the scene's own mask.
    """

    name: str
    write: Callable[[Path], object]
    expected: Shown | Rejected | Refused | Whole | PassedOver
    file: str = "images/train/case.png"
    has_mask: bool = True


def image(data: bytes, file: str = "images/train/case.png") -> Callable[[Path], object]:
    """Return what writes an image file of these bytes."""
    return lambda root: (root / file).write_bytes(data)


def mask(data: bytes) -> Callable[[Path], object]:
    """Return what writes the mask of the case's image as these bytes."""
    return lambda root: (root / MASK / "case.png").write_bytes(data)
