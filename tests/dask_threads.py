"""A Dask cluster whose workers are threads of this process: quick to start, and watched by coverage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client, LocalCluster

__all__ = ["dask_client"]


@contextmanager
def dask_client(workers: int) -> Iterator[Client]:
    """Start workers of one thread each behind a scheduler on the loopback address."""
    options = {"scheduler_port": 0, "host": "127.0.0.1", "protocol": "tcp://", "dashboard_address": "127.0.0.1:0"}
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, processes=False, **options) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
