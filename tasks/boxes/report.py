"""Report: gather what a run inside boxes did and found, and write it as one HTML file and a short markdown form."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hypercolumns.metrics.ranking import Summary
from hypercolumns.reporting import numbers
from hypercolumns.reporting.box_data import BoxReport, Table
from hypercolumns.reporting.boxes import render_box_html, render_box_markdown
from storage.models import read_description
from storage.publish import replace_bytes
from tasks.boxes.baselines import TITLES
from tasks.boxes.charts import box_charts
from tasks.boxes.evaluate import load_predictions
from tasks.boxes.jobs import BoxEvaluated, BoxJob, BoxPrepared, BoxTrained
from tasks.boxes.manifests import BoxManifest, load_box_manifest
from tasks.boxes.mistakes import KINDS
from tasks.boxes.panels import choose_shots
from tasks.boxes.record import box_provenance
from tasks.boxes.results import write_results
from tasks.boxes.scoring import HEADLINES, summarise_boxes
from tasks.jobs import Extracted, Stage
from tasks.report import Written

__all__ = ["SHOWN", "headline", "score_table", "write_box_report"]

SHOWN = {
    "segment": ("ap_r@0.5", "ap_r@0.7", "ap_r_volume", "ap_b@0.5", "mask_iou", "mask_iou/all"),
    "keypoints": ("pck@0.1", "pck@0.2", "pck_torso@0.2", "apk@0.1", "apk@0.2", "oks_ap"),
    "parts": ("ap_r_part@0.5", "ap_r_part@0.7", "ap_r_part_volume", "part_iou"),
}
"""The scores that a task's tables show."""

_ONE_BY_ONE = ("ap_r@0.5/", "ap_r@0.7/", "mask_iou/", "pck@0.1/", "apk@0.1/", "ap_r_part@0.5/", "part_iou/")
_UNITS = {
    "ap_r@0.5": "AP^r at 0.5",
    "ap_r@0.7": "AP^r at 0.7",
    "ap_r_volume": "AP^r volume",
    "ap_b@0.5": "AP^b at 0.5",
    "mask_iou": "mask IoU in the box, mean over classes",
    "mask_iou/all": "mask IoU in the box, mean over objects",
    "ap_r_part@0.5": "AP^r_part at 0.5",
    "ap_r_part@0.7": "AP^r_part at 0.7",
    "ap_r_part_volume": "AP^r_part volume",
    "part_iou": "part IU in true boxes",
    "oks_ap": "OKS AP",
}


def write_box_report(
    job: BoxJob, prepared: BoxPrepared, extracted: Extracted, trained: BoxTrained, evaluated: BoxEvaluated
) -> Written:
    """Write `report.html`, `report.md` and the predictions as `results.json` into the run's folder."""
    start = datetime.now(UTC)
    folder = job.run_dir or evaluated.path
    manifest = load_box_manifest(prepared.path)
    stages = {"prepare": prepared, "extract": extracted, "train": trained, "evaluate": evaluated}
    predictions = load_predictions(evaluated.path)
    entries = manifest.splits[job.spec.instances.val_split]
    summaries = summarise_boxes(manifest, job.spec.instances.val_split, predictions, job.spec)
    report = _gather(job, manifest, stages, extracted, evaluated, summaries)
    shots = choose_shots(manifest, entries, predictions, job.spec)
    report = BoxReport(**{**vars(report), "shots": shots})
    html, markdown = folder / "report.html", folder / "report.md"
    replace_bytes(html, render_box_html(report).encode())
    replace_bytes(markdown, render_box_markdown(report).encode())
    write_results(folder / "results.json", entries, manifest.classes, predictions["found"])
    seconds = (datetime.now(UTC) - start).total_seconds()
    return Written(key=evaluated.key, path=html, cached=False, seconds=seconds, markdown_path=markdown)


def _gather(
    job: BoxJob,
    manifest: BoxManifest,
    stages: Mapping[str, Stage],
    extracted: Extracted,
    evaluated: BoxEvaluated,
    summaries: Mapping[str, Summary],
) -> BoxReport:
    spec = job.spec
    kept = read_description(evaluated.path)["scores"]
    # Kept in the order of their names; the head comes first.
    scores = {"model": kept["model"], **kept}
    value, sentence = headline(spec.task, scores["model"], spec.evaluate.confidence)
    return BoxReport(
        title=spec.name,
        run_id=job.run_dir.name if job.run_dir else "no run",
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        headline=value,
        sentence=sentence,
        protocol=evaluated.protocol,
        tables=(
            score_table(spec.task, scores),
            *_differences(spec.task, scores),
            *_mistakes(scores),
            _per_class(scores),
            _costs(stages, extracted),
        ),
        charts=box_charts(spec, summaries, scores),
        specs=spec.model_dump(mode="json"),
        provenance=box_provenance(spec) | {"store key": extracted.key, "model key": stages["train"].key},
        warnings=_warnings(manifest),
    )


