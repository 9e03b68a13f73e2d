"""Objects to look at: best, median and worst ones, photograph, truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hypercolumns.box_experiments import BoxExperimentSpec
from hypercolumns.boxes import longer_sides, pixel_slices
from hypercolumns.metrics.averages import box_mask_iou
from hypercolumns.reporting.box_data import Shot, ShotGroup
from hypercolumns.reporting.box_pictures import around, cut, draw_mask, draw_parts, draw_pose
from tasks.boxes.manifests import BoxEntry, BoxManifest
from tasks.boxes.predictions import BoxPrediction
from tasks.boxes.scoring import Predictions

__all__ = ["choose_shots"]

_RIGHT = 0.1


def choose_shots(
    manifest: BoxManifest, entries: Sequence[BoxEntry], predictions: Predictions, spec: BoxExperimentSpec
) -> tuple[ShotGroup, ...]:
    """Rank the objects that were predicted, and picture some of each end and of the middle."""
    judged = []
    kind = "found" if spec.task == "segment" else "given"
    for entry, found in zip(entries, predictions[kind], strict=True):
        for each in found:
            if each.source >= 0 and (value := _quality(entry, each, spec)) is not None:
                judged.append((value, entry, each))
    judged.sort(key=lambda each: -each[0])
    count, middle = spec.evaluate.panels, len(judged) // 2
    if not count or not judged:
        return ()
    start = max(0, middle - count // 2)
    groups = {"best": judged[:count], "median": judged[start : start + count], "worst": judged[-count:]}
    return tuple(ShotGroup(title, tuple(_shot(manifest, *each, spec) for each in chosen)) for title, chosen in groups.items())


def _quality(entry: BoxEntry, found: BoxPrediction, spec: BoxExperimentSpec) -> float | None:
    """Return how good one prediction is, in [0, 1]; None where it cannot be told."""
    truth, hw = entry.instances[found.source], entry.image.image_hw
    window = pixel_slices(np.array(found.box_xyxy), hw)
    if spec.task == "segment":
        return None if truth.mask is None else box_mask_iou(found.mask_array(hw), truth.mask_array(hw), window)
    if spec.task == "keypoints":
        there = truth.visibility > 0
        if not there.any():
            return None
        points = np.array(found.points_xys)[:, :2]
        distance = np.hypot(*(points - truth.points_xy)[there].T)
        return float((distance <= _RIGHT * longer_sides(np.array([truth.box_xyxy]))[0]).mean())
    parts = truth.part_map(hw)
    known = (parts > 0) & (parts < 255)
    union = ((found.part_map(hw) > 0) | known).sum()
    return float(((found.part_map(hw) == parts) & known).sum() / max(1, union))


def _shot(manifest: BoxManifest, value: float, entry: BoxEntry, found: BoxPrediction, spec: BoxExperimentSpec) -> Shot:
    hw, image = entry.image.image_hw, manifest.image(entry)
    window, truth, own = around(found.box_xyxy, hw), entry.instances[found.source], manifest.classes[found.label]
    if spec.task == "segment":
        pictures = draw_mask(image, truth.mask_array(hw)), draw_mask(image, found.mask_array(hw))
        what = "mask IoU in the box"
    elif spec.task == "keypoints":
        points = np.array(found.points_xys)[:, :2]
        there = truth.visibility > 0
        pictures = draw_pose(image, truth.points_xy, there, own.skeleton), draw_pose(image, points, there, own.skeleton)
        what = "of the keypoints within 0.1"
    else:
        pictures = draw_parts(image, truth.part_map(hw)), draw_parts(image, found.part_map(hw))
        what = "overlap of right parts"
    names = ("image", "truth", "prediction")
    shown = tuple((name, cut(picture, window)) for name, picture in zip(names, (image, *pictures), strict=True))
    return Shot(f"{100 * value:.0f} % {what}: {own.name}, image {entry.image.image_id}", shown)
