"""Boxes to learn from, out of a manifest: drawn pairs of box and object, on the canvas, with their targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hypercolumns.box_experiments import BoxExperimentSpec, BoxTask
from hypercolumns.box_pairs import BoxPair, draw_pairs, training_pairs
from hypercolumns.datasets.instances.sides import mirrored_order
from hypercolumns.errors import TrainingError
from hypercolumns.geometry import place
from hypercolumns.heatmaps import BoxExamples, Mirror, keypoint_targets, mask_target, part_targets
from hypercolumns.specs import CanvasSpec
from tasks.boxes.manifests import BoxEntry, BoxManifest, ClassEntry, InstanceEntry

__all__ = ["box_examples", "box_target", "canvas_boxes"]


def box_examples(manifest: BoxManifest, spec: BoxExperimentSpec) -> BoxExamples:
    """Draw the boxes that an experiment learns from: classes evenly, then images, then boxes.

    Raises:
        TrainingError: no detection fits an object that has what is to be learned.
    """
    entries = manifest.splits[spec.instances.train_split]
    numbers = {entry.image.image_id: number for number, entry in enumerate(entries)}
    target = {"segment": "mask", "keypoints": "keypoints", "parts": "parts"}[spec.task]
    pairs = training_pairs(
        [entry.annotated for entry in entries],
        {entry.image.image_id: entry.boxes for entry in entries},
        least_iou=spec.pairs.least_iou,
        target=target,  # type: ignore[arg-type]
    )
    if not pairs:
        raise TrainingError(
            f"split {spec.instances.train_split!r}: expected detections that overlap an object with {target} by "
            f"{spec.pairs.least_iou:g}, got none; lower pairs.least_iou, or give other detections"
        )
    drawn = draw_pairs(pairs, spec.pairs.boxes, spec.pairs.seed)
    images = np.array([numbers[pair.image] for pair in drawn], np.int64)
    boxes, edges = canvas_boxes(
        [(entries[image], pair.box_xyxy) for image, pair in zip(images, drawn, strict=True)], spec.store.canvas
    )

    def load(number: int) -> NDArray[np.float32]:
        pair = drawn[number]
        entry = entries[images[number]]
        return box_target(entry.instances[pair.instance], entry, pair.box_xyxy, manifest, spec)

    names = [_name(pair, manifest) for pair in drawn]
    labels = np.array([pair.class_index for pair in drawn], np.int64)
    return BoxExamples(images, boxes, edges, labels, manifest.outputs(spec), load, names, _mirror(manifest, spec))


def _mirror(manifest: BoxManifest, spec: BoxExperimentSpec) -> Mirror | None:
    """Return how to learn from mirrored images, if the experiment does."""
    if "hflip" not in spec.store.views:
        return None
    orders = [mirrored_order(_output_names(own, spec.task)) for own in manifest.classes]
    return Mirror(spec.store.canvas.size_hw[1], orders)


def _output_names(own: ClassEntry, task: BoxTask) -> tuple[str, ...]:
    """Name a class's outputs; that which shows the whole object has no name, and so no side."""
    return {"segment": ("",), "keypoints": own.keypoints, "parts": ("", *own.parts)}[task]


def _name(pair: BoxPair, manifest: BoxManifest) -> str:
    return f"image {pair.image!r}, {manifest.class_names[pair.class_index]} at {[round(side, 1) for side in pair.box_xyxy]}"


def canvas_boxes(
    boxes: Sequence[tuple[BoxEntry, Sequence[float]]], canvas: CanvasSpec
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return boxes of images on the canvas (n, 4), and what of the canvas is image for each (n, 4)."""
    found, edges = [np.empty((0, 4))], [np.empty((0, 4))]
    for entry, box in boxes:
        placement = place(entry.image.image_hw, canvas)
        found.append(placement.to_canvas(torch.tensor([list(box)], dtype=torch.float64)).numpy())
        top, left, bottom, right = placement.box_yxyx
        edges.append(np.array([[left, top, right, bottom]], np.float64))
    return np.concatenate(found), np.concatenate(edges)


def box_target(
    instance: InstanceEntry, entry: BoxEntry, box_xyxy: Sequence[float], manifest: BoxManifest, spec: BoxExperimentSpec
) -> NDArray[np.float32]:
    """Return what the heatmaps of an object's class are to be in a box (outputs, S, S)."""
    hw, box = entry.image.image_hw, np.array(box_xyxy, np.float64)
    side, expansion = spec.pairs.side, spec.pairs.expansion
    if spec.task == "segment":
        return mask_target(instance.mask_array(hw), box, side, expansion)[None]
    if spec.task == "keypoints":
        there = instance.visibility > (0 if spec.train.hidden_keypoints else 1)
        return keypoint_targets(instance.points_xy, there, box, hw, side, expansion, spec.train.keypoint_sigma)
    parts = instance.part_map(hw)
    inside = mask_target(parts > 0, box, side, expansion)[None]
    return np.concatenate([inside, part_targets(parts, len(manifest.classes[instance.label].parts), box, side, expansion)])
