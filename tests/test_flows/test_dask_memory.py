"""A batch's maps on a Dask worker: the memory of the last batch is used again, which the pages it asks the system for tell."""

import platform
import resource

import pytest
from distributed import Client

from tests.test_flows.dask_processes import DaskProcesses

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="keeping freed memory is a matter of glibc"),
]

BATCH_BYTES = 100 << 20
BATCH_PAGES = BATCH_BYTES // resource.getpagesize()


def pages_of_five_batches(size):
    """Fill as much memory as a batch's maps take, five times over."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        b"\1" * size
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def pages_of_a_warm_worker(folder, **options):
    """Start a worker, and return how many new pages five batches take when it has done five before."""
    dask = DaskProcesses(folder / "dask")
    try:
        dask.start_scheduler()
        dask.start_worker(**options)
        with Client(dask.address, set_as_default=False) as client:
            return [client.submit(pages_of_five_batches, BATCH_BYTES, pure=False).result(60) for _ in range(2)][1]
    finally:
        dask.stop()


@pytest.mark.parametrize("nanny", [False, True])
def test_a_preloaded_worker_keeps_the_memory_of_its_batches(tmp_path, nanny):
    assert pages_of_a_warm_worker(tmp_path, nanny=nanny) < BATCH_PAGES // 10


def test_a_worker_that_loads_something_else_gives_it_back_every_time(tmp_path):
    assert pages_of_a_warm_worker(tmp_path, preload="math") > BATCH_PAGES
