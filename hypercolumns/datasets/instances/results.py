"""COCO results: scored boxes read from JSON, and boxes, masks and keypoints written to it; instance masks to VOC's PNGs.

A results file is a list of records with image_id, category_id and score, and bbox, segmentation or keypoints. Positions are
continuous here; keypoints are written as numbers of pixels, as COCO's own evaluation expects them.

Source: https://cocodataset.org/#format-results; Everingham et al., "The PASCAL VOC 2012 development kit", sec. 3.5 (PNGs).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hypercolumns.datasets.instances.base import AnnotatedImage, InstanceDataset
from hypercolumns.datasets.instances.detections import Detections
from hypercolumns.datasets.instances.json_files import checked_id, read_json_file
from hypercolumns.datasets.instances.records import Ledger, checked_box, checked_numbers
from hypercolumns.datasets.instances.run_lengths import encode_counts, runs_of_mask
from hypercolumns.datasets.palettes import voc_palette
from hypercolumns.errors import DatasetError

__all__ = ["box_result", "keypoints_result", "mask_result", "read_detections", "write_object_png"]

_MOST_OBJECTS = 254


def read_detections(
    path: Path, dataset: InstanceDataset, split: str, *, skip: bool = False, all_images: bool = True
) -> dict[str, Detections]:
    """Read scored class boxes.

    Args:
        path: The results file.
        dataset: The data set whose images and categories its numbers name.
        split: The split of the images.
        skip: Leave out wrong records, instead of refusing the file. Those of images and categories that the data set has, but
            that were not chosen, are passed over in any case.
        all_images: Refuse a file in which an image of the split has no record; if not, such an image has no detections.

    Returns:
        Detections by image key, for every image of the split, best first.

    Raises:
        DatasetError: the file cannot be read, or a record is wrong or names an unknown image or category; names
            file and record.
    """
    records = read_json_file(path)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DatasetError(f"{path}: expected a list of results, got something else. Remedy: give a file in COCO results form")
    images = {image.number: image for image in dataset.split(split)}
    places = {each.category_id: place for place, each in enumerate(dataset.classes)}
    others = dataset.other_images.get(split, frozenset())
    ledger = Ledger(skip=skip)
    found: dict[str, list[tuple[float, NDArray[np.float64], int]]] = {image.key: [] for image in images.values()}
    for number, record in enumerate(records, start=1):
        with ledger.record(path, f"result {number}"):
            image_number, category = checked_id(record, "image_id"), checked_id(record, "category_id")
            if category in dataset.other_categories or image_number in others:
                continue
            image = images.get(image_number)
            if image is None:
                raise DatasetError(f"image_id: expected an image of split {split!r}, got {image_number}")
            found[image.key].append(_read(record, image, places))
    ledger.settle()
    missing = [key for key, own in found.items() if not own]
    if all_images and missing:
        raise DatasetError(
            f"{path}: expected results for all {len(found)} images of split {split!r}, got none for "
            f"{len(missing)}: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}. "
            "Remedy: run the detector on all images, or set on_missing_image=empty"
        )
    return {key: _detections(own) for key, own in found.items()}


def _read(record: dict[str, Any], image: AnnotatedImage, places: dict[int, int]) -> tuple[float, NDArray[np.float64], int]:
    category = checked_id(record, "category_id")
    if category not in places:
        raise DatasetError(f"category_id: expected one of {len(places)} categories of the data set, got {category}")
    score = record.get("score")
    if not isinstance(score, int | float) or isinstance(score, bool) or not math.isfinite(score):
        raise DatasetError(f"score: expected a finite number, got {str(score)[:60]}")
    corner_size = checked_numbers(record.get("bbox"), 4, "bbox")
    box = checked_box(np.concatenate([corner_size[:2], corner_size[:2] + corner_size[2:]]), image.image_hw)
    return float(score), box, places[category]


def _detections(own: list[tuple[float, NDArray[np.float64], int]]) -> Detections:
    if not own:
        return Detections.none()
    best_first = sorted(own, key=lambda line: -line[0])
    return Detections(
        np.stack([box for _, box, _ in best_first]),
        np.array([score for score, _, _ in best_first]),
        np.array([label for _, _, label in best_first], np.int64),
        np.full(len(own), -1, np.int64),
    )


def box_result(
    dataset: InstanceDataset, image: AnnotatedImage, class_index: int, score: float, box_xyxy: NDArray[Any]
) -> dict[str, Any]:
    """Return a COCO result of a box (4,)."""
    x0, y0, x1, y1 = (float(value) for value in box_xyxy)
    return {**_head(dataset, image, class_index, score), "bbox": [x0, y0, x1 - x0, y1 - y0]}


def mask_result(
    dataset: InstanceDataset, image: AnnotatedImage, class_index: int, score: float, mask: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return a COCO result of a mask (H, W), as compressed run lengths.

    Raises:
        DatasetError: the mask has another size than the image.
    """
    if mask.shape != image.image_hw or mask.dtype != np.bool_:
        raise DatasetError(f"{image.path}: expected a boolean mask of {image.image_hw}, got {mask.dtype} {mask.shape}")
    segmentation = {"size": list(image.image_hw), "counts": encode_counts(runs_of_mask(mask))}
    return {**_head(dataset, image, class_index, score), "segmentation": segmentation}


def keypoints_result(
    dataset: InstanceDataset, image: AnnotatedImage, class_index: int, score: float, points_xy: NDArray[Any]
) -> dict[str, Any]:
    """Return a COCO result of keypoints (K, 2); those that are NaN were not found, and are written as 0, 0, 0.

    Raises:
        DatasetError: the class has another number of keypoints.
    """
    scheme = dataset.classes[class_index].keypoints
    expected = None if scheme is None else (len(scheme.names), 2)
    if np.shape(points_xy) != expected:
        raise DatasetError(
            f"class {dataset.class_names[class_index]}: expected keypoints {expected}, got {np.shape(points_xy)}"
        )
    values: list[float] = []
    for x, y in np.asarray(points_xy, np.float64).tolist():
        values += [0.0, 0.0, 0] if math.isnan(x + y) else [x - 0.5, y - 0.5, 1]
    return {**_head(dataset, image, class_index, score), "keypoints": values}


def _head(dataset: InstanceDataset, image: AnnotatedImage, class_index: int, score: float) -> dict[str, Any]:
    if not math.isfinite(score):
        raise DatasetError(f"image {image.key}: expected a finite score, got {score}")
    return {"image_id": image.number, "category_id": dataset.classes[class_index].category_id, "score": float(score)}


def write_object_png(path: Path, masks: Sequence[NDArray[np.bool_]], image_hw: tuple[int, int]) -> None:
    """Write masks as the values 1, 2 ... of one palette PNG, as VOC's SegmentationObject; where they overlap, the first wins.

    Args:
        path: The file to write; its folder exists.
        masks: Masks (H, W), best first, at most 254.
        image_hw: The image's size, also where there is no mask.

    Raises:
        DatasetError: there are too many, or one has another size.
    """
    if len(masks) > _MOST_OBJECTS:
        raise DatasetError(f"{path}: expected at most {_MOST_OBJECTS} masks in one file, got {len(masks)}")
    objects = np.zeros(image_hw, np.uint8)
    for number in range(len(masks), 0, -1):
        if masks[number - 1].shape != tuple(image_hw):
            raise DatasetError(f"{path}: expected masks of {tuple(image_hw)}, got {masks[number - 1].shape}")
        objects[masks[number - 1]] = number
    picture = Image.fromarray(objects)
    picture.putpalette(voc_palette().tobytes())
    picture.save(path, format="PNG")
