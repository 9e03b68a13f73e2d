"""Flow: score the model and its baselines by the experiment's protocol.

What earlier stages made is found by its key, or made first.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.runs import FlowResult, conclude, recorded_run
from flows.stages import check, evaluate, extract, prepare, pretrain, sample, train
from hypercolumns.specs import ExperimentSpec
from tasks.cluster import Cluster

__all__ = ["evaluate_model"]


@flow(name="evaluate-model", flow_run_name="{config.name}", persist_result=False, result_serializer="json")
def evaluate_model(
    config: ExperimentSpec = ExperimentSpec(),  # noqa: B008
    workspace: Path | None = None,
    cluster: Cluster = Cluster(),  # noqa: B008
) -> FlowResult:
    """Score the model and its baselines by the experiment's protocol.

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
        return conclude(
            job, prepare=prepared, extract=extracted, sample=sampled, pretrain=pretrained, train=trained, evaluate=evaluated
        )
