"""Channel statistics and principal components against numpy and scikit-learn in double precision; also on a Dask cluster."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import dask.array
import numpy as np
import pytest
import zarr
from sklearn.decomposition import PCA

from hypercolumns.errors import SpecError
from storage.encoding import DTYPES
from storage.errors import DamagedError, LayerMismatchError, RowsMissingError
from tasks.cluster import ClusterError, Terms
from tasks.row_sums import RowsPart, sum_part
from tasks.statistics import channel_statistics, principal_components
from tests.dask_threads import dask_client

work = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "test_storage" / "extracting.py")))
A, B, _ = work.LAYERS


@pytest.mark.parametrize("dtype", DTYPES)
def test_mean_and_variance_are_those_of_all_committed_cells(tmp_path, dtype):
    store = work.opened(tmp_path, dtype=dtype)
    work.extract(store, work.keys_of(0, 10))
    # Rows of a shard that has this layer alone count as well.
    work.extract(store, work.keys_of(10, 13), [B])
    for layer, rows in ((A, 10), (B, 13)):
        keys = work.keys_of(0, rows)
        values = store.reader([layer]).read(layer, store.rows(keys, [layer])).astype(np.float64)
        found = channel_statistics(store, layer)
        assert found.cells == values[..., 0].size
        np.testing.assert_allclose(found.mean, values.mean((0, 1, 2)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.variance, values.var((0, 1, 2)), rtol=1e-5)


def test_a_large_mean_does_not_swallow_the_variance(tmp_path, monkeypatch):
    store = work.opened(tmp_path, dtype="float32")
    original = work.map_of
    monkeypatch.setitem(work.maps_of.__globals__, "map_of", lambda key, layer: original(key, layer) * 1e-2 + 1e4)
    work.extract(store, work.keys_of(0, 10))
    values = store.reader([A]).read(A, store.rows(work.keys_of(0, 10), [A])).astype(np.float64)
    np.testing.assert_allclose(channel_statistics(store, A).variance, values.var((0, 1, 2)), rtol=1e-3)


def test_without_rows_there_is_nothing_to_say(tmp_path):
    store = work.opened(tmp_path)
    with pytest.raises(RowsMissingError, match="committed rows, found none"):
        channel_statistics(store, A)
    with pytest.raises(LayerMismatchError):
        channel_statistics(store, "unknown")


def filled(tmp_path, rows=13):
    store = work.opened(tmp_path, dtype="float32")
    work.extract(store, work.keys_of(0, 5))
    # A short shard leaves a gap between row numbers.
    work.extract(store, work.keys_of(5, rows))
    return store


def cells_of(store, layer, rows=13):
    values = store.reader([layer]).read(layer, store.rows(work.keys_of(0, rows), [layer])).astype(np.float64)
    return values.reshape(-1, values.shape[-1])


@pytest.fixture(scope="module")
def client():
    with dask_client(2) as found:
        yield found


@pytest.mark.parametrize("layer", [A, B])
def test_principal_components_are_those_of_scikit_learn(tmp_path, layer):
    store = filled(tmp_path)
    cells = cells_of(store, layer)
    reference = PCA(n_components=3, svd_solver="full").fit(cells)
    found = principal_components(store, layer, 3)
    np.testing.assert_allclose(found.mean, reference.mean_, rtol=1e-9, atol=1e-12)
    # scikit-learn's is the variance of a sample.
    np.testing.assert_allclose(found.variance, reference.explained_variance_ * (len(cells) - 1) / len(cells), rtol=1e-9)
    np.testing.assert_allclose(found.share, reference.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(np.abs((found.components * reference.components_).sum(axis=1)), 1, rtol=1e-9)
    np.testing.assert_array_equal(found.components.max(axis=1), np.abs(found.components).max(axis=1))
    scores = (cells - found.mean) @ found.components.T
    np.testing.assert_allclose(scores.var(axis=0), found.variance, rtol=1e-9)


def test_a_cluster_s_sums_are_those_of_one_process(tmp_path, client):
    store = filled(tmp_path)
    for layer in work.LAYERS:
        alone, together = channel_statistics(store, layer), channel_statistics(store, layer, client)
        assert together.cells == alone.cells == len(cells_of(store, layer))
        np.testing.assert_allclose(together.mean, alone.mean, rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(together.variance, alone.variance, rtol=1e-13)
        one, other = principal_components(store, layer, 2), principal_components(store, layer, 2, client)
        np.testing.assert_allclose(other.variance, one.variance, rtol=1e-10)
        np.testing.assert_allclose(other.components, one.components, atol=1e-9)


def test_a_part_is_told_rows_by_number_and_no_number_of_a_map(tmp_path, client):
    store = filled(tmp_path)
    told = []

    class Watched:
        def ncores(self):
            return client.ncores()

        def submit(self, function, *arguments, pure):
            told.append(arguments)
            return client.submit(function, *arguments, pure=pure)

    channel_statistics(store, A, Watched())
    parts = [argument for arguments in told for argument in arguments if isinstance(argument, RowsPart)]
    rows = [row for part in parts for first, stop in part.ranges for row in range(first, stop)]
    assert rows == store.committed_rows(A).tolist()
    assert len(parts) == 7
    assert max(len(part.model_dump_json()) for part in parts) < 2000


def test_impossible_numbers_of_components_are_refused(tmp_path):
    store = filled(tmp_path, rows=6)
    for count in (0, 7):
        with pytest.raises(SpecError, match=f"expected 1 to 6, its channels, got {count}"):
            principal_components(store, A, count)
    fc7 = work.LAYERS[2]
    with pytest.raises(RowsMissingError, match="at least 16 cells for as many components, found 6"):
        principal_components(store, fc7, 16)
    with pytest.raises(LayerMismatchError):
        principal_components(store, "unknown", 1)


def test_channels_that_never_vary_have_no_share(tmp_path, monkeypatch):
    store = work.opened(tmp_path, dtype="float32")
    monkeypatch.setitem(work.maps_of.__globals__, "map_of", lambda key, layer: np.full(work.SHAPES[layer], 3, np.float32))
    work.extract(store, work.keys_of(0, 4))
    found = principal_components(store, A, 2)
    np.testing.assert_array_equal(found.variance, 0)
    np.testing.assert_array_equal(found.share, 0)
    np.testing.assert_array_equal(found.mean, 3)


def test_a_cluster_without_workers_and_a_worker_of_another_release_are_refused(tmp_path, client):
    store = filled(tmp_path, rows=6)
    with dask_client(0) as nobody, pytest.raises(ClusterError, match="found none"):
        channel_statistics(store, A, nobody)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.cluster._code_digest", lambda: "of another release")
        terms = Terms.here(store.path)
    with pytest.raises(ClusterError, match="install the same release"):
        sum_part(RowsPart(path=store.path, layer=A, first_row=0, ranges=((0, 1),), crossed=False, terms=terms))


def test_a_damaged_row_ends_the_sums_on_a_cluster_with_its_name(tmp_path, client):
    store = filled(tmp_path)
    path = store.shard_path(A, 0)
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedError):
        principal_components(store, A, 1, client)


def test_stock_zarr_and_dask_say_the_same(tmp_path):
    store = filled(tmp_path)
    group = zarr.open_group(str(store.path), mode="r")
    rows = np.flatnonzero(group["valid"][:])
    assert len(rows) == 13 < group[A].shape[0]
    maps = dask.array.from_zarr(group[A])[rows].astype("float64")
    mean, variance = dask.array.compute(maps.mean(axis=(0, 1, 2)), maps.var(axis=(0, 1, 2)), scheduler="synchronous")
    found = channel_statistics(store, A)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-5)
