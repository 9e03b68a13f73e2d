"""Flow: draw the experiment's sparse pixels into a sample set.

What earlier stages made is found by its key, or made first.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.runs import FlowResult, conclude, recorded_run
from flows.stages import check, extract, prepare, sample
from hypercolumns.specs import ExperimentSpec

__all__ = ["sample_pixels"]


@flow(name="sample-pixels", flow_run_name="{config.name}", persist_result=False, result_serializer="json")
def sample_pixels(config: ExperimentSpec = ExperimentSpec(), workspace: Path | None = None) -> FlowResult:  # noqa: B008
    """Draw the experiment's sparse pixels into a sample set.

    Args:
        config: The experiment.
        workspace: Folder of stores, samples, models and runs; by default $HYPERCOLUMNS_HOME or the user's data folder.
    """
    with recorded_run(config, workspace) as job:
        prepared = prepare(job)
        check(job, prepared)
        extracted = extract(job, prepared)
        sampled = sample(job, prepared, extracted)
        return conclude(job, prepare=prepared, extract=extracted, sample=sampled)
