"""Which boxes an experiment learns from."""

from __future__ import annotations

from typing import Any

from hypercolumns.box_experiments import BoxExperimentSpec
from hypercolumns.box_pairs import BoxPair, draw_pairs, training_pairs
from hypercolumns.errors import TrainingError
from tasks.boxes.manifests import BoxManifest

__all__ = ["draw_boxes"]


def draw_boxes(manifest: BoxManifest, spec: BoxExperimentSpec) -> list[tuple[int, BoxPair]]:
    """Draw the boxes that an experiment learns from: classes evenly, then images, then boxes.

    Returns:
        Each box and its object, with the number of its image in the training split.

    Raises:
        TrainingError: no detection fits an object that has what is to be learned.
    """
    entries = manifest.splits[spec.instances.train_split]
    numbers = {entry.image.image_id: number for number, entry in enumerate(entries)}
    target: Any = {"segment": "mask", "keypoints": "keypoints", "parts": "parts"}[spec.task]
    pairs = training_pairs(
        [entry.annotated for entry in entries],
        {entry.image.image_id: entry.boxes for entry in entries},
        least_iou=spec.pairs.least_iou,
        target=target,
    )
    if not pairs:
        raise TrainingError(
            f"split {spec.instances.train_split!r}: expected detections that overlap an object with {target} by "
            f"{spec.pairs.least_iou:g}, got none; lower pairs.least_iou, or give other detections"
        )
    return [(numbers[pair.image], pair) for pair in draw_pairs(pairs, spec.pairs.boxes, spec.pairs.seed)]
