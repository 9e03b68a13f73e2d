"""Tiny images with instances, made in code and written as real files of each layout."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from hypercolumns.box_specs import InstancesSpec
from hypercolumns.datasets.instances import Instance, InstanceDataset, open_instances
from tests.factories import save_image

IMAGE_HW = (24, 32)
DOG, PERSON = 12, 15
"""Labels of VOC's class masks."""

KEYPOINTS = ["nose", "left_eye", "right_eye"]


def noise(seed: int = 0, image_hw: tuple[int, int] = IMAGE_HW) -> np.ndarray:
    """Draw an image of noise, uint8 RGB (H, W, 3)."""
    return np.random.default_rng(seed).integers(0, 256, size=(*image_hw, 3), dtype=np.uint8)


def rectangle(x0: int, y0: int, x1: int, y1: int, image_hw: tuple[int, int] = IMAGE_HW) -> np.ndarray:
    """Draw a mask that is a rectangle."""
    mask = np.zeros(image_hw, np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def coco_data(split: str = "train") -> dict[str, Any]:
    """Describe two images: one with a cat of polygons, a crowd and a person with keypoints, one without anything."""
    height, width = IMAGE_HW
    crowd = rectangle(20, 2, 30, 20)
    changes = np.flatnonzero(np.diff(crowd.ravel(order="F").astype(int), prepend=0)).tolist()
    counts = np.diff([0, *changes, crowd.size]).tolist()
    return {
        "images": [
            {"id": 7, "file_name": f"{split}_a.jpg", "height": height, "width": width},
            {"id": 9, "file_name": f"{split}_b.jpg", "height": height, "width": width},
        ],
        "categories": [
            {"id": 17, "name": "cat"},
            {"id": 1, "name": "person", "keypoints": KEYPOINTS, "skeleton": [[1, 2], [1, 3]]},
        ],
        "annotations": [
            {"id": 100, "image_id": 7, "category_id": 17, "bbox": [2, 3, 8.5, 6], "area": 40.25, "iscrowd": 0,
             "segmentation": [[2, 3, 10.5, 3, 10.5, 9, 2, 9], [12, 4, 14, 4, 13, 8]]},
            {"id": 101, "image_id": 7, "category_id": 17, "bbox": [20, 2, 10, 18], "area": 180, "iscrowd": 1,
             "segmentation": {"size": [height, width], "counts": counts}},
            {"id": 102, "image_id": 7, "category_id": 1, "bbox": [4, 5, 10, 12], "area": 90, "iscrowd": 0,
             "segmentation": [[4, 5, 14, 5, 14, 17, 4, 17]], "keypoints": [6, 7, 2, 0, 0, 0, 9, 8, 1]},
        ],
    }  # fmt: skip


def write_coco(root: Path, **changed: dict[str, Any]) -> Path:
    """Write train and val, each as `coco_data` has it unless it is given."""
    for split in ("train", "val"):
        data = changed.get(split, coco_data(split))
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
        for letter, seed in (("a", 1), ("b", 2)):
            path = root / "JPEGImages" / f"{split}_{letter}.jpg"
            if not path.exists():
                save_image(path, noise(seed))
    return root


def coco_spec(root: Path, **settings: Any) -> InstancesSpec:
    """Describe what `write_coco` wrote."""
    return InstancesSpec(kind="coco", root=str(root), **settings)


def voc_images(root: Path) -> Path:
    """Write an image and a list for each of two splits in the VOC layout."""
    for split in ("train", "val"):
        save_image(root / "JPEGImages" / f"2007_{split}.jpg", noise())
        (root / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(f"2007_{split}\n")
    return root


def objects_png() -> np.ndarray:
    """Draw two objects and a band that is nobody's."""
    objects = np.zeros(IMAGE_HW, np.uint8)
    objects[2:10, 3:12], objects[8:20, 15:25], objects[10, 3:12] = 1, 2, 255
    return objects


def open_voc(root: Path, kind: str = "voc", **settings: Any) -> InstanceDataset:
    """Open annotations of VOC's images."""
    return open_instances(InstancesSpec(kind=kind, root=str(root), **settings))


def train_instances(dataset: InstanceDataset) -> tuple[Instance, ...]:
    """Return the instances of the first train image."""
    return dataset.split("train")[0].instances


def read_mask(instance: Instance) -> np.ndarray:
    """Read a mask, after a way through pickle: workers get it so."""
    assert instance.mask is not None
    return pickle.loads(pickle.dumps(instance.mask))(IMAGE_HW)
