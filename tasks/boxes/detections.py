"""Where the boxes of an experiment come from: generated scenes are written, detections found, for each split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hypercolumns.box_experiments import BoxExperimentSpec
from hypercolumns.box_specs import InstancesSpec
from hypercolumns.boxes import jitter_boxes
from hypercolumns.datasets.instances import InstanceDataset
from hypercolumns.datasets.instances.detections import Detections, suppressed
from hypercolumns.datasets.shapes import write_shapes
from storage.workspace import Workspace
from tasks.boxes.jobs import BoxJob

__all__ = ["detection_files", "find_detections", "write_instances"]


def write_instances(places: Workspace, spec: InstancesSpec) -> Path | None:
    """Write the generated scenes, where they are asked for, or find them; return their folder."""
    if spec.kind != "shapes":
        return None
    shapes = spec.shapes
    kind = "" if spec.scenery == "varied" else f"-{spec.scenery}"
    root = places.datasets / f"shapes-{shapes.images}x{shapes.size}-seed{shapes.seed}{kind}"
    write_shapes(root, images=shapes.images, size=shapes.size, seed=shapes.seed, scenery=spec.scenery)
    return root


def detection_files(spec: BoxExperimentSpec, splits: Sequence[str]) -> list[Path]:
    """Return the files of scored boxes that an experiment reads."""
    results = spec.detections.results
    return [] if results is None else [Path(results.replace("{split}", split)) for split in splits]


def find_detections(job: BoxJob, dataset: InstanceDataset, split: str, train: bool) -> Mapping[str, Detections]:
    """Return the detections of a split by image; those to be run on are suppressed where they overlap, those learned from not."""
    spec = job.spec.detections
    found = {}
    for image in dataset.split(split):
        chosen = [n for n, i in enumerate(image.instances) if not (i.crowd or i.difficult)] * spec.copies
        if not chosen:
            continue
        random = np.random.default_rng([spec.seed, *image.key.encode()])
        boxes = jitter_boxes(
            np.stack([image.instances[n].box_xyxy for n in chosen]), image.image_hw, random, spread=spec.spread
        )
        labels = np.array([image.instances[n].class_index for n in chosen], np.int64)
        own = Detections(boxes, random.random(len(chosen)), labels, np.array(chosen, np.int64))
        found[image.key] = own if train else suppressed(own, most_iou=spec.most_iou, most_boxes=spec.most_boxes)
    return found
