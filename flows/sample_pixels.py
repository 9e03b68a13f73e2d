"""Flow: draw the experiment's sparse pixels into a sample set.

What earlier stages made is found by its key, or made first.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.runs import FlowResult, conclude, recorded_run
from flows.stages import check, extract, prepare, sample
from hypercolumns.specs import ExperimentSpec
from tasks.cluster import Cluster

__all__ = ["sample_pixels"]


@flow(name="sample-pixels", flow_run_name="{config.name}", persist_result=False, result_serializer="json")
def sample_pixels(
    config: ExperimentSpec = ExperimentSpec(),  # noqa: B008
    workspace: Path | None = None,
    cluster: Cluster = Cluster(),  # noqa: B008
) -> FlowResult:
    """Draw the experiment's sparse pixels into a sample set.

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
        return conclude(job, prepare=prepared, extract=extracted, sample=sampled)
