"""Channel statistics against numpy in double precision."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from storage.encoding import DTYPES
from storage.errors import LayerMismatchError, RowsMissingError
from tasks.statistics import channel_statistics

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
