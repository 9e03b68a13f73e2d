"""Flow: retrain on what is new, and promote the new model only when it is surely better than the champion.

Nothing new means nothing trained. What earlier nights made is found by its key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from flows.artifacts import publish_report
from flows.events import announce
from flows.lateness import minutes_late
from flows.nights import NightResult, came_too_late, found_nothing_new, not_its_line, seconds_of, sum_up
from flows.runs import recorded_run
from flows.stages import (
    challenge,
    check,
    check_night_data,
    decide,
    evaluate,
    extract,
    news,
    prepare,
    pretrain,
    report,
    sample,
    tidy,
)
from hypercolumns.nights import ChecksSpec, NightSpec, PromotionSpec, RetentionSpec
from hypercolumns.specs import ExperimentSpec
from tasks.challengers import holding_out
from tasks.cluster import Cluster

__all__ = ["nightly_retrain"]


@flow(name="nightly-retrain", flow_run_name="{config.name}", persist_result=False, result_serializer="json")
def nightly_retrain(
    config: ExperimentSpec = ExperimentSpec(),  # noqa: B008
    promotion: PromotionSpec = PromotionSpec(),  # noqa: B008
    checks: ChecksSpec = ChecksSpec(),  # noqa: B008
    retention: RetentionSpec = RetentionSpec(),  # noqa: B008
    warm_start: bool = True,
    from_scratch: bool = True,
    max_lateness_minutes: Annotated[float, Field(gt=0, le=10080)] = 120.0,
    line: Annotated[str, Field(pattern=r"^$|^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "",
    arrived: str = "",
    workspace: Path | None = None,
    cluster: Cluster = Cluster(),  # noqa: B008
) -> State[NightResult]:
    """Retrain on what is new, and promote the new model only when it is surely better than the champion.

    Args:
        config: The experiment that is run again every night, on the data as they are then.
        promotion: When a challenger replaces the champion.
        checks: What is looked for in the data before anything is trained.
        retention: What is kept of former nights.
        warm_start: Train on from the champion's weights.
        from_scratch: Train from new weights; with warm_start too, the better one on held-out train images is taken.
        max_lateness_minutes: A run that starts later than this after its scheduled time skips itself.
        line: Name of the task line whose champion is challenged; by default the experiment's name.
        arrived: Task line that an event said data arrived for: a night of another line skips itself. Empty for other nights.
        workspace: Folder of stores, samples, models and runs; by default $HYPERCOLUMNS_HOME or the user's data folder.
        cluster: Dask cluster that extraction and evaluation are spread over; by default the flow's own process does all of it.
    """
    night = NightSpec(promotion=promotion, checks=checks, retention=retention, warm_start=warm_start, from_scratch=from_scratch)
    line = line or config.name
    if arrived and arrived != line:
        return _completed(not_its_line(line, arrived))
    if (late := minutes_late()) > max_lateness_minutes:
        return _completed(came_too_late(line, late, max_lateness_minutes))
    with recorded_run(holding_out(config, night), workspace, cluster) as job:
        prepared = prepare(job)
        standing = news(job, prepared, line, night)
        if standing.news is None:
            return _completed(found_nothing_new(job, prepared, standing))
        checked = check_night_data(job, prepared, standing.former_manifest, checks)
        planned = check(job, prepared)
        extracted = extract(job, prepared)
        sampled = sample(job, prepared, extracted)
        pretrained = pretrain(job, prepared, extracted, sampled)
        trained = challenge(job, prepared, pretrained, standing, night)
        announce("training.completed", line, {"model": trained.key, "origin": trained.origin})
        evaluated = evaluate(job, prepared, extracted, sampled, pretrained, trained)
        stages = {"prepare": prepared, "data checks": checked, "extract": extracted, "sample": sampled}
        stages |= {"pretrain": pretrained, "train": trained, "evaluate": evaluated}
        decided = decide(job, prepared, checked, planned, extracted, trained, evaluated, standing, night, seconds_of(stages))
        written = report(job, prepared, extracted, sampled, pretrained, trained, evaluated)
        publish_report(written)
        tidied = tidy(job, line, retention)
        result = sum_up(job, standing, decided, evaluated, stages | {"decide": decided, "report": written, "tidy up": tidied})
    announce("champion.promoted" if decided.promoted else "champion.kept", line, result.told())
    return _completed(result)


def _completed(result: NightResult) -> State[Any]:
    return Completed(name=result.status.capitalize(), message=result.message, data=result)
