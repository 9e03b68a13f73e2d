"""Each image's predictions against its objects, as tables of overlaps: what ranking and diagnosis both stand on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hypercolumns.box_experiments import BoxTask
from hypercolumns.metrics import Overlaps, mask_overlaps, part_overlaps
from tasks.boxes.manifests import BoxEntry
from tasks.boxes.predictions import BoxPrediction

__all__ = ["overlap_tables"]


def overlap_tables(
    entries: Sequence[BoxEntry], found: Sequence[Sequence[BoxPrediction]], task: BoxTask
) -> tuple[Overlaps, ...]:
    """Return the overlaps of predictions and objects by mask, or by mask and right parts; none for keypoints.

    Args:
        entries: The images of a split.
        found: The predictions in each image's detections.
        task: Says what overlaps.
    """
    if task == "keypoints":
        return ()
    table = _by_mask if task == "segment" else _by_parts
    return tuple(table(entry, own) for entry, own in zip(entries, found, strict=True))


def _by_mask(entry: BoxEntry, found: Sequence[BoxPrediction]) -> Overlaps:
    hw = entry.image.image_hw
    known = [each for each in entry.instances if each.mask is not None]
    truth = np.stack([each.mask_array(hw) for each in known]) if known else np.zeros((0, *hw), np.bool_)
    masks = np.stack([each.mask_array(hw) for each in found]) if found else np.zeros((0, *hw), np.bool_)
    return mask_overlaps(
        entry.image.image_id,
        masks,
        np.array([each.score for each in found]),
        np.array([each.label for each in found], np.int64),
        truth,
        np.array([each.label for each in known], np.int64),
        np.array([each.ignored for each in known], np.bool_),
    )


def _by_parts(entry: BoxEntry, found: Sequence[BoxPrediction]) -> Overlaps:
    hw = entry.image.image_hw
    known = [each for each in entry.instances if each.parts is not None and not each.ignored]
    return part_overlaps(
        entry.image.image_id,
        [each.part_map(hw) for each in found],
        np.array([each.score for each in found]),
        np.array([each.label for each in found], np.int64),
        [each.part_map(hw) for each in known],
        np.array([each.label for each in known], np.int64),
    )
