"""A feature store in an object store: it does what one on a disk does, for the same bytes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from storage.features import FeatureStore
from storage.inspection import list_stores

_spec = importlib.util.spec_from_file_location("extracting", Path(__file__).with_name("extracting.py"))
work = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(work)


def right(store, keys, layers=work.LAYERS, **options):
    reader = store.reader(layers, **options)
    rows = store.rows(keys, layers)
    for layer in layers:
        expected = np.stack([work.map_of(key, layer) for key in keys]).astype(np.float16)
        np.testing.assert_array_equal(reader.read(layer, rows), expected)


@pytest.fixture
def root(bucket, tmp_path):
    return bucket.mirror(tmp_path / "mirrors")


def test_what_is_extracted_into_a_bucket_is_read_back_by_whoever_comes_from_elsewhere(bucket, root, tmp_path):
    keys = work.keys_of(0, 10)
    done = work.extract(work.opened(root), keys)
    assert len(done) == 30
    right(work.opened(root), keys)
    elsewhere = bucket.mirror(tmp_path / "elsewhere")
    (path,) = list_stores(elsewhere)
    right(FeatureStore.open(path), keys)
    assert work.extract(work.opened(elsewhere), keys) == []
