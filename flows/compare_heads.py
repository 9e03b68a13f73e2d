"""Flow: train heads on fewer layers and with fewer classifiers from one store, and say what each layer and the grid are worth.

Images are extracted once; every head reads the same maps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict

from flows.artifacts import publish_report
from flows.box_stages import check, extract, prepare, recorded_box_run
from hypercolumns.box_experiments import CompareSpec
from tasks.boxes.claims import judge_claims
from tasks.boxes.compare import Compared, compare_variants, task_spec
from tasks.boxes.compare_report import comparison_lines, write_comparison
from tasks.boxes.jobs import BoxJob, BoxPrepared
from tasks.boxes.scoring import protocol_line
from tasks.jobs import Extracted
from tasks.record import finish_run, note_stage

__all__ = ["CompareResult", "compare_heads"]


class CompareResult(BaseModel):
    """What the flow hands back, and `--json` prints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    run_dir: Path
    report: Path
    table: list[str]
    claims: list[str]
    rows: list[dict[str, Any]]
    differences: list[dict[str, Any]]
    cache: dict[str, dict[str, int]]
    timings: dict[str, float]


@task(name="compare", cache_policy=NO_CACHE, persist_result=False)
def compare(job: BoxJob, spec: CompareSpec, name: str, prepared: BoxPrepared, extracted: Extracted) -> Compared:
    """Train and score every head of a task."""
    result = compare_variants(job, spec, name, prepared, extracted)
    note_stage(job.features, f"compare-{name}", result)
    return result


@flow(name="compare-heads", flow_run_name="{config.base.name}", persist_result=False, result_serializer="json")
def compare_heads(
    config: CompareSpec = CompareSpec(),  # noqa: B008
    workspace: Path | None = None,
) -> CompareResult:
    """Train heads on fewer layers and with fewer classifiers from one store, and say what each is worth.

    Args:
        config: The experiment whose head is varied, and how.
        workspace: Folder of stores, models and runs; by default $HYPERCOLUMNS_HOME or the user's data folder.
    """
    specs = [task_spec(config, name) for name in config.tasks]
    with recorded_box_run(specs[0], specs[0].task, workspace) as first:
        jobs = [first.model_copy(update={"spec": spec}) for spec in specs]
        prepared = [prepare(job) for job in jobs]
        # Tasks on whole images read the same rows; crops are of each task's own boxes.
        for job, own in {own.images_path: (job, own) for job, own in zip(jobs, prepared, strict=True)}.values():
            check(job, own)
        extracted = [extract(job, own) for job, own in zip(jobs, prepared, strict=True)]
        compared = [
            compare(job, config, job.spec.task, own, store) for job, own, store in zip(jobs, prepared, extracted, strict=True)
        ]
        rows = [row for each in compared for row in each.rows]
        differences = [each for one in compared for each in one.differences]
        claims = judge_claims(rows, differences, config.layer_grid)
        protocol = " | ".join(f"{spec.task}: {protocol_line(spec, {})}" for spec in specs)
        folder = first.places.runs / first.run_dir.name if first.run_dir else first.places.runs
        written = write_comparison(folder, config, compared, claims, extracted[0], protocol)
        publish_report(written)
        finish_run(first.features, {row.task + ": " + row.name: row.scores for row in rows}, written.path)
        return CompareResult(
            run_id=folder.name,
            run_dir=folder,
            report=written.path,
            table=comparison_lines(rows),
            claims=[claim.line for claim in claims],
            rows=[row.model_dump(mode="json") for row in rows],
            differences=[each.model_dump(mode="json") for each in differences],
            cache={name: count.model_dump() for name, count in extracted[0].cache.items()},
            timings={f"compare {job.spec.task}": round(each.seconds, 3) for job, each in zip(jobs, compared, strict=True)}
            | {"extract": round(extracted[0].seconds, 3)},
        )
