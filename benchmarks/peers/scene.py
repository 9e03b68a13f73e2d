"""What every peer is given: paths of photographs and of train labels, and how to read them.

Only numpy and Pillow are imported, because peers from the registry run in environments of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["CLASSES", "IMAGE_HW", "VOID", "Scene", "open_scene", "read_image", "read_labels"]

CLASSES = 11
IMAGE_HW = (360, 480)
VOID = 255
_STORED_VOID = 11


@dataclass(frozen=True)
class Scene:
    """The photographs: train ones with labels, val ones without.

    Attributes:
        train_images: photographs to learn from.
        train_labels: their label files, in the same order.
        val_images: photographs to label.
        weights: state dict of torchvision's squeezenet1_1, trained on ImageNet.
    """

    train_images: tuple[Path, ...]
    train_labels: tuple[Path, ...]
    val_images: tuple[Path, ...]
    weights: Path


def open_scene(real_data: Path) -> Scene:
    """List the photographs below the folder of real data.

    Raises:
        FileNotFoundError: a part of it is missing.
    """
    root = real_data / "data" / "camvid"
    train, val = (tuple(sorted((root / "images" / split).glob("*.jpg"))) for split in ("train", "val"))
    labels = tuple(root / "masks" / "train" / f"{path.stem}.png" for path in train)
    weights = real_data / "weights" / "squeezenet1_1.pth"
    missing = [path for path in (*labels, weights) if not path.is_file()]
    if not train or not val or missing:
        found = f"{len(train)} train and {len(val)} val photographs, missing: {[str(path) for path in missing[:3]]}"
        raise FileNotFoundError(f"expected CamVid in {root} and weights in {weights.parent}, got {found}")
    return Scene(train, labels, val, weights)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode a photograph, uint8 RGB (H, W, 3)."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Decode train labels, uint8 (H, W): 0 … 10, or `VOID`."""
    with Image.open(path) as image:
        labels = np.array(image)
    labels[labels == _STORED_VOID] = VOID
    return labels
