"""Whole poses as COCO scores them: true poses and predictions in its own form, for classes of COCO's 17 keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hypercolumns.boxes import box_areas
from hypercolumns.metrics import OksScores, score_oks
from tasks.boxes.manifests import BoxEntry, BoxManifest, InstanceEntry
from tasks.boxes.predictions import BoxPrediction

__all__ = ["COCO_KEYPOINTS", "pose_score", "score_poses"]

COCO_KEYPOINTS = 17


def score_poses(
    manifest: BoxManifest, entries: Sequence[BoxEntry], found: Sequence[Sequence[BoxPrediction]], label: int
) -> OksScores:
    """Score a class's poses in detections by object keypoint similarity.

    Args:
        manifest: Says the class's name.
        entries: The images.
        found: The predictions of each.
        label: A class of COCO's keypoints.
    """
    annotations, results = [], []
    for number, (entry, own) in enumerate(zip(entries, found, strict=True), start=1):
        hw = entry.image.image_hw
        annotations += [_annotation(each, number, hw) for each in entry.instances if each.label == label]
        for each in own:
            if each.label == label and each.points_xys is not None:
                flat = [value for x, y, _ in each.points_xys for value in (x, y, 1.0)]
                results.append({"image_id": number, "category_id": 1, "keypoints": flat, "score": pose_score(each)})
    truth = {
        "images": [{"id": number} for number in range(1, len(entries) + 1)],
        "categories": [{"id": 1, "name": manifest.class_names[label]}],
        "annotations": annotations,
    }
    return score_oks(truth, results)


def pose_score(found: BoxPrediction) -> float:
    """Return what poses are ranked by: the mean of their keypoints' scores, which hold the box's; else the box's own."""
    points = found.points_xys
    return sum(score for _, _, score in points) / len(points) if points else found.score


def _annotation(instance: InstanceEntry, image: int, image_hw: tuple[int, int]) -> dict[str, Any]:
    points = instance.keypoints_xyv or ((0.0, 0.0, 0.0),) * COCO_KEYPOINTS
    x0, y0, x1, y1 = instance.box_xyxy
    area = float(instance.mask_array(image_hw).sum()) if instance.mask else float(box_areas(np.array([instance.box_xyxy]))[0])
    return {
        "image_id": image,
        "category_id": 1,
        "keypoints": [value for point in points for value in point],
        "num_keypoints": sum(v > 0 for _, _, v in points),
        "area": area,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "iscrowd": int(instance.ignored),
    }
