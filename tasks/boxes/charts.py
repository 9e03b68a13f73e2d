"""Charts of a report inside boxes: precision against recall, right keypoints against tolerance, bars by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hypercolumns.box_experiments import BoxExperimentSpec
from hypercolumns.metrics.averages import MeanOf
from hypercolumns.metrics.instances import InstanceScores
from hypercolumns.metrics.ranking import Ranking, Summary
from hypercolumns.reporting import numbers
from hypercolumns.reporting.box_data import Chart, Series
from tasks.boxes.baselines import TITLES
from tasks.boxes.mistakes import KINDS

__all__ = ["box_charts"]

_POINTS = 200
_CURVES = 6
_BARS = 24


def box_charts(
    spec: BoxExperimentSpec, summaries: Mapping[str, Summary], scores: Mapping[str, Mapping[str, Any]]
) -> tuple[Chart, ...]:
    """Draw up the charts of a task.

    Args:
        spec: The experiment.
        summaries: Of the head's predictions.
        scores: Of all predictors.
    """
    found = []
    if spec.task == "keypoints":
        for kind in ("pck", "apk"):
            found += _tolerance_curves(kind, spec, scores)
    for summary in summaries.values():
        if isinstance(summary, InstanceScores) and 0.5 in summary.rankings:
            found.append(_precision_recall(summary, "AP^b" if summary is summaries.get("ap_b") else "AP^r"))
        if isinstance(summary, MeanOf) and spec.task == "keypoints":
            break
    return (*found, *_bars(spec, scores), *_mistakes(scores["model"].get("mistakes")))


def _tolerance_curves(kind: str, spec: BoxExperimentSpec, scores: Mapping[str, Mapping[str, Any]]) -> list[Chart]:
    alphas = tuple(sorted(spec.evaluate.alphas))
    series = tuple(
        Series(TITLES.get(name, name), tuple(values.get(f"{kind}@{alpha:g}") or 0.0 for alpha in alphas))
        for name, values in scores.items()
    )
    if f"{kind}@{alphas[0]:g}" not in scores["model"]:
        return []
    return [
        Chart(f"{kind.upper()} against tolerance", "lines", alphas, series, "tolerance α (share of the scale)", kind.upper())
    ]


def _precision_recall(summary: InstanceScores, what: str) -> Chart:
    """Draw precision against recall of the classes with most instances, at an overlap of 0.5."""
    rankings = summary.rankings[0.5]
    names = sorted(rankings, key=lambda name: -summary.instances[name])[:_CURVES]
    curves = {name: _curve(rankings[name]) for name in names}
    series = tuple(Series(name, precision) for name, (_, precision) in curves.items())
    places = {name: recall for name, (recall, _) in curves.items()}
    title = f"Precision against recall ({what}, overlap 0.5)"
    return Chart(title, "lines", (0.0, 1.0), series, "recall", "precision", places)


def _curve(ranking: Ranking) -> tuple[tuple[float, ...], tuple[float, ...]]:
    hits = ranking.hit.cumsum()
    if not len(hits):
        return (0.0,), (0.0,)
    recall = hits / max(1, ranking.positives.sum())
    precision = hits / np.arange(1, len(hits) + 1)
    chosen = np.unique(np.linspace(0, len(hits) - 1, min(_POINTS, len(hits))).astype(np.int64))
    return tuple(recall[chosen].tolist()), tuple(precision[chosen].tolist())


def _bars(spec: BoxExperimentSpec, scores: Mapping[str, Mapping[str, Any]]) -> tuple[Chart, ...]:
    prefix = {"segment": "mask_iou/", "keypoints": "pck@0.1/", "parts": "part_iou/"}[spec.task]
    names = [name for name in scores["model"]["per_class"] if name.startswith(prefix) and ": " not in name]
    names = sorted(names, key=lambda name: -(scores["model"]["per_class"][name] or 0.0))[:_BARS]
    if not names:
        return ()
    series = tuple(
        Series(
            TITLES.get(predictor, predictor),
            tuple(values["per_class"].get(name) or 0.0 for name in names),
            tuple(_bounds(values, name) for name in names),
        )
        for predictor, values in scores.items()
    )
    label = {"segment": "mask IoU in the box", "keypoints": "PCK at 0.1", "parts": "part IU"}[spec.task]
    places = tuple(name.removeprefix(prefix) for name in names)
    return (Chart(f"{label}, one by one", "bars", places, series, "", label),)


def _bounds(values: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    found = values["intervals"].get(name)
    return None if found is None else (found[0], found[1])


def _mistakes(found: Mapping[str, Any] | None) -> tuple[Chart, ...]:
    """Draw what the best detections of each class are, as many as it has instances; the classes with most instances."""
    if not found:
        return ()
    per_class = found["per_class"]
    names = sorted(per_class, key=lambda name: -per_class[name]["instances"])[:_BARS]
    rows = {"all": found["all"], **{name: per_class[name] for name in names}}
    series = tuple(
        Series(numbers.words(kind), tuple(counts[kind] / max(1, counts["instances"]) for counts in rows.values()))
        for kind in KINDS
    )
    title = f"What the best detections are (overlap {found['threshold']:g})"
    return (Chart(title, "stacked", tuple(rows), series, "", "share of the instances' number"),)
