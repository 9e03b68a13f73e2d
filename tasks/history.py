"""History: gather what a task line's log tells, and write it as one HTML file and a short markdown form."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypercolumns.reporting.history import render_history, render_history_markdown
from hypercolumns.reporting.history_data import ChampionChange, FrozenScore, HistoryData, Night
from storage.champions import LineView, read_line
from storage.publish import replace_bytes
from storage.record_log import LogEntry
from storage.workspace import Workspace
from tasks.jobs import Job
from tasks.report import Written

__all__ = ["gather_history", "write_history", "write_history_files"]


def write_history(job: Job, line: str) -> Written:
    """Write `history.html` and `history.md` of a task line into the run's folder.

    Raises:
        FormatError: the line's log was changed.
        ValueError: the job has no run.
    """
    start = time.perf_counter()
    if job.run_dir is None:
        raise ValueError("expected a job with a run's folder, got one without; open it with recorded_run")
    html, markdown = write_history_files(job.places, line, job.run_dir)
    return Written(key=line, path=html, cached=False, seconds=time.perf_counter() - start, markdown_path=markdown)


def write_history_files(workspace: Workspace, line: str, folder: Path) -> tuple[Path, Path]:
    """Write `history.html` and `history.md` of a task line into a folder, and return their paths."""
    data = gather_history(read_line(workspace, line))
    html, markdown = folder / "history.html", folder / "history.md"
    replace_bytes(html, render_history(data).encode())
    replace_bytes(markdown, render_history_markdown(data).encode())
    return html, markdown


def gather_history(view: LineView) -> HistoryData:
    """Gather everything a history says from a line's log alone: it outlives the runs."""
    nights = [entry for entry in view.entries if entry.data.get("decision", {}).get("night")]
    confidences = [entry.data["decision"].get("confidence") for entry in nights]
    return HistoryData(
        line=view.line,
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        champion=view.model,
        champion_run=view.champion.run_id if view.champion else "",
        since=view.since,
        pinned=view.pinned,
        confidence=next((value for value in reversed(confidences) if value), 0.95),
        nights=tuple(map(_night, nights)),
        scores=tuple(_score(entry) for entry in view.entries if entry.kind == "evaluated"),
        changes=tuple(_changes(view)),
    )


def _night(entry: LogEntry) -> Night:
    decision = entry.data["decision"]
    night = decision["night"]
    return Night(
        time=entry.time,
        outcome="promoted" if entry.kind == "promoted" else "kept",
        run_id=night["run_id"],
        challenger_mean_iu=decision["challenger_mean_iu"],
        champion_mean_iu=decision["champion_mean_iu"],
        difference=decision["difference"],
        interval=_interval(decision["interval"]),
        reasons=tuple(decision["reasons"]),
        origin=night["origin"],
        news=night["news"],
        images=dict(night["images"]),
        images_extracted=night["images_extracted"],
        bytes_extracted=night["bytes_extracted"],
        seconds=sum(night["seconds"].values()),
        warnings=tuple(finding["message"] for finding in night["findings"]),
    )


def _score(entry: LogEntry) -> FrozenScore:
    scores = entry.data["scores"]
    return FrozenScore(
        time=entry.time,
        model=entry.data["model"],
        mean_iu=scores["mean_iu"],
        interval=_interval(scores.get("intervals", {}).get("mean_iu")),
        per_class=dict(scores["per_class_iu"]),
        images=scores["images"],
        set_digest=entry.data["frozen"],
    )


def _changes(view: LineView) -> list[ChampionChange]:
    found, model = [], "–"
    for entry in view.entries:
        if entry.kind not in {"promoted", "pinned", "released", "rolled_back"}:
            continue
        model = entry.data.get("champion", {}).get("model", model)
        reasons = entry.data.get("decision", entry.data).get("reasons", [])
        found.append(ChampionChange(entry.time, entry.kind.replace("_", " "), entry.data["who"], model, tuple(reasons)))
    return found


def _interval(bounds: Any) -> tuple[float, float] | None:
    return None if bounds is None else (float(bounds[0]), float(bounds[1]))
