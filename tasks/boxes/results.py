"""Predictions as COCO results JSON: masks as run lengths, keypoints as x, y, v; what other tools read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storage.publish import replace_bytes
from tasks.boxes.manifests import BoxEntry, ClassEntry
from tasks.boxes.poses import pose_score
from tasks.boxes.predictions import BoxPrediction

__all__ = ["result_records", "write_results"]


def write_results(
    path: Path, entries: Sequence[BoxEntry], classes: Sequence[ClassEntry], found: Sequence[Sequence[BoxPrediction]]
) -> None:
    """Write the predictions of images as one COCO results file."""
    records = [record for entry, own in zip(entries, found, strict=True) for record in result_records(entry, classes, own)]
    replace_bytes(path, json.dumps(records, separators=(",", ":"), allow_nan=False).encode())


def result_records(entry: BoxEntry, classes: Sequence[ClassEntry], found: Sequence[BoxPrediction]) -> list[dict[str, Any]]:
    """Return COCO result records; parts, which COCO does not know, stand beside them as `parts`, by name."""
    height, width = entry.image.image_hw
    records = []
    for each in found:
        x0, y0, x1, y1 = each.box_xyxy
        own = classes[each.label]
        record: dict[str, Any] = {
            "image_id": entry.number,
            "category_id": own.category_id,
            "score": pose_score(each),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
        }
        if each.mask is not None:
            record["segmentation"] = {"size": [height, width], "counts": each.mask}
        if each.points_xys is not None:
            # COCO's files number pixels, whose centres lie half a pixel further here.
            record["keypoints"] = [value for x, y, _ in each.points_xys for value in (x - 0.5, y - 0.5, 1)]
            record["keypoint_scores"] = [score for _, _, score in each.points_xys]
        if each.parts is not None:
            runs = [{"size": [height, width], "counts": text} for text in each.parts]
            record["parts"] = dict(zip(own.parts, runs, strict=True))
        records.append(record)
    return records
