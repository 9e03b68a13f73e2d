"""From a spec to the detections of a split: moved true boxes, a file of results, or a detector run on every image."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from hypercolumns.box_specs import DetectionsSpec
from hypercolumns.datasets.decoding import decode_image
from hypercolumns.datasets.instances.base import InstanceDataset
from hypercolumns.datasets.instances.detections import Detections, suppressed
from hypercolumns.datasets.instances.detectors import TorchvisionDetector
from hypercolumns.datasets.instances.jitter import jittered_detections
from hypercolumns.datasets.instances.results import read_detections

__all__ = ["open_detections", "results_path"]


def results_path(spec: DetectionsSpec, split: str) -> Path:
    """Tell which file the results of a split are read from, for kind ``coco_results``."""
    # Not pathlib's, which passes over a home that does not exist.
    return Path(os.path.expanduser(os.path.expandvars(str(spec.results).replace("{split}", split))))  # noqa: PTH111


def open_detections(
    spec: DetectionsSpec, dataset: InstanceDataset, split: str, *, device: torch.device | str = "cpu"
) -> dict[str, Detections]:
    """Read, make or compute the detections of every image of a split.

    Moved true boxes are given as they are, since each stands for its object; others are suppressed where they overlap a better
    one of their class.

    Args:
        spec: Where they come from.
        dataset: The data set.
        split: The split.
        device: Where a detector runs.

    Returns:
        Detections by image key; an image without any has an entry too.

    Raises:
        DatasetError: the file of results is wrong, or an image cannot be read.
        BackboneError: the detector cannot be built or loaded.
    """
    images = dataset.split(split)
    if spec.kind == "jitter":
        return jittered_detections(images, spread=spec.spread, copies=spec.copies, seed=spec.seed)
    if spec.kind == "coco_results":
        found = read_detections(
            results_path(spec, split),
            dataset,
            split,
            skip=spec.on_bad_record == "skip",
            all_images=spec.on_missing_image == "fail",
        )
    else:
        detector = TorchvisionDetector(spec, dataset.class_names, device=device)
        found = {image.key: detector(decode_image(image.path)) for image in images}
    return {
        key: suppressed(each, most_iou=spec.most_iou, most_boxes=spec.most_boxes, min_score=spec.min_score or None)
        for key, each in found.items()
    }