def headline(task: str, scores: Mapping[str, Any], confidence: float) -> tuple[str, str]:
    """Return the number at the top, and what it is."""
    name = (
        HEADLINES[task]
        if HEADLINES[task] in scores
        else next(name for name in scores if name not in {"intervals", "per_class", "mistakes"})
    )
    bounds = scores["intervals"].get(name)
    sure = "no interval" if bounds is None else f"{100 * confidence:g} % interval {numbers.interval(tuple(bounds))}"
    return numbers.percent(scores[name]), f"{score_title(name)}, {sure}."


def score_title(name: str) -> str:
    """Write a score's name for people."""
    if name in _UNITS:
        return _UNITS[name]
    kind, _, tail = name.partition("@")
    return f"{kind.upper().replace('_TORSO', ' by torso')} at {tail}" if tail else numbers.words(kind)


def score_table(task: str, scores: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the table of all predictors' scores, each with its interval."""
    names = [name for name in SHOWN[task] if name in scores["model"]]
    rows = []
    for predictor, values in scores.items():
        cells = [
            f"{numbers.percent(values.get(name))} ({numbers.interval(_bounds(values, name))})"
            if _bounds(values, name)
            else numbers.percent(values.get(name))
            for name in names
        ]
        rows.append((TITLES.get(predictor, predictor), *cells))
    return Table("Scores", ("predictor", *(score_title(name) for name in names)), tuple(rows), strong=frozenset({0}))


def _bounds(values: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    found = values.get("intervals", {}).get(name)
    return None if found is None else (found[0], found[1])


def _differences(task: str, scores: Mapping[str, Mapping[str, Any]]) -> tuple[Table, ...]:
    """Return the paired differences of the model and the baselines, on the same images."""
    rows = []
    for predictor, values in scores.items():
        for name in SHOWN[task]:
            if found := values.get("model_better_by", {}).get(name):
                spread = f"{numbers.points(found['low'])} to {numbers.points(found['high'])}"
                better = numbers.percent(found["probability_better"])
                row = (TITLES.get(predictor, predictor), score_title(name), numbers.points(found["difference"]), spread, better)
                rows.append(row)
    columns = ("against", "score", "points better", "interval", "better in resamples")
    return (Table("Against the baselines", columns, tuple(rows), "Paired: both on the same drawn images."),) if rows else ()


def _mistakes(scores: Mapping[str, Mapping[str, Any]]) -> tuple[Table, ...]:
    """Return what the best detections of each predictor are, all classes together."""
    found = {name: values["mistakes"] for name, values in scores.items() if values.get("mistakes")}
    if not found:
        return ()
    kinds = ("instances", *KINDS, "missed")
    rows = tuple((TITLES.get(name, name), *(str(each["all"][kind]) for kind in kinds)) for name, each in found.items())
    own = found["model"]
    note = (
        "Of each class as many of its best detections are looked at as it has instances. Correct: finds an instance at overlap "
        f"{own['threshold']:g}. Mislocalised: overlaps one of its class, too little or a second time. Similar and other class, "
        f"background: overlaps only those, or nothing. Similar classes: {own['similar']}."
    )
    return (Table("Mistakes", ("predictor", *(numbers.words(kind) for kind in kinds)), rows, note, frozenset({0})),)


def _per_class(scores: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return each class's, keypoint's or part's score of every predictor."""
    wanted = [name for name in scores["model"]["per_class"] if name.startswith(_ONE_BY_ONE)]
    rows = tuple(
        (_one_title(name), *(numbers.percent(each["per_class"].get(name)) for each in scores.values())) for name in wanted
    )
    return Table("One by one", ("score", *(TITLES.get(name, name) for name in scores)), rows, folded=True)


def _one_title(name: str) -> str:
    """Write the name of a class's, keypoint's or part's score for people: what it is of, and which score."""
    score, _, one = name.partition("/")
    return f"{numbers.words(one)}: {score_title(score).split(',')[0]}"


def _costs(stages: Mapping[str, Stage], extracted: Extracted) -> Table:
    rows = [(name, numbers.duration(stage.seconds), "found" if stage.cached else "computed") for name, stage in stages.items()]
    size = numbers.byte_size(sum(extracted.layer_bytes.values()))
    hits, misses = (sum(getattr(c, kind) for c in extracted.cache.values()) for kind in ("hits", "misses"))
    note = (
        f"Feature store {extracted.key}: {size} in {len(extracted.layer_bytes)} layers; {hits} maps found, {misses} computed."
    )
    return Table("Store and time", ("stage", "time", ""), tuple(rows), note)


def _warnings(manifest: BoxManifest) -> tuple[str, ...]:
    found = [f"{len(manifest.rejected)} records were left out; first: {manifest.rejected[0]}"] if manifest.rejected else []
    contents = [{entry.image.image_sha256 for entry in entries} for entries in manifest.splits.values()]
    if len(contents) > 1 and (shared := set.intersection(*contents)):
        found.append(f"{len(shared)} images are in both splits: the scores are too good")
    return tuple(found)
