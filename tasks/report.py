"""Report: gather what a run did and found, and write it as one HTML file and a short markdown form."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypercolumns.metrics.bootstrap import paired_bootstrap
from hypercolumns.problems import mean_iu
from hypercolumns.reporting.data import (
    ClassScore,
    Comparison,
    Curve,
    Headline,
    LayerFacts,
    Panel,
    PanelGroup,
    ReportData,
    ScoreRow,
    StoreFacts,
    Timing,
)
from hypercolumns.reporting.html import render_html
from hypercolumns.reporting.markdown import render_markdown
from hypercolumns.specs import ExperimentSpec
from storage.publish import replace_bytes
from tasks.evaluate import load_evaluation
from tasks.jobs import Evaluated, Extracted, Job, Prepared, Pretrained, Sampled, Stage, Trained
from tasks.manifests import Manifest, load_manifest
from tasks.record import provenance
from tasks.savings import measured_costs, savings
from tasks.stores import experiment_backbone
from tasks.trial import Costs

__all__ = ["Written", "write_report"]

_TITLES = {
    "model": "dense classifier",
    "sparse, sample priors": "sparse stage, sample priors",
    "sparse, priors restored": "sparse stage, true priors restored",
    "majority": "majority class",
    "prior": "class prior",
    "rgb": "raw RGB, same head",
    "position": "position only, same head",
    "deepest": "deepest layer only, same head",
    "random_weights": "random weights, same head",
}
_NOTES = {
    "majority": "nothing is trained",
    "prior": "expected scores of guessing by class frequency",
    "rgb": "trained on the sparse samples",
    "position": "trained on the sparse samples",
    "deepest": "trained on the sparse samples",
    "random_weights": "trained on the sparse samples",
}


class Written(Stage):
    """The report's files."""

    markdown_path: Path


def write_report(
    job: Job,
    prepared: Prepared,
    extracted: Extracted,
    sampled: Sampled,
    pretrained: Pretrained,
    trained: Trained,
    evaluated: Evaluated,
) -> Written:
    """Write `report.html` and `report.md` into the run's folder (without a run: beside the evaluation)."""
    start = time.perf_counter()
    folder = job.run_dir or evaluated.path
    stages = {
        "prepare": prepared,
        "extract": extracted,
        "sample": sampled,
        "pretrain": pretrained,
        "train": trained,
        "evaluate": evaluated,
    }
    data = gather(job, load_manifest(prepared.path), stages, extracted, pretrained, trained, evaluated)
    html, markdown = folder / "report.html", folder / "report.md"
    replace_bytes(html, render_html(data).encode())
    replace_bytes(markdown, render_markdown(data).encode())
    return Written(key=evaluated.key, path=html, cached=False, seconds=time.perf_counter() - start, markdown_path=markdown)


def gather(
    job: Job,
    manifest: Manifest,
    stages: dict[str, Stage],
    extracted: Extracted,
    pretrained: Pretrained,
    trained: Trained,
    evaluated: Evaluated,
) -> ReportData:
    """Gather everything a report says."""
    matrices, predictions, description = load_evaluation(evaluated.path)
    scores = description["scores"]
    spec = job.spec
    costs = measured_costs(job, manifest, extracted)
    return ReportData(
        title=spec.name,
        run_id=job.run_dir.name if job.run_dir else "no run",
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        headline=Headline(
            value=scores["model"]["mean_iu"],
            images=description["images"],
            protocol=f"split {spec.dataset.val_split}; {description['protocol']}",
            interval=_interval(scores["model"], "mean_iu"),
            confidence=spec.evaluate.confidence,
            model=_TITLES["model"] if spec.train.epochs else _TITLES["sparse, priors restored"],
        ),
        rows=tuple(_row(name, scores[name]) for name in _TITLES if name in scores),
        class_names=manifest.class_names,
        palette=manifest.palette_array,
        confusion=matrices["model"].sum(axis=0),
        comparisons=_comparisons(spec, manifest, matrices),
        per_class=_per_class(scores, manifest),
        curves=tuple(
            _curve(name, h) for name, h in (("pretrain", pretrained.history), ("train", trained.history)) if h["epochs"]
        ),
        panel_groups=_panels(spec, manifest, matrices["model"], predictions),
        store=_store_facts(job, extracted, costs),
        timings=tuple(Timing(name, stage.seconds, not stage.cached) for name, stage in stages.items()),
        savings=savings(job, manifest, extracted, pretrained, trained, costs),
        certificate=trained.certificate,
        specs=spec.model_dump(mode="json"),
        provenance=provenance(spec) | {"store key": extracted.key, "model key": trained.key},
        warnings=_warnings(manifest),
        reproduce=("hypercolumns run config.yaml   # the specs below, as YAML",),
    )


