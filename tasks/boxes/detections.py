"""Where the boxes of an experiment come from: generated scenes are written, detections found, for each split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hypercolumns.box_experiments import BoxExperimentSpec
from hypercolumns.box_specs import InstancesSpec
from hypercolumns.datasets.instances import Detections, InstanceDataset, open_detections, results_path
from hypercolumns.datasets.shapes import write_shapes
from storage.workspace import Workspace

__all__ = ["detection_files", "find_detections", "write_instances"]


def write_instances(places: Workspace, spec: InstancesSpec) -> Path | None:
    """Write the generated scenes, where they are asked for, or find them; return their folder."""
    if spec.kind != "shapes":
        return None
    shapes = spec.shapes
    # The varied ones are those of segmentation experiments, in the same folder.
    kind = "" if spec.scenery == "varied" else f"-{spec.scenery}"
    root = places.datasets / f"shapes-{shapes.images}x{shapes.size}-seed{shapes.seed}{kind}"
    write_shapes(root, images=shapes.images, size=shapes.size, seed=shapes.seed, scenery=spec.scenery)
    return root


def detection_files(spec: BoxExperimentSpec, splits: Sequence[str]) -> list[Path]:
    """Return the files that an experiment's detections depend on."""
    detections = spec.detections
    if detections.kind == "coco_results":
        return [results_path(detections, split) for split in splits]
    return [Path(str(detections.weights)).expanduser()] if detections.kind == "torchvision" else []


def find_detections(spec: BoxExperimentSpec, dataset: InstanceDataset, split: str) -> dict[str, Detections]:
    """Return the detections of a split by image; of moved true boxes, copies are for learning alone."""
    detections = spec.detections
    if split != spec.instances.train_split:
        detections = detections.model_copy(update={"copies": 1})
    return open_detections(detections, dataset, split)
