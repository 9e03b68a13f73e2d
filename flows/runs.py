"""What every flow does around its stages: open the run's record, and close it whatever happens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from flows.fleet import open_fleet
from hypercolumns.allocator import keep_freed_memory, release_freed_memory
from hypercolumns.specs import ExperimentSpec
from storage.workspace import resolve_workspace
from tasks.cluster import Cluster
from tasks.jobs import Evaluated, Extracted, Job, Stage, Trained
from tasks.record import begin_run, fail_run, finish_run

__all__ = ["FlowResult", "conclude", "recorded_run"]


class FlowResult(BaseModel):
    """What a flow hands back, and `--json` prints: keys and paths, scores, what was found and what was computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    run_dir: Path
    report: Path | None = None
    metrics: dict[str, Any] | None = None
    baselines: dict[str, Any] | None = None
    cache: dict[str, dict[str, int]]
    timings: dict[str, float]
    certificate: dict[str, Any] | None = None
    artefacts: dict[str, Path]


@contextlib.contextmanager
def recorded_run(config: ExperimentSpec, workspace: Path | None, cluster: Cluster | None = None) -> Iterator[Job]:
    """Open a run's record for the length of a flow; a failure is recorded before it goes on its way.

    A cluster that cannot be used fails the run before anything is computed.
    """
    keep_freed_memory()
    job = begin_run(config, resolve_workspace(workspace))
    try:
        yield open_fleet(job, cluster)
    except BaseException as error:
        fail_run(job, error)
        raise
    finally:
        # A worker lives on after the run, and others want the memory.
        release_freed_memory()


def conclude(job: Job, **stages: Stage) -> FlowResult:
    """Close the run's record and sum up its stages."""
    if job.run_dir is None:
        raise ValueError("expected a job with a run's folder, got one without; open it with recorded_run")
    extracted, evaluated, trained = stages.get("extract"), stages.get("evaluate"), stages.get("train")
    report = stages.get("report")
    metrics = evaluated.metrics if isinstance(evaluated, Evaluated) else None
    finish_run(job, metrics, None if report is None else report.path)
    return FlowResult(
        run_id=job.run_dir.name,
        run_dir=job.run_dir,
        report=None if report is None else report.path,
        metrics=metrics,
        baselines=evaluated.baselines if isinstance(evaluated, Evaluated) else None,
        cache={k: v.model_dump() for k, v in extracted.cache.items()} if isinstance(extracted, Extracted) else {},
        timings={name: round(stage.seconds, 3) for name, stage in stages.items()},
        certificate=trained.certificate if isinstance(trained, Trained) else None,
        artefacts={name: stage.path for name, stage in stages.items()},
    )