def _interval(values: dict[str, Any], metric: str) -> tuple[float, float] | None:
    found = values.get("intervals", {}).get(metric)
    return None if found is None else (found[0], found[1])


def _row(name: str, values: dict[str, Any]) -> ScoreRow:
    return ScoreRow(
        name=_TITLES[name],
        pixel_accuracy=values["pixel_accuracy"],
        mean_accuracy=values["mean_accuracy"],
        mean_iu=values["mean_iu"],
        frequency_weighted_iu=values["frequency_weighted_iu"],
        interval=_interval(values, "mean_iu"),
        note=_NOTES.get(name, ""),
        kind="model" if name == "model" else "stage" if name.startswith("sparse") else "baseline",
    )


def _comparisons(spec: ExperimentSpec, manifest: Manifest, matrices: dict[str, NDArray[Any]]) -> tuple[Comparison, ...]:
    if not spec.evaluate.bootstrap:
        return ()
    found = []
    for name in _TITLES:
        if name == "model" or name not in matrices:
            continue
        paired = paired_bootstrap(
            matrices["model"],
            matrices[name],
            manifest.class_names,
            resamples=spec.evaluate.bootstrap,
            confidence=spec.evaluate.confidence,
            seed=0,
        )
        found.append(
            Comparison(_TITLES[name], paired["difference"], (paired["low"], paired["high"]), paired["probability_better"])
        )
    return tuple(found)


def _per_class(scores: dict[str, Any], manifest: Manifest) -> tuple[ClassScore, ...]:
    dense, sparse = scores["model"], scores["sparse, priors restored"]
    return tuple(
        ClassScore(
            name=name,
            pixels=dense["per_class_pixels"][name],
            dense_iu=dense["per_class_iu"][name],
            sparse_iu=sparse["per_class_iu"][name],
            interval=_interval(dense, name),
        )
        for name in manifest.class_names
    )


def _curve(stage: str, history: dict[str, Any]) -> Curve:
    epochs = history["epochs"]
    series: dict[str, tuple[float | None, ...]] = {"loss": tuple(epoch["loss"] for epoch in epochs)}
    if any(epoch["held_out"] is not None for epoch in epochs):
        series["held-out mean IU"] = tuple(epoch["held_out"] for epoch in epochs)
    return Curve(stage, tuple(epoch["epoch"] for epoch in epochs), series)


def _panels(
    spec: ExperimentSpec, manifest: Manifest, matrices: NDArray[np.int64], predictions: dict[int, NDArray[np.uint8]]
) -> tuple[PanelGroup, ...]:
    entries = manifest.splits[spec.dataset.val_split]
    ranked = sorted(predictions, key=lambda index: mean_iu(matrices[index]), reverse=True)
    count = spec.evaluate.panels
    best, worst = ranked[:count], ranked[count:][-count:]
    groups = {"best": best, "median": [i for i in ranked if i not in {*best, *worst}], "worst": worst}
    found = []
    for title, indices in groups.items():
        panels = []
        for index in indices:
            entry = entries[index]
            truth = manifest.mask(entry)
            if predictions[index].shape != truth.shape:
                continue
            panels.append(Panel(entry.image_id, manifest.image(entry), truth, predictions[index], mean_iu(matrices[index])))
        if panels:
            found.append(PanelGroup(title, tuple(panels)))
    return tuple(found)


def _store_facts(job: Job, extracted: Extracted, costs: Costs) -> StoreFacts:
    layers = experiment_backbone(job.spec).layers
    rate = extracted.images_computed / extracted.seconds if extracted.images_computed else None
    return StoreFacts(
        key=extracted.key,
        layers=tuple(
            LayerFacts(
                name=layer.name,
                map_hw=layer.map_hw,
                channels=layer.channels,
                stride_px=layer.stride_px[0] if layer.stride_px else job.spec.store.canvas.size_hw[0] / layer.map_hw[0],
                bytes=extracted.layer_bytes[layer.name],
                hits=extracted.cache[layer.name].hits,
                misses=extracted.cache[layer.name].misses,
            )
            for layer in layers
        ),
        break_even_epochs=costs.break_even_passes,
        images_per_second=rate,
    )


def _warnings(manifest: Manifest) -> tuple[str, ...]:
    found = []
    if manifest.rejected:
        found.append(f"{len(manifest.rejected)} files were left out (see rejected.json); first: {manifest.rejected[0].reason}")
    contents = {split: {entry.image_sha256 for entry in entries} for split, entries in manifest.splits.items()}
    names = list(contents)
    for first, second in pairwise(names):
        if shared := contents[first] & contents[second]:
            found.append(f"{len(shared)} images are in both {first} and {second}: the scores are too good")
    return tuple(found)
