"""Flow: run an experiment: extract, sample, pretrain, convert, train densely, evaluate, report.

What earlier stages made is found by its key, or made first.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.artifacts import publish_report
from flows.runs import FlowResult, conclude, recorded_run
from flows.stages import check, evaluate, extract, prepare, pretrain, report, sample, train
from hypercolumns.specs import ExperimentSpec
from tasks.cluster import Cluster

__all__ = ["run_experiment"]


@flow(name="run-experiment", flow_run_name="{config.name}", persist_result=False, result_serializer="json")
def run_experiment(
    config: ExperimentSpec = ExperimentSpec(),  # noqa: B008
    workspace: Path | None = None,
    cluster: Cluster = Cluster(),  # noqa: B008
) -> FlowResult:
    """Run an experiment: extract, sample, pretrain, convert, train densely, evaluate, report.

    Args:
        config: The experiment.
        workspace: Folder of stores, samples, models and runs; by default $HYPERCOLUMNS_HOME or the user's data folder.
        cluster: Dask cluster that extraction and evaluation are spread over; by default the flow's own process does all of it.
    """
    with recorded_run(config, workspace, cluster) as job:
        prepared = prepare(job)
        check(job, prepared)
        extracted = extract(job, prepared)
        sampled = sample(job, prepared, extracted)
        pretrained = pretrain(job, prepared, extracted, sampled)
        trained = train(job, prepared, pretrained)
        evaluated = evaluate(job, prepared, extracted, sampled, pretrained, trained)
        written = report(job, prepared, extracted, sampled, pretrained, trained, evaluated)
        publish_report(written)
        return conclude(
            job,
            prepare=prepared,
            extract=extracted,
            sample=sampled,
            pretrain=pretrained,
            train=trained,
            evaluate=evaluated,
            report=written,
        )
