"""Boxes for images that no data set knows: COCO results JSON, whose `image_id` is the image's file name, stem or number."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hypercolumns.errors import DatasetError
from tasks.boxes.manifests import ClassEntry, DetectionEntry

__all__ = ["read_boxes"]


def read_boxes(
    path: Path, images: Mapping[Path, tuple[int, int]], classes: Sequence[ClassEntry]
) -> dict[Path, tuple[DetectionEntry, ...]]:
    """Read scored class boxes of images, and check every one of them.

    Args:
        path: A list of records with `image_id`, `bbox` (x, y, width, height), `category_id` and (1 if left out) `score`.
        images: The images, with their sizes (height, width).
        classes: The classes of the head.

    Returns:
        The boxes of each image, cut off at its edges.

    Raises:
        DatasetError: the file or a record is not what it should be; says which record.
    """
    found: dict[Path, list[DetectionEntry]] = {image: [] for image in images}
    names = _names(images)
    numbers = {each.category_id: number for number, each in enumerate(classes)}
    for place, record in enumerate(_records(path)):
        try:
            image = _image(record, names)
            found[image].append(_detection(record, images[image], numbers))
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{path}: record {place}: {_reason(error)}. Nothing was predicted") from error
    return {image: tuple(boxes) for image, boxes in found.items()}


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: expected COCO results JSON, got a file that cannot be read: {error}") from error
    if not isinstance(value, list) or not all(isinstance(record, dict) for record in value):
        raise DatasetError(f"{path}: expected a list of records with image_id, category_id, bbox and score, got something else")
    return value


def _names(images: Mapping[Path, tuple[int, int]]) -> dict[str, Path]:
    """Return what an image may be called; a name that means two images means none."""
    names: dict[str, Path | None] = {}
    for image in images:
        own = {image.name, image.stem}
        if image.stem.isdecimal() and len(image.stem) < 20:
            own.add(str(int(image.stem)))
        for name in own:
            names[name] = None if name in names and names[name] != image else image
    return {name: image for name, image in names.items() if image is not None}


def _image(record: Mapping[str, Any], names: Mapping[str, Path]) -> Path:
    name = str(record["image_id"])
    if name not in names:
        raise ValueError(f"expected the file name, stem or number of exactly one of the images, got image_id {name[:80]!r}")
    return names[name]


def _detection(record: Mapping[str, Any], image_hw: tuple[int, int], numbers: Mapping[int, int]) -> DetectionEntry:
    if record["category_id"] not in numbers:
        raise ValueError(f"expected a category_id of the model, one of {sorted(numbers)[:20]}, got {record['category_id']!r}")
    x, y, width, height = (float(side) for side in record["bbox"])
    score = float(record.get("score", 1.0))
    if not all(math.isfinite(value) for value in (x, y, width, height, score)) or width <= 0 or height <= 0:
        raise ValueError(f"expected a finite score and a finite bbox with an area, got {record['bbox']} and {score}")
    box = max(0.0, x), max(0.0, y), min(float(image_hw[1]), x + width), min(float(image_hw[0]), y + height)
    if box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError(f"expected a bbox that meets the image of {image_hw[1]} x {image_hw[0]} pixels, got {record['bbox']}")
    return DetectionEntry(label=numbers[record["category_id"]], box_xyxy=box, score=score)


def _reason(error: Exception) -> str:
    return f"expected {error}, got none" if isinstance(error, KeyError) else str(error)
