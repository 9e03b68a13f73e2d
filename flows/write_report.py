"""Flow: write the experiment's report again, from what its stages left; what is missing is made first."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.run_experiment import run_experiment
from flows.runs import FlowResult
from hypercolumns.specs import ExperimentSpec
from tasks.cluster import Cluster

__all__ = ["write_report"]


@flow(name="write-report", flow_run_name="{config.name}", persist_result=False, result_serializer="json")
def write_report(
    config: ExperimentSpec = ExperimentSpec(),  # noqa: B008
    workspace: Path | None = None,
    cluster: Cluster = Cluster(),  # noqa: B008
) -> FlowResult:
    """Write the experiment's report.

    Args:
        config: The experiment.
        workspace: Folder of stores, samples, models and runs; by default $HYPERCOLUMNS_HOME or the user's data folder.
        cluster: Dask cluster that extraction and evaluation are spread over; by default the flow's own process does all of it.
    """
    return run_experiment.fn(config, workspace, cluster)
