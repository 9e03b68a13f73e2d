"""Evaluate: predict in the boxes of the val split, score head and baselines on one protocol, and keep the predictions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hypercolumns.box_experiments import BoxExperimentSpec
from hypercolumns.metrics.ranking import Summary, paired_difference
from hypercolumns.read_ahead import read_ahead
from storage.canonical import digest
from storage.errors import AlreadyPublishedError
from storage.models import model_exists, read_description, save_model
from tasks.boxes.baselines import box_baselines
from tasks.boxes.heads import load_head
from tasks.boxes.jobs import BoxEvaluated, BoxJob, BoxPrepared, BoxTrained
from tasks.boxes.manifests import BoxEntry, BoxManifest, load_box_manifest
from tasks.boxes.maps import open_box_maps
from tasks.boxes.mistakes import diagnose_boxes
from tasks.boxes.predicted import predicted_boxes
from tasks.boxes.predictions import BoxPrediction, HeadPredictor, Predictor
from tasks.boxes.scoring import Predictions, describe_scores, protocol_line, score_name, summarise_boxes
from tasks.boxes.tables import overlap_tables
from tasks.jobs import Extracted
from tasks.record import note_use

__all__ = ["evaluate_boxes", "load_predictions", "predict_split"]


_VERSION = 2
"""Raised when the same head and images would give another evaluation."""


def evaluate_boxes(
    job: BoxJob, prepared: BoxPrepared, extracted: Extracted, trained: BoxTrained, *, baselines: bool = True
) -> BoxEvaluated:
    """Score the head and its baselines (or the head alone) on the val split, or find the scores."""
    start = time.perf_counter()
    spec = job.spec
    manifest = load_box_manifest(prepared.path)
    key = digest(
        {
            "version": _VERSION,
            "baselines": baselines,
            "model": trained.key,
            "boxes": manifest.content_key(spec.instances.val_split),
            "evaluate": spec.evaluate.model_dump(mode="json", exclude={"panels"}),
        }
    )
    note_use(job.features, key)
    cached = model_exists(job.places.evaluations, key)
    if not cached:
        description = _evaluate(job, prepared, manifest, trained, baselines=baselines)
        with contextlib.suppress(AlreadyPublishedError):
            # Predictions are JSON; a model's folder holds at least one tensor.
            save_model(job.places.evaluations, key, {"images": np.array([description["images"]])}, description)
    path = job.places.evaluations / key
    kept = read_description(path)
    scores = kept["scores"]
    return BoxEvaluated(
        key=key,
        path=path,
        cached=cached,
        seconds=time.perf_counter() - start,
        protocol=kept["protocol"],
        metrics=scores["model"],
        baselines={name: values for name, values in scores.items() if name != "model"},
    )


def load_predictions(path: Path) -> Predictions:
    """Read the head's predictions out of an evaluation."""
    kept = read_description(path)["predictions"]
    return {kind: [[BoxPrediction.model_validate(each) for each in image] for image in images] for kind, images in kept.items()}


def _evaluate(
    job: BoxJob, prepared: BoxPrepared, manifest: BoxManifest, trained: BoxTrained, *, baselines: bool
) -> dict[str, Any]:
    spec = job.spec
    split = spec.instances.val_split
    model, rescorer, card = load_head(trained.path)
    maps = open_box_maps(job, prepared, split, passes=1)
    predictors: dict[str, Predictor] = {"model": HeadPredictor(model, card.blocks, maps, spec, rescorer)}
    predictors |= box_baselines(manifest, spec) if baselines else {}
    scores: dict[str, Any] = {}
    summaries: dict[str, dict[str, Summary]] = {}
    kept: Predictions = {}
    for name, predictor in predictors.items():
        predictions = predict_split(manifest, split, predictor, spec, name)
        tables = overlap_tables(manifest.splits[split], predictions["found"], spec.task)
        summaries[name] = summarise_boxes(manifest, split, predictions, spec, tables)
        scores[name] = describe_scores(summaries[name], spec)
        if tables:
            scores[name]["mistakes"] = diagnose_boxes(tables, manifest.class_names, spec)
        if name == "model":
            kept = predictions
        elif spec.evaluate.bootstrap:
            scores[name]["model_better_by"] = _differences(summaries["model"], summaries[name], spec)
    return {
        "task": spec.task,
        "protocol": f"split {split}; {protocol_line(spec, summaries['model'])}",
        "images": len(manifest.splits[split]),
        "scores": scores,
        "predictions": {
            kind: [[each.model_dump(mode="json") for each in image] for image in images] for kind, images in kept.items()
        },
    }


def _differences(
    model: Mapping[str, Summary], other: Mapping[str, Summary], spec: BoxExperimentSpec
) -> dict[str, dict[str, float]]:
    """Compare the model with a baseline on the same images, score by score, where both define one."""
    found = {}
    for kind, summary in model.items():
        ones = np.ones((1, summary.images))
        first, second = summary.summarise(ones), other[kind].summarise(ones)
        for name in first:
            defined = name in second and not np.isnan(first[name][0]) and not np.isnan(second[name][0])
            if "/" not in name and defined and summary.images > 1:
                found[score_name(kind, name)] = paired_difference(
                    summary, other[kind], name, resamples=spec.evaluate.bootstrap, confidence=spec.evaluate.confidence
                )
    return found


def predict_split(
    manifest: BoxManifest, split: str, predictor: Predictor, spec: BoxExperimentSpec, name: str = "model"
) -> Predictions:
    """Predict in the detections of every image of a split, and (keypoints and parts) in the objects' own boxes."""
    entries = manifest.splits[split]
    found: list[list[BoxPrediction]] = []
    given: list[list[BoxPrediction]] = []

    def predict(index: int) -> tuple[list[BoxPrediction], list[BoxPrediction]]:
        entry = entries[index]
        boxes, truth = predicted_boxes(entry, manifest, spec)
        both = predictor(index, entry, [*boxes, *truth], lambda: manifest.image(entry))
        return _divided(both, entry, boxes, spec)

    for first, second in tqdm(
        read_ahead(range(len(entries)), predict), total=len(entries), unit="img", desc=f"evaluate {name}", disable=None
    ):
        found.append(first)
        given.append(second)
    return {"found": found} if spec.task == "segment" else {"found": found, "given": given}


def _divided(
    both: list[BoxPrediction], entry: BoxEntry, boxes: list[Any], spec: BoxExperimentSpec
) -> tuple[list[BoxPrediction], list[BoxPrediction]]:
    """Tell what was predicted in detections from what was predicted in true boxes, which came after them."""
    return (both, []) if spec.task == "segment" else (both[: len(boxes)], both[len(boxes) :])
