"""Statistics of a layer on worker processes, one of which is killed on the way."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from distributed import Client
from sklearn.decomposition import PCA

from tasks.statistics import channel_statistics, principal_components
from tests.test_flows.dask_processes import DaskProcesses

pytestmark = pytest.mark.slow

work = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "test_storage" / "extracting.py")))
LAYER = work.LAYERS[1]


class KillingOne:
    """A client that kills a worker once the parts are handed out."""

    def __init__(self, client, victim):
        self.client, self.victim, self.told = client, victim, 0

    def ncores(self):
        return self.client.ncores()

    def submit(self, function, *arguments, pure):
        future = self.client.submit(function, *arguments, pure=pure)
        self.told += 1
        if self.told == 4:
            self.victim.kill()
        return future


def test_two_processes_say_what_scikit_learn_says_also_when_one_is_killed(tmp_path):
    store = work.opened(tmp_path / "stores", dtype="float32")
    work.extract(store, work.keys_of(0, 24))
    values = store.reader([LAYER]).read(LAYER, store.committed_rows(LAYER)).astype(np.float64)
    cells = values.reshape(-1, values.shape[-1])
    reference = PCA(n_components=2, svd_solver="full").fit(cells)
    dask = DaskProcesses(tmp_path / "dask")
    try:
        dask.start_scheduler()
        for _ in range(2):
            dask.start_worker(preload="tasks.row_sums")
        with Client(dask.address, set_as_default=False) as client:
            found = channel_statistics(store, LAYER, client)
            components = principal_components(store, LAYER, 2, KillingOne(client, dask.workers[0]))
    finally:
        dask.stop()
    np.testing.assert_allclose(found.mean, cells.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.variance, cells.var(axis=0), rtol=1e-5)
    np.testing.assert_allclose(components.share, reference.explained_variance_ratio_, rtol=1e-9)
    assert components.cells == len(cells)
