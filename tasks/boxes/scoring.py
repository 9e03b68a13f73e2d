"""Scores of predictions in boxes: what each task is measured by, with intervals, and the rule that says what a number means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hypercolumns.box_experiments import BoxExperimentSpec
from hypercolumns.boxes import longer_sides, pixel_slices
from hypercolumns.metrics import (
    VOLUME,
    Overlaps,
    PoseImage,
    box_overlaps,
    full_scores,
    intervals,
    part_confusion,
    score_apk,
    score_instances,
    score_pck,
    torso_scales,
)
from hypercolumns.metrics.averages import MeanOf, box_mask_iou, score_means
from hypercolumns.metrics.part_scores import PartScores
from hypercolumns.metrics.ranking import Summary
from tasks.boxes.manifests import BoxEntry, BoxManifest, InstanceEntry
from tasks.boxes.poses import COCO_KEYPOINTS, score_poses
from tasks.boxes.predictions import BoxPrediction
from tasks.boxes.tables import overlap_tables

__all__ = ["HEADLINES", "Predictions", "describe_scores", "protocol_line", "summarise_boxes"]

Predictions = Mapping[str, Sequence[Sequence[BoxPrediction]]]
"""By box: `found` in detections, `given` in true boxes; for each image of the split its predictions."""

HEADLINES = {"segment": "ap_r@0.5", "keypoints": "pck@0.1", "parts": "ap_r_part@0.5"}
"""The score by which predictors of a task are compared."""


def summarise_boxes(
    manifest: BoxManifest,
    split: str,
    predictions: Predictions,
    spec: BoxExperimentSpec,
    tables: Sequence[Overlaps] | None = None,
) -> dict[str, Summary]:
    """Judge predictions once, so that they can be scored on any set of images.

    Args:
        manifest: The truth.
        split: Name of the split.
        predictions: As of `Predictions`; the images in the split's order.
        spec: Task and protocol.
        tables: Of `overlap_tables`, where they are known already.
    """
    entries = manifest.splits[split]
    if spec.task == "keypoints":
        return _keypoints(manifest, entries, predictions, spec)
    known = overlap_tables(entries, predictions["found"], spec.task) if tables is None else tables
    scorer = {"segment": _segment, "parts": _parts}[spec.task]
    return scorer(manifest, entries, predictions, spec, known)


def _segment(
    manifest: BoxManifest,
    entries: Sequence[BoxEntry],
    predictions: Predictions,
    spec: BoxExperimentSpec,
    tables: Sequence[Overlaps],
) -> dict[str, Summary]:
    boxes, overlaps = [], []
    for number, (entry, found) in enumerate(zip(entries, predictions["found"], strict=True)):
        hw = entry.image.image_hw
        boxes.append(_box_table(entry, found))
        for each in found:
            if each.source >= 0 and entry.instances[each.source].mask is not None:
                window, truth = pixel_slices(np.array(each.box_xyxy), hw), entry.instances[each.source].mask_array(hw)
                overlaps.append((box_mask_iou(each.mask_array(hw), truth, window), each.label, number))
    values, owners, images = (np.array(part) for part in zip(*overlaps, strict=True)) if overlaps else [np.empty(0)] * 3
    names, rule = manifest.class_names, spec.evaluate.evaluator
    return {
        "ap_r": score_instances(tables, names, thresholds=VOLUME, evaluator=rule),
        "ap_b": score_instances(boxes, names, thresholds=(0.5, 0.7), evaluator=rule),
        "mask_iou": score_means("mask_iou", values, owners.astype(np.int64), images.astype(np.int64), len(entries), names),
    }


def _box_table(entry: BoxEntry, found: Sequence[BoxPrediction]) -> Overlaps:
    return box_overlaps(
        entry.image.image_id,
        np.array([each.box_xyxy for each in found], np.float64).reshape(-1, 4),
        np.array([each.score for each in found]),
        np.array([each.label for each in found], np.int64),
        np.array([each.box_xyxy for each in entry.instances], np.float64).reshape(-1, 4),
        np.array([each.label for each in entry.instances], np.int64),
        np.array([each.ignored for each in entry.instances], np.bool_),
    )


def _keypoints(
    manifest: BoxManifest, entries: Sequence[BoxEntry], predictions: Predictions, spec: BoxExperimentSpec
) -> dict[str, Summary]:
    kinds: dict[str, dict[str, Summary]] = {}
    for label, own in enumerate(manifest.classes):
        given = _given_poses(entries, predictions["given"], label) if own.keypoints else []
        if not given:
            continue
        images = np.array([number for number, _, _ in given])
        points = np.array([each.points_xys for _, each, _ in given])[..., :2]
        truth = np.stack([instance.points_xy for _, _, instance in given])
        labelled = np.stack([instance.visibility > 0 for _, _, instance in given])
        scales = {"pck": longer_sides(np.array([instance.box_xyxy for _, _, instance in given]))}
        torso, names, alphas = spec.evaluate.torso, own.keypoints, spec.evaluate.alphas
        if torso is not None and set(torso) <= set(names):
            scales["pck_torso"] = torso_scales(truth, labelled, (names.index(torso[0]), names.index(torso[1])))
        for kind, scale in scales.items():
            # Images without a pose keep their numbers, so that all summaries are of the same images.
            found = _padded_pck(points, truth, labelled, scale, images, len(entries), names, alphas)
            kinds.setdefault(kind, {})[own.name] = found
        poses = [_pose_image(entry, each, label, len(names)) for entry, each in zip(entries, predictions["found"], strict=True)]
        kinds.setdefault("apk", {})[own.name] = score_apk(poses, names, alphas=alphas)
        if len(names) == COCO_KEYPOINTS:
            kinds.setdefault("oks_ap", {})[own.name] = score_poses(manifest, entries, predictions["found"], label)
    return {kind: next(iter(each.values())) if len(each) == 1 else MeanOf(each) for kind, each in kinds.items()}


def _given_poses(
    entries: Sequence[BoxEntry], given: Sequence[Sequence[BoxPrediction]], label: int
) -> list[tuple[int, BoxPrediction, InstanceEntry]]:
    return [
        (number, each, entry.instances[each.source])
        for number, (entry, found) in enumerate(zip(entries, given, strict=True))
        for each in found
        if each.label == label
    ]


def _padded_pck(
    points: Any, truth: Any, labelled: Any, scales: Any, images: Any, count: int, names: Sequence[str], alphas: Sequence[float]
) -> Summary:
    found = score_pck(points, truth, labelled, scales, images, names, alphas=alphas)
    missing = count - found.images
    right = np.concatenate([found.right, np.zeros((missing, *found.right.shape[1:]), found.right.dtype)])
    padded = np.concatenate([found.labelled, np.zeros((missing, found.labelled.shape[1]), found.labelled.dtype)])
    return type(found)(found.names, found.alphas, right, padded, found.left_out)


def _pose_image(entry: BoxEntry, found: Sequence[BoxPrediction], label: int, count: int) -> PoseImage:
    own = [each for each in found if each.label == label]
    truth = [each for each in entry.instances if each.label == label and each.keypoints_xyv is not None and not each.ignored]
    truth = [each for each in truth if (each.visibility > 0).any()]
    lines = np.array([each.points_xys for each in own], np.float64).reshape(len(own), count, 3)
    return PoseImage(
        entry.image.image_id,
        lines[..., :2],
        lines[..., 2],
        np.array([each.points_xy for each in truth], np.float64).reshape(len(truth), count, 2),
        np.array([each.visibility > 0 for each in truth], np.bool_).reshape(len(truth), count),
        longer_sides(np.array([each.box_xyxy for each in truth], np.float64).reshape(-1, 4)),
    )


def _parts(
    manifest: BoxManifest,
    entries: Sequence[BoxEntry],
    predictions: Predictions,
    spec: BoxExperimentSpec,
    tables: Sequence[Overlaps],
) -> dict[str, Summary]:
    matrices = {
        number: np.zeros((len(entries), len(each.parts) + 1, len(each.parts) + 1), np.int64)
        for number, each in enumerate(manifest.classes)
        if each.parts
    }
    for number, (entry, given) in enumerate(zip(entries, predictions["given"], strict=True)):
        hw = entry.image.image_hw
        for each in given:
            truth, box = entry.instances[each.source].part_map(hw), np.array([each.box_xyxy])
            parts = len(manifest.classes[each.label].parts)
            matrices[each.label][number] += part_confusion(truth, each.part_map(hw), box, parts)
    names = {number: (each.name, each.parts) for number, each in enumerate(manifest.classes) if each.parts}
    return {
        "ap_r_part": score_instances(tables, manifest.class_names, thresholds=VOLUME, evaluator=spec.evaluate.evaluator),
        "part_iou": PartScores(tuple(names[label] for label in matrices), tuple(matrices.values())),
    }


def describe_scores(summaries: Mapping[str, Summary], spec: BoxExperimentSpec) -> dict[str, Any]:
    """Return every score with its interval, the names of classes and keypoints kept apart under `per_class`."""
    scores: dict[str, Any] = {"intervals": {}, "per_class": {}}
    for kind, summary in summaries.items():
        full = full_scores(summary)
        bounds = {}
        if spec.evaluate.bootstrap:
            bounds = intervals(summary, resamples=spec.evaluate.bootstrap, confidence=spec.evaluate.confidence)
        for name, value in full.items():
            shown = score_name(kind, name)
            place = scores if "/" not in name or name.endswith("/all") else scores["per_class"]
            place[shown] = value
            if name in bounds:
                scores["intervals"][shown] = list(bounds[name])
    return scores


def score_name(kind: str, name: str) -> str:
    """Return a score's name for people: that of the summary, and what it was asked for (threshold, class)."""
    head, tail = (name.split("@", 1)[0], "@" + name.split("@", 1)[1]) if "@" in name else (name.split("/", 1)[0], "")
    if not tail and "/" in name:
        tail = "/" + name.split("/", 1)[1]
    suffix = "_volume" if head.endswith("_volume") else ""
    return f"{kind}{suffix}{tail}"


def protocol_line(spec: BoxExperimentSpec, summaries: Mapping[str, Summary]) -> str:
    """Say in one line what the scores mean: it stands beside every number."""
    rules = {
        "segment": "AP^r by masks, AP^b by boxes; mask IoU inside the detection's box, mean over classes",
        "keypoints": "PCK in true boxes, APK in detections; scale: longer side of the true box",
        "parts": "AP^r_part: pixels count with the right part only; part IU in true boxes, each object on its own",
    }[spec.task]
    said = [str(protocol) for each in summaries.values() if (protocol := getattr(each, "protocol", None))]
    detections = {
        "jitter": f"detections: true boxes moved by up to {spec.detections.spread:g} of their size",
        "coco_results": "detections: from a file",
        "torchvision": f"detections: {spec.detections.detector}",
    }[spec.detections.kind]
    return "; ".join([rules, *dict.fromkeys(said), detections])
