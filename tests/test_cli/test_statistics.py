"""`store statistics`: numbers of channels in this process and on a Dask cluster."""

import socket

import numpy as np
import pytest

from storage.features import FeatureStore
from tests.dask_threads import dask_client
from tests.pipeline_factory import LAYERS


@pytest.fixture
def cells(finished):
    """The key of the store, and the cells of each layer as numpy sees them."""
    (path,) = (finished.workspace / "stores").iterdir()
    store = FeatureStore.open(path)
    reader = store.reader(LAYERS)
    found = {}
    for layer in LAYERS:
        values = reader.read(layer, store.committed_rows(layer)).astype(np.float64)
        found[layer] = values.reshape(-1, values.shape[-1])
    return store.key, found


def check(told, cells, count):
    assert told["cells"] == len(cells)
    np.testing.assert_allclose(told["mean"], cells.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(told["variance"], cells.var(axis=0), rtol=1e-5)
    values = np.linalg.eigvalsh(np.cov(cells.T, bias=True))[::-1]
    np.testing.assert_allclose(told["principal_components"]["variance"], values[:count], rtol=1e-8)
    np.testing.assert_allclose(told["principal_components"]["share"], values[:count] / values.sum(), rtol=1e-8)
    assert np.shape(told["principal_components"]["components"]) == (count, cells.shape[1])


def test_all_layers_of_a_store_are_told_here_and_on_a_cluster(hypercolumns, finished, cells, monkeypatch):
    key, expected = cells
    options = ("store", "statistics", key[:6], "--pca", 2, "--workspace", finished.workspace)
    alone = hypercolumns(*options, "--json").last
    assert list(alone) == [key]
    assert list(alone[key]) == list(LAYERS)
    with dask_client(2) as client:
        monkeypatch.setenv("HYPERCOLUMNS_DASK_ADDRESS", client.scheduler.address)
        together = hypercolumns(*options, "--json").last
    for layer in LAYERS:
        check(alone[key][layer], expected[layer], 2)
        check(together[key][layer], expected[layer], 2)


def test_one_layer_is_told_in_a_line(hypercolumns, finished, cells):
    key, expected = cells
    layer = LAYERS[1]
    channels = expected[layer].shape[1]
    out = hypercolumns("store", "statistics", "--layer", layer, "--pca", 1, "--workspace", finished.workspace).out
    assert out.startswith(f"{key}  {layer}: {channels} channels, {len(expected[layer])} cells, means ")
    assert "% of the variance" in out
    assert len(out.splitlines()) == 1
    assert "principal" not in hypercolumns("store", "statistics", "--workspace", finished.workspace).out


def test_what_cannot_be_reckoned_is_refused(hypercolumns, finished, tmp_path):
    options = ("store", "statistics", "--workspace", finished.workspace)
    ran = hypercolumns(*options, "--layer", "unknown")
    assert ran.code != 0
    assert "layer unknown" in ran.err
    ran = hypercolumns(*options, "--pca", 100000)
    assert ran.code == 2
    assert "got 100000" in ran.err
    ran = hypercolumns(*options, "--dask-address", "nonsense")
    assert ran.code == 2
    assert "--dask-address" in ran.err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        ran = hypercolumns(*options, "--dask-address", f"tcp://127.0.0.1:{taken.getsockname()[1]}")
    assert ran.code == 1
    assert "expected a Dask scheduler, found none" in ran.err
    assert hypercolumns("store", "statistics", "--workspace", tmp_path / "empty").out == "no stores yet\n"
