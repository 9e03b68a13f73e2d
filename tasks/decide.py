"""Decide: end a night with a decision that is written down with everything it was made by, and tidy up after it."""

from __future__ import annotations

import time
from typing import Any

from hypercolumns.nights import NightSpec, RetentionSpec
from storage.champions import Champion, read_line
from storage.garbage import sweep
from storage.retention import forget_runs
from storage.runs import list_runs
from tasks.challengers import Challenger
from tasks.data_checks import Checked
from tasks.jobs import Evaluated, Extracted, Job, Prepared, Stage
from tasks.manifests import load_manifest
from tasks.plan import Planned
from tasks.promote import compare_with_champion, record_decision
from tasks.standings import Standing

__all__ = ["Decided", "Tidied", "decide_night", "tidy_up"]

WHO = "nightly-retrain"
_SPARED_SECONDS = 86400.0
"""What was made within a day stays, though nothing names it: somebody may be about to."""


class Decided(Stage):
    """What became of tonight's challenger."""

    promoted: bool
    reasons: tuple[str, ...]
    decision: dict[str, Any]


class Tidied(Stage):
    """What was removed afterwards."""

    runs_forgotten: int
    bytes_freed: int


def decide_night(
    job: Job,
    prepared: Prepared,
    checked: Checked,
    planned: Planned,
    extracted: Extracted,
    challenger: Challenger,
    evaluated: Evaluated,
    standing: Standing,
    night: NightSpec,
    seconds: dict[str, float],
) -> Decided:
    """Compare tonight's challenger with the champion, and write the decision down.

    Args:
        job: The experiment.
        prepared: Its data set.
        checked: What was found about the data.
        planned: What was to be extracted.
        extracted: The store.
        challenger: The model.
        evaluated: Its scores.
        standing: The line.
        night: What is asked of a challenger, and how many champions are kept.
        seconds: What each stage took.

    Raises:
        ChampionChangedError: somebody changed the champion meanwhile.
    """
    start = time.perf_counter()
    view = read_line(job.places, standing.line)
    compared = compare_with_champion(job, prepared, challenger, evaluated, view, night.promotion)
    run_id = job.run_dir.name if job.run_dir else "no run"
    facts = {
        "mean_iu": evaluated.metrics["mean_iu"],
        "intervals": evaluated.metrics.get("intervals", {}),
        "per_class_iu": evaluated.metrics["per_class_iu"],
        "held_out": challenger.unseen,
    }
    keys = {"manifest": prepared.key, "store": extracted.key, "evaluation": evaluated.key}
    noted = _night(job, prepared, checked, planned, extracted, challenger, standing)
    noted |= {"run_id": run_id, "seconds": {**seconds, "decide": time.perf_counter() - start}}
    record_decision(
        job,
        standing.line,
        compared,
        Champion(run_id, challenger.key, keys, facts),
        noted,
        who=WHO,
        reach=night.retention.champions,
    )
    return Decided(
        key=challenger.key,
        path=challenger.path,
        cached=False,
        seconds=time.perf_counter() - start,
        promoted=compared.promote,
        reasons=tuple(compared.decision["reasons"]),
        decision=compared.decision,
    )


def _night(
    job: Job,
    prepared: Prepared,
    checked: Checked,
    planned: Planned,
    extracted: Extracted,
    challenger: Challenger,
    standing: Standing,
) -> dict[str, Any]:
    """Tell what a night stood on and what it cost, for the history."""
    manifest = load_manifest(prepared.path)
    pixels = manifest.histograms(job.spec.dataset.train_split, job.spec).sum(axis=0).tolist()
    return {
        "key": standing.key,
        "manifest": prepared.key,
        "news": standing.news.text if standing.news else "",
        "origin": challenger.origin,
        "why": challenger.why,
        "images": {split: len(entries) for split, entries in manifest.splits.items()},
        "labelled_pixels": dict(zip(manifest.class_names, pixels, strict=True)),
        "images_extracted": extracted.images_computed,
        "bytes_extracted": planned.bytes_needed,
        "findings": [finding.model_dump(mode="json") for finding in checked.findings],
    }


def tidy_up(job: Job, line: str, spec: RetentionSpec) -> Tidied:
    """Forget the runs of former nights of a line, and remove what nothing uses any more, as far as is asked for."""
    start = time.perf_counter()
    mine = [view.run_id for view in list_runs(job.places.runs) if _is_night_of(view.entries, line)]
    forgotten = forget_runs(job.places, mine[spec.nights :])
    freed = sweep(job.places, _SPARED_SECONDS, remove=True).bytes if spec.collect else 0
    return Tidied(
        key=line,
        path=job.places.root,
        cached=not forgotten and not freed,
        seconds=time.perf_counter() - start,
        runs_forgotten=len(forgotten),
        bytes_freed=freed,
    )


def _is_night_of(entries: Any, line: str) -> bool:
    return any(entry.kind == "night" and entry.data.get("line") == line for entry in entries)
