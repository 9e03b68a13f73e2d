"""What a night hands back, in words and numbers, however it ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tasks.decide import Decided
from tasks.jobs import Evaluated, Extracted, Job, Prepared, Stage
from tasks.record import finish_run
from tasks.report import Written
from tasks.standings import Standing

__all__ = ["NightResult", "came_too_late", "found_nothing_new", "not_its_line", "seconds_of", "sum_up"]

_SAID = 3


class NightResult(BaseModel):
    """What became of a night: `--json` prints it, and its message is the flow run's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Literal["promoted", "kept", "nothing new", "too late", "another line"]
    line: str
    message: str
    run_id: str | None = None
    run_dir: Path | None = None
    report: Path | None = None
    news: str = ""
    champion: str | None = None
    challenger: str | None = None
    decision: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    images_extracted: int = 0
    timings: dict[str, float] = {}

    def told(self) -> dict[str, Any]:
        """Return what an event tells of it: no more than an automation needs."""
        decision = self.decision or {}
        return {
            "run_id": self.run_id,
            "challenger": self.challenger,
            "former_champion": self.champion,
            "difference": decision.get("difference"),
            "interval": decision.get("interval"),
            "reasons": decision.get("reasons", []),
        }


def came_too_late(line: str, minutes: float, most: float) -> NightResult:
    """Sum up a night that began too late to be of use."""
    message = (
        f"skipped: it began {minutes:.0f} minutes after its scheduled time, more than the {most:g} allowed "
        "(max_lateness_minutes); the next night does its work. Run it by hand for now"
    )
    return NightResult(status="too late", line=line, message=message)


def not_its_line(line: str, arrived: str) -> NightResult:
    """Sum up a night that an event started which was meant for another."""
    message = f"skipped: data arrived for line {arrived!r}, and these nights are of line {line!r}"
    return NightResult(status="another line", line=line, message=message)


def found_nothing_new(job: Job, prepared: Prepared, standing: Standing) -> NightResult:
    """Close the record of a night that had nothing to do."""
    finish_run(job, None, None)
    seen = " and ".join(f"{count} {split} images" for split, count in prepared.images.items())
    return NightResult(
        status="nothing new",
        line=standing.line,
        message=f"nothing new in {seen} since run {standing.last_run}: nothing was trained",
        run_id=job.run_dir.name if job.run_dir else None,
        run_dir=job.run_dir,
        champion=standing.champion_model,
        timings=seconds_of({"prepare": prepared, "news": standing}),
    )


def sum_up(job: Job, standing: Standing, decided: Decided, evaluated: Evaluated, stages: Mapping[str, Stage]) -> NightResult:
    """Close the record of a night that came to a decision."""
    written, extracted = stages["report"], stages["extract"]
    report = written.path if isinstance(written, Written) else None
    finish_run(job, evaluated.metrics, report)
    status: Literal["promoted", "kept"] = "promoted" if decided.promoted else "kept"
    what = (
        f"model {decided.key} is champion of {standing.line}" if decided.promoted else f"the champion of {standing.line} stays"
    )
    return NightResult(
        status=status,
        line=standing.line,
        message=f"{status}: {what}: {'; '.join(decided.reasons[:_SAID])}",
        run_id=job.run_dir.name if job.run_dir else None,
        run_dir=job.run_dir,
        report=report,
        news=standing.news.text if standing.news else "",
        champion=standing.champion_model,
        challenger=decided.key,
        decision=decided.decision,
        metrics=evaluated.metrics,
        images_extracted=extracted.images_computed if isinstance(extracted, Extracted) else 0,
        timings=seconds_of(stages),
    )


def seconds_of(stages: Mapping[str, Stage]) -> dict[str, float]:
    """Return what each stage took."""
    return {name: round(stage.seconds, 3) for name, stage in stages.items()}
