"""Heatmaps over boxes: what they are learned from, how they are trained, and the way back to masks, points and parts."""

from __future__ import annotations

from hypercolumns.heatmaps.fitting import fit_box_classifier
from hypercolumns.heatmaps.mirroring import Mirror
from hypercolumns.heatmaps.peaks import blur, find_peaks
from hypercolumns.heatmaps.problem import BoxExamples, BoxProblem
from hypercolumns.heatmaps.splatting import cut_mask, heatmap_points, splat
from hypercolumns.heatmaps.superpixels import find_superpixels, project
from hypercolumns.heatmaps.targets import keypoint_targets, mask_target, part_targets

__all__ = [
    "BoxExamples",
    "BoxProblem",
    "Mirror",
    "blur",
    "cut_mask",
    "find_peaks",
    "find_superpixels",
    "fit_box_classifier",
    "heatmap_points",
    "keypoint_targets",
    "mask_target",
    "part_targets",
    "project",
    "splat",
]
