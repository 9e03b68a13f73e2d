"""Which boxes of an image are predicted in."""

from __future__ import annotations

from collections.abc import Callable

from hypercolumns.box_experiments import BoxExperimentSpec
from tasks.boxes.manifests import BoxEntry, BoxManifest, DetectionEntry, InstanceEntry

__all__ = ["predicted_boxes", "truth_boxes"]


def predicted_boxes(
    entry: BoxEntry, manifest: BoxManifest, spec: BoxExperimentSpec
) -> tuple[list[DetectionEntry], list[DetectionEntry]]:
    """Return an image's detections of classes that have what is predicted, and (keypoints and parts) its objects' own boxes."""
    if spec.task == "segment":
        return list(entry.detections), []
    has = [bool(each.keypoints if spec.task == "keypoints" else each.parts) for each in manifest.classes]
    return [box for box in entry.detections if has[box.label]], truth_boxes(entry, lambda each: _annotated(each, spec))


def truth_boxes(entry: BoxEntry, wanted: Callable[[InstanceEntry], bool]) -> list[DetectionEntry]:
    """Return the objects' own boxes, each as a detection of score 1."""
    return [
        DetectionEntry(label=each.label, box_xyxy=each.box_xyxy, score=1.0, source=number)
        for number, each in enumerate(entry.instances)
        if not each.ignored and wanted(each)
    ]


def _annotated(instance: InstanceEntry, spec: BoxExperimentSpec) -> bool:
    if spec.task == "keypoints":
        return instance.keypoints_xyv is not None and bool((instance.visibility > 0).any())
    return instance.parts is not None
