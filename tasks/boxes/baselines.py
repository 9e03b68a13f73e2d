"""Baselines that look at no image: what the training boxes have in common, and what everybody would guess."""

from __future__ import annotations

import numpy as np

from hypercolumns.box_experiments import BoxExperimentSpec
from hypercolumns.heatmaps.baselines import ellipse, mean_points, mean_targets, rectangle
from tasks.boxes.examples import box_examples
from tasks.boxes.manifests import BoxManifest
from tasks.boxes.predictions import HeatmapBaseline, PoseBaseline, Predictor

__all__ = ["TITLES", "box_baselines"]

TITLES = {
    "model": "grid classifiers on hypercolumns",
    "rectangle": "the box itself",
    "ellipse": "the ellipse in the box",
    "mean_mask": "mean mask of the training boxes",
    "mean_pose": "mean pose of the training boxes",
    "mean_parts": "mean part map of the training boxes",
}


def box_baselines(manifest: BoxManifest, spec: BoxExperimentSpec) -> dict[str, Predictor]:
    """Return the baselines of a task, by name."""
    side, expansion = spec.pairs.side, spec.pairs.expansion
    if spec.task == "keypoints":
        return {"mean_pose": _mean_pose(manifest, spec)}
    mean = HeatmapBaseline(_mean_heatmaps(manifest, spec), spec)
    if spec.task == "parts":
        return {"mean_parts": mean}
    fixed = {"rectangle": rectangle(side, expansion), "ellipse": ellipse(side, expansion)}
    count = len(manifest.classes)
    return {**{n: HeatmapBaseline([heatmap[None]] * count, spec) for n, heatmap in fixed.items()}, "mean_mask": mean}


def _mean_heatmaps(manifest: BoxManifest, spec: BoxExperimentSpec) -> list[np.ndarray]:
    """Average the targets of each class; the box itself where a class has no training box."""
    examples = box_examples(manifest, spec)
    found = []
    for label, block in enumerate(examples.blocks):
        own = np.flatnonzero(examples.labels == label)
        if not len(own):
            found.append(np.repeat(rectangle(spec.pairs.side, spec.pairs.expansion)[None], block.stop - block.start, axis=0))
            continue
        found.append(mean_targets(examples.load(int(number)) for number in own))
    return found


def _mean_pose(manifest: BoxManifest, spec: BoxExperimentSpec) -> PoseBaseline:
    shares = []
    for label, own in enumerate(manifest.classes):
        posed = [
            each
            for entry in manifest.splits[spec.instances.train_split]
            for each in entry.instances
            if each.label == label and each.keypoints_xyv is not None and not each.ignored
        ]
        points = np.array([each.points_xy for each in posed]).reshape(len(posed), len(own.keypoints), 2)
        there = np.array([each.visibility > 0 for each in posed], np.bool_).reshape(len(posed), len(own.keypoints))
        boxes = np.array([each.box_xyxy for each in posed]).reshape(len(posed), 4)
        shares.append(mean_points(points, there, boxes))
    return PoseBaseline(shares)
