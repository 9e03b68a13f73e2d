"""Flow: label the parts of the object in each box, score them, and report.

What earlier runs made is found by its key: maps of the same images are in the same store, whatever is predicted.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.artifacts import publish_report
from flows.box_stages import (
    BoxFlowResult,
    check,
    conclude_boxes,
    evaluate,
    extract,
    prepare,
    recorded_box_run,
    report,
    train,
)
from hypercolumns.box_experiments import BoxExperimentSpec

__all__ = ["label_parts"]


@flow(name="label-parts", flow_run_name="{config.name}", persist_result=False, result_serializer="json")
def label_parts(
    config: BoxExperimentSpec = BoxExperimentSpec(task="parts"),  # noqa: B008
    workspace: Path | None = None,
) -> BoxFlowResult:
    """Label the parts of the object in each box, score them, and report.

    Args:
        config: The experiment; its task is parts.
        workspace: Folder of stores, models and runs; by default $HYPERCOLUMNS_HOME or the user's data folder.
    """
    with recorded_box_run(config, "parts", workspace) as job:
        prepared = prepare(job)
        check(job, prepared)
        extracted = extract(job, prepared)
        trained = train(job, prepared, extracted)
        evaluated = evaluate(job, prepared, extracted, trained)
        written = report(job, prepared, extracted, trained, evaluated)
        publish_report(written)
        return conclude_boxes(job, prepare=prepared, extract=extracted, train=trained, evaluate=evaluated, report=written)
