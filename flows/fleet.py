"""Whether a flow has a cluster, and the fleet of its workers for those stages that can use one.

Dask is imported only where there is a cluster: a run without one starts quicker.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from tasks.cluster import Cluster, Fleet, Terms
from tasks.jobs import Job

__all__ = ["fleet_of", "open_fleet"]

_logger = logging.getLogger("hypercolumns.flows")


def open_fleet(job: Job, cluster: Cluster | None) -> Job:
    """Find out, before anything is computed, whether a flow has a cluster, and whether its workers fit.

    Returns:
        the job, with the cluster its stages are to use, if any.

    Raises:
        ClusterError: the cluster cannot be used; it says why, and what to do.
    """
    chosen = (cluster or Cluster()).chosen()
    if chosen is None:
        return job
    job = job.model_copy(update={"cluster": chosen})
    with fleet_of(job) as fleet:
        _logger.info("cluster %s: at most %d parts a stage", chosen.dask_address, fleet.parts if fleet else 1)
    return job


@contextlib.contextmanager
def fleet_of(job: Job) -> Iterator[Fleet | None]:
    """Give the fleet of a job's cluster, its workers examined, for the length of a stage; None if it has no cluster."""
    if job.cluster is None:
        yield None
        return
    from flows.dask_fleet import DaskFleet

    yield DaskFleet(job.cluster, Terms.here(job.run_dir or job.workspace))
