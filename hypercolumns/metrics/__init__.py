"""Metrics: scores with their uncertainty, each checked against an independent reference."""

from __future__ import annotations

from hypercolumns.metrics.bootstrap import bootstrap_intervals, paired_bootstrap
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
    "SegmentationScores",
    "bootstrap_intervals",
    "confusion_matrix",
    "expected_prior_matrix",
    "majority_matrix",
    "paired_bootstrap",
    "score",
]
