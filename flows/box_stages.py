"""The tasks inside boxes as Prefect tasks, and what every flow of them does around its stages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from flows.stages import recorded_task
from hypercolumns.allocator import keep_freed_memory, release_freed_memory
from hypercolumns.box_experiments import BoxExperimentSpec, BoxTask
from hypercolumns.errors import SpecError
from storage.workspace import resolve_workspace
from tasks.boxes.evaluate import evaluate_boxes
from tasks.boxes.jobs import BoxEvaluated, BoxJob
from tasks.boxes.plan import check_boxes, extract_boxes
from tasks.boxes.prepare import prepare_boxes
from tasks.boxes.record import begin_box_run
from tasks.boxes.report import write_box_report
from tasks.boxes.train import train_head
from tasks.jobs import Extracted, Stage
from tasks.record import fail_run, finish_run

__all__ = [
    "BoxFlowResult",
    "check",
    "conclude_boxes",
    "evaluate",
    "extract",
    "prepare",
    "recorded_box_run",
    "report",
    "train",
]


prepare = recorded_task("prepare", prepare_boxes)
check = recorded_task("plan", check_boxes, runs_backbone=True)
extract = recorded_task("extract", extract_boxes, runs_backbone=True)
train = recorded_task("train-head", train_head)
evaluate = recorded_task("evaluate", evaluate_boxes)
report = recorded_task("report", write_box_report)


class BoxFlowResult(BaseModel):
    """What a flow hands back, and `--json` prints: keys and paths, scores and what they mean, what was found and computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    run_dir: Path
    task: str
    report: Path | None = None
    protocol: str | None = None
    metrics: dict[str, Any] | None = None
    baselines: dict[str, Any] | None = None
    cache: dict[str, dict[str, int]]
    timings: dict[str, float]
    artefacts: dict[str, Path]


@contextlib.contextmanager
def recorded_box_run(config: BoxExperimentSpec, task: BoxTask, workspace: Path | None) -> Iterator[BoxJob]:
    """Open a run's record for the length of a flow; a failure is recorded before it goes on its way.

    Raises:
        SpecError: the experiment is of another task.
    """
    if config.task != task:
        raise SpecError(f"task: expected {task!r}, which this flow predicts, got {config.task!r}; run the flow of that task")
    keep_freed_memory()
    job = begin_box_run(config, resolve_workspace(workspace))
    try:
        yield job
    except BaseException as error:
        fail_run(job.features, error)
        raise
    finally:
        # A worker lives on after the run, and others want the memory.
        release_freed_memory()


def conclude_boxes(job: BoxJob, **stages: Stage) -> BoxFlowResult:
    """Close the run's record and sum up its stages."""
    if job.run_dir is None:
        raise ValueError("expected a job with a run's folder, got one without; open it with recorded_box_run")
    extracted, evaluated, report = stages.get("extract"), stages.get("evaluate"), stages.get("report")
    judged = evaluated if isinstance(evaluated, BoxEvaluated) else None
    metrics = None if judged is None else judged.metrics
    page = None if report is None else report.path
    finish_run(job.features, metrics, page)
    return BoxFlowResult(
        run_id=job.run_dir.name,
        run_dir=job.run_dir,
        task=job.spec.task,
        report=page,
        protocol=None if judged is None else judged.protocol,
        metrics=metrics,
        baselines=None if judged is None else judged.baselines,
        cache={k: v.model_dump() for k, v in extracted.cache.items()} if isinstance(extracted, Extracted) else {},
        timings={name: round(stage.seconds, 3) for name, stage in stages.items()},
        artefacts={name: stage.path for name, stage in stages.items()},
    )
