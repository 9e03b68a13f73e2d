"""Boxes to learn from, out of a manifest: drawn pairs of box and object, on the canvas, with their targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hypercolumns.box_experiments import BoxExperimentSpec, BoxTask
from hypercolumns.box_pairs import BoxPair
from hypercolumns.crops import crop_edges
from hypercolumns.datasets.instances.sides import mirrored_order
from hypercolumns.geometry import place
from hypercolumns.heatmaps import BoxExamples, Mirror, keypoint_targets, mask_target, part_targets
from hypercolumns.heatmaps.placing import expanded_box
from tasks.boxes.crops import crop_entry, wanted_crops
from tasks.boxes.drawing import draw_boxes
from tasks.boxes.manifests import BoxEntry, BoxManifest, ClassEntry, InstanceEntry
from tasks.manifests import row_key

__all__ = ["box_examples", "box_target", "placed_boxes"]


def box_examples(manifest: BoxManifest, spec: BoxExperimentSpec) -> BoxExamples:
    """Draw the boxes that an experiment learns from: classes evenly, then images, then boxes.

    Raises:
        TrainingError: no detection fits an object that has what is to be learned.
    """
    drawn = draw_boxes(manifest, spec)
    entries = [manifest.splits[spec.instances.train_split][image] for image, _ in drawn]
    boxes, edges = placed_boxes([(entry, pair.box_xyxy) for entry, (_, pair) in zip(entries, drawn, strict=True)], spec)

    def load(number: int) -> NDArray[np.float32]:
        entry, (_, pair) = entries[number], drawn[number]
        return box_target(entry.instances[pair.instance], entry, pair.box_xyxy, manifest, spec)

    names = [_name(pair, manifest) for _, pair in drawn]
    labels = np.array([pair.class_index for _, pair in drawn], np.int64)
    images = np.array(_numbers(manifest, drawn, spec), np.int64)
    return BoxExamples(images, boxes, edges, labels, manifest.outputs(spec), load, names, _mirror(manifest, spec))


def _numbers(manifest: BoxManifest, drawn: Sequence[tuple[int, BoxPair]], spec: BoxExperimentSpec) -> list[int]:
    """Return the number of each drawn box's image, or of its crop, in the source of maps."""
    if spec.maps == "image":
        return [image for image, _ in drawn]
    split = spec.instances.train_split
    places = {row_key(crop, "identity"): place for place, crop in enumerate(wanted_crops(manifest, spec, split))}
    entries = manifest.splits[split]
    return [places[row_key(crop_entry(entries[image], pair.box_xyxy, spec), "identity")] for image, pair in drawn]


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


def placed_boxes(
    boxes: Sequence[tuple[BoxEntry, Sequence[float]]], spec: BoxExperimentSpec
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return boxes of images on the canvas (n, 4), and what of the canvas is image for each (n, 4).

    On a whole image's canvas boxes lie where they do, not expanded; a crop's canvas is the expanded box.
    """
    found, edges = [np.empty((0, 4))], [np.empty((0, 4))]
    height, width = spec.store.canvas.size_hw
    for entry, box in boxes:
        hw = entry.image.image_hw
        if spec.maps == "crop":
            found.append(np.array([[0.0, 0.0, width, height]]))
            edges.append(crop_edges(expanded_box(np.array(box), spec.pairs.expansion), hw, (height, width))[None])
            continue
        placement = place(hw, spec.store.canvas)
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
