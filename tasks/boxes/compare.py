"""Compare: train heads on fewer layers and with fewer classifiers on one feature store, and say what each is worth."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from hypercolumns.box_experiments import BoxExperimentSpec, CompareSpec
from hypercolumns.metrics.ranking import paired_difference
from hypercolumns.specs import parse_spec
from storage.models import read_description
from tasks.boxes.evaluate import evaluate_boxes, load_predictions
from tasks.boxes.jobs import BoxEvaluated, BoxJob, BoxPrepared, BoxTrained
from tasks.boxes.manifests import load_box_manifest
from tasks.boxes.scoring import HEADLINES, summarise_boxes
from tasks.boxes.train import train_head
from tasks.jobs import Extracted, Message, Stage

__all__ = ["Compared", "Difference", "HeadRow", "Variant", "compare_variants", "task_spec", "variants", "with_head"]


class Variant(Message):
    """One head: its layers (none for all), its grid, and what is said of it."""

    name: str
    layers: tuple[str, ...] | None
    grid: int


class HeadRow(Message):
    """What one head scored on one task, and what it cost."""

    task: str
    name: str
    layers: tuple[str, ...]
    grid: int
    columns: int
    scores: dict[str, float | None]
    intervals: dict[str, tuple[float, float]]
    train_seconds: float
    evaluate_seconds: float
    cached: bool
    map_bytes: int


class Difference(Message):
    """How much better one head is than another on the same images."""

    task: str
    score: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    probability_better: float


class Compared(Stage):
    """All rows, and what set the pairs apart."""

    rows: tuple[HeadRow, ...]
    differences: tuple[Difference, ...]


def task_spec(spec: CompareSpec, task: str) -> BoxExperimentSpec:
    """Return the experiment of a task: the base with what its task has not left out.

    Raises:
        SpecError: the base does not fit the task.
    """
    values = spec.base.model_dump(mode="json") | {"task": task}
    if task != "segment":
        values["head"]["class_agnostic"], values["evaluate"]["rescore"] = False, False
    return parse_spec(BoxExperimentSpec, values)


def variants(spec: CompareSpec, layers: Sequence[str]) -> tuple[Variant, ...]:
    """List the heads: deepest layer, +middle, +finest, each layer left out, and all layers under each grid.

    Args:
        spec: Which grids.
        layers: The backbone's layers, shallow to deep.
    """
    finest, middle, deepest = layers[0], layers[len(layers) // 2], layers[-1]
    grid = spec.layer_grid
    found = [Variant(name=f"all layers, K = {each}", layers=None, grid=each) for each in sorted({*spec.grids, grid})]
    if len(layers) < 2:
        return tuple(found)
    found.append(Variant(name="deepest", layers=(deepest,), grid=grid))
    if len(layers) > 2:
        found.append(Variant(name="deepest + middle", layers=(middle, deepest), grid=grid))
        found.append(Variant(name="deepest + middle + finest", layers=(finest, middle, deepest), grid=grid))
    else:
        found.append(Variant(name="deepest + finest", layers=(finest, deepest), grid=grid))
    if spec.leave_out and len(layers) > 2:
        for each in layers:
            found.append(Variant(name=f"without {each}", layers=tuple(name for name in layers if name != each), grid=grid))
    return tuple(found)


def with_head(spec: BoxExperimentSpec, variant: Variant) -> BoxExperimentSpec:
    """Return an experiment with another head."""
    head = spec.head.model_copy(update={"layers": variant.layers, "grid": variant.grid})
    return spec.model_copy(update={"head": head})


def compare_variants(job: BoxJob, spec: CompareSpec, task: str, prepared: BoxPrepared, extracted: Extracted) -> Compared:
    """Train and score every head of a task, or find it, and compare each with all layers under the same grid, and grids.

    Args:
        job: The experiment of the task.
        spec: What is compared.
        task: The task.
        prepared: Its images, the same for all heads.
        extracted: The store, the same for all heads.
    """
    start = time.perf_counter()
    done: dict[str, tuple[BoxTrained, BoxEvaluated]] = {}
    chosen = variants(spec, list(extracted.cache))
    for variant in chosen:
        own = job.model_copy(update={"spec": with_head(job.spec, variant)})
        trained = train_head(own, prepared, extracted)
        done[variant.name] = trained, evaluate_boxes(own, prepared, extracted, trained, baselines=False)
    rows = tuple(_row(task, variant, *done[variant.name], extracted) for variant in chosen)
    return Compared(
        key="-".join(dict.fromkeys(evaluated.key for _, evaluated in done.values()))[:64],
        path=job.places.evaluations,
        cached=all(trained.cached and evaluated.cached for trained, evaluated in done.values()),
        seconds=time.perf_counter() - start,
        rows=rows,
        differences=_differences(job, spec, task, prepared, {name: evaluated for name, (_, evaluated) in done.items()}),
    )


def _row(task: str, variant: Variant, trained: BoxTrained, evaluated: BoxEvaluated, extracted: Extracted) -> HeadRow:
    card = read_description(trained.path)
    layers = tuple(layer["name"] for layer in card["layers"])
    scores = {name: value for name, value in evaluated.metrics.items() if name not in {"intervals", "per_class", "mistakes"}}
    return HeadRow(
        task=task,
        name=variant.name,
        layers=layers,
        grid=variant.grid,
        columns=sum(layer["channels"] for layer in card["layers"]),
        scores=scores,
        intervals={name: (low, high) for name, (low, high) in evaluated.metrics["intervals"].items() if name in scores},
        train_seconds=trained.seconds,
        evaluate_seconds=evaluated.seconds,
        cached=trained.cached and evaluated.cached,
        map_bytes=sum(extracted.layer_bytes[name] for name in layers),
    )


def _differences(
    job: BoxJob, spec: CompareSpec, task: str, prepared: BoxPrepared, done: dict[str, BoxEvaluated]
) -> tuple[Difference, ...]:
    """Compare every head with the one on all layers under the common grid, on the same drawn images."""
    if not job.spec.evaluate.bootstrap or len(load_box_manifest(prepared.path).splits[job.spec.instances.val_split]) < 2:
        return ()
    manifest, split = load_box_manifest(prepared.path), job.spec.instances.val_split
    kinds = dict.fromkeys(score.split("@")[0] for score in compared_scores(task))
    summaries = {
        name: summarise_boxes(manifest, split, load_predictions(evaluated.path), job.spec) for name, evaluated in done.items()
    }
    reference = f"all layers, K = {spec.layer_grid}"
    pairs = [(reference, name) for name in done if name != reference]
    if "all layers, K = 1" in done:
        pairs += [(name, "all layers, K = 1") for name in done if name.startswith("all layers") and not name.endswith("= 1")]
    found = []
    for score in compared_scores(task):
        kind, inner = next((each, _inner(score, each)) for each in kinds if score.startswith(each))
        for first, second in dict.fromkeys(pairs):
            both = summaries[first].get(kind), summaries[second].get(kind)
            if both[0] is None or both[1] is None:
                continue
            values: dict[str, Any] = paired_difference(
                both[0],
                both[1],
                inner,
                resamples=job.spec.evaluate.bootstrap,
                confidence=job.spec.evaluate.confidence,
            )
            found.append(Difference(task=task, score=score, first=first, second=second, **values))
    return tuple(found)


def compared_scores(task: str) -> tuple[str, ...]:
    """Return the scores by which heads are compared: the task's own, and a stricter or a steadier one."""
    more = {"segment": ("ap_r@0.7", "mask_iou"), "keypoints": ("apk@0.1",), "parts": ("part_iou",)}[task]
    return (HEADLINES[task], *more)


def _inner(score: str, kind: str) -> str:
    """Return what a summary itself calls a score: AP^r and AP^r_part are its `ap`."""
    return score.replace(kind, "ap", 1) if kind.startswith("ap_r") else score
