"""Flow: compute and store what the experiment's feature store lacks.

What earlier stages made is found by its key, or made first.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.runs import FlowResult, conclude, recorded_run
from flows.stages import check, extract, prepare
from hypercolumns.specs import ExperimentSpec
from tasks.cluster import Cluster

__all__ = ["extract_features"]


@flow(name="extract-features", flow_run_name="{config.name}", persist_result=False, result_serializer="json")
def extract_features(
    config: ExperimentSpec = ExperimentSpec(),  # noqa: B008
    workspace: Path | None = None,
    cluster: Cluster = Cluster(),  # noqa: B008
) -> FlowResult:
    """Compute and store what the experiment's feature store lacks.

    Args:
        config: The experiment.
        workspace: Folder of stores, samples, models and runs; by default $HYPERCOLUMNS_HOME or the user's data folder.
        cluster: Dask cluster that extraction and evaluation are spread over; by default the flow's own process does all of it.
    """
    with recorded_run(config, workspace, cluster) as job:
        prepared = prepare(job)
        check(job, prepared)
        extracted = extract(job, prepared)
        return conclude(job, prepare=prepared, extract=extracted)
