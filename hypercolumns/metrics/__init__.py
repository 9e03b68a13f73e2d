"""Metrics: scores with their uncertainty, each checked against an independent reference."""

from __future__ import annotations

from hypercolumns.metrics.bootstrap import bootstrap_intervals, paired_bootstrap
from hypercolumns.metrics.diagnosis import Diagnosis, diagnose
from hypercolumns.metrics.instances import VOLUME, InstanceScores, score_instances
from hypercolumns.metrics.keypoints import ApkScores, PckScores, PoseImage, score_apk, score_pck, torso_scales
from hypercolumns.metrics.oks import OksScores, score_oks
from hypercolumns.metrics.overlaps import Overlaps, box_overlaps, mask_overlaps
from hypercolumns.metrics.parts import part_confusion, part_overlaps
from hypercolumns.metrics.ranking import full_scores, intervals, paired_difference
from hypercolumns.metrics.segmentation import (
    METRICS,
    SegmentationScores,
    confusion_matrix,
    expected_prior_matrix,
    majority_matrix,
    score,
)

__all__ = [
    "METRICS",
    "VOLUME",
    "ApkScores",
    "Diagnosis",
    "InstanceScores",
    "OksScores",
    "Overlaps",
    "PckScores",
    "PoseImage",
    "SegmentationScores",
    "bootstrap_intervals",
    "box_overlaps",
    "confusion_matrix",
    "diagnose",
    "expected_prior_matrix",
    "full_scores",
    "intervals",
    "majority_matrix",
    "mask_overlaps",
    "paired_bootstrap",
    "paired_difference",
    "part_confusion",
    "part_overlaps",
    "score",
    "score_apk",
    "score_instances",
    "score_oks",
    "score_pck",
    "torso_scales",
]
