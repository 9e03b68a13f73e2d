"""COCO annotations of scenes: instances with boxes, run lengths and keypoints, as plain JSON values.

Ids depend on a scene's index alone, so that a larger set repeats the records of a smaller one. Nothing is written here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hypercolumns.datasets.shapes.figures import FIGURE_CLASSES, FigureClass
from hypercolumns.datasets.shapes.scene import Scene

_IDS_PER_IMAGE = 10
"""More than the figures of any scene."""


def categories(table: tuple[FigureClass, ...] = FIGURE_CLASSES) -> list[dict[str, Any]]:
    """List the classes of a table with their keypoints; skeletons count keypoints from 1, as COCO's do."""
    return [
        {
            "id": label,
            "name": figure.name,
            "supercategory": "figure",
            "keypoints": list(figure.keypoints),
            "skeleton": [[figure.keypoints.index(name) + 1 for name in bone] for bone in figure.skeleton],
        }
        for label, figure in enumerate(table, start=1)
    ]


def image_record(index: int, file_name: str, scene: Scene) -> dict[str, Any]:
    """Describe one image; its id is its index + 1, since some readers take 0 for none."""
    height, width = scene.class_mask.shape
    return {"id": index + 1, "file_name": file_name, "height": int(height), "width": int(width)}


def annotation_records(index: int, scene: Scene) -> list[dict[str, Any]]:
    """Describe every figure of a scene by what is seen of it; the void band of the masks is not cut out."""
    records = []
    for figure in scene.figures:
        mask = scene.object_mask == figure.instance
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        corner = [int(columns[0]), int(rows[0])]
        extent = [int(columns[-1]) + 1 - corner[0], int(rows[-1]) + 1 - corner[1]]
        keypoints = [value for x, y, seen in figure.keypoints.tolist() for value in (x, y, int(seen))]
        records.append(
            {
                "id": _IDS_PER_IMAGE * (index + 1) + figure.instance,
                "image_id": index + 1,
                "category_id": figure.label,
                "bbox": corner + extent,
                "area": int(mask.sum()),
                "segmentation": {"size": [int(side) for side in mask.shape], "counts": run_lengths(mask)},
                "iscrowd": 0,
                "keypoints": keypoints,
                "num_keypoints": int((figure.keypoints[:, 2] > 0).sum()),
            }
        )
    return records


def run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Encode a mask as COCO's uncompressed run lengths: column by column, counting background first.

    Args:
        mask: (h, w).

    Source: the COCO API's mask format (Lin et al. 2014, `maskApi.h`).
    """
    flat = np.concatenate([[False], mask.ravel(order="F"), [not mask[-1, -1]]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(length) for length in np.diff(changes, prepend=0)]
