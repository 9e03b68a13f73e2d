"""Tiny seeded images, masks and data sets, made in code and written as real files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from hypercolumns.datasets.palettes import voc_palette

VOID = 255
CLASS_NAMES = ("ground", "box", "disc", "stripe")


def make_mask(image_hw: tuple[int, int] = (24, 32), *, classes: int = 4, seed: int = 0, void_border: bool = True) -> np.ndarray:
    """Label class 0 with one rectangle of each further class, uint8 (H, W); a pixel of void around each, if wanted."""
    generator = np.random.default_rng((seed, 1))
    height, width = image_hw
    mask = np.zeros(image_hw, dtype=np.uint8)
    for label in range(1, classes):
        side_y, side_x = max(2, height // 3), max(2, width // 4)
        top, left = generator.integers(0, height - side_y + 1), generator.integers(0, width - side_x + 1)
        if void_border:
            mask[max(0, top - 1) : top + side_y + 1, max(0, left - 1) : left + side_x + 1] = VOID
        mask[top : top + side_y, left : left + side_x] = label
    return mask


def make_image(mask: np.ndarray, *, seed: int = 0, noise: float = 20.0) -> np.ndarray:
    """Paint a mask in one colour a class with noise on it, uint8 RGB (H, W, 3): easy to learn, no two images alike."""
    generator = np.random.default_rng((seed, 2))
    colours = np.random.default_rng(12345).integers(40, 216, size=(256, 3))
    painted = colours[mask] + generator.normal(0.0, noise, size=(*mask.shape, 3))
    return painted.clip(0, 255).astype(np.uint8)


def make_scribbles(mask: np.ndarray, *, keep: float = 0.05, seed: int = 0) -> np.ndarray:
    """Keep a few labelled pixels of a mask, and make everything else void."""
    kept = np.random.default_rng((seed, 3)).random(mask.shape) < keep
    return np.where(kept, mask, VOID).astype(np.uint8)


def save_mask(path: Path, mask: np.ndarray, *, palette: np.ndarray | None = None) -> Path:
    """Write labels as a PNG: grey, or with a palette (256, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette is not None:
        image.putpalette(palette.astype(np.uint8).tobytes())
    image.save(path, format="PNG")
    return path


def save_image(path: Path, image: np.ndarray) -> Path:
    """Write an image in the format of its suffix (JPEG without visible loss)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 95, "subsampling": 0} if path.suffix.lower() in {".jpg", ".jpeg"} else {}
    Image.fromarray(image).save(path, **options)
    return path


def write_voc(
    root: Path,
    *,
    splits: Mapping[str, int] | None = None,
    image_hw: tuple[int, int] = (24, 32),
    classes: int = 4,
    seed: int = 0,
) -> Path:
    """Write a data set in the VOC layout with palette masks and a classes.txt; images are named SPLIT_000, SPLIT_001 ..."""
    for split, count in (splits or {"train": 3, "val": 2}).items():
        names = [f"{split}_{number:03d}" for number in range(count)]
        for number, name in enumerate(names):
            mask, image = _pair(image_hw, classes, seed, split, number)
            save_image(root / "JPEGImages" / f"{name}.jpg", image)
            save_mask(root / "SegmentationClass" / f"{name}.png", mask, palette=voc_palette())
        write_list(root, split, names)
    write_class_names(root, classes)
    return root


def write_folder(
    root: Path,
    *,
    splits: Mapping[str, int] | None = None,
    image_hw: tuple[int, int] = (24, 32),
    classes: int = 4,
    seed: int = 0,
) -> Path:
    """Write a data set of images/SPLIT and masks/SPLIT with grey masks and a classes.txt; images are named 000, 001 ..."""
    for split, count in (splits or {"train": 3, "val": 2}).items():
        for number in range(count):
            mask, image = _pair(image_hw, classes, seed, split, number)
            save_image(root / "images" / split / f"{number:03d}.png", image)
            save_mask(root / "masks" / split / f"{number:03d}.png", mask)
    write_class_names(root, classes)
    return root


def write_list(root: Path, split: str, names: list[str]) -> Path:
    """Write ImageSets/Segmentation/SPLIT.txt."""
    path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return path


def write_class_names(root: Path, classes: int) -> Path:
    """Write a classes.txt of that many names."""
    names = [CLASS_NAMES[label] if label < len(CLASS_NAMES) else f"class{label}" for label in range(classes)]
    path = root / "classes.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n", encoding="utf-8")
    return path


def _pair(image_hw: tuple[int, int], classes: int, seed: int, split: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    own_seed = seed * 1_000_003 + int.from_bytes(split.encode(), "big") % 9973 * 1009 + number
    mask = make_mask(image_hw, classes=classes, seed=own_seed)
    return mask, make_image(mask, seed=own_seed)
