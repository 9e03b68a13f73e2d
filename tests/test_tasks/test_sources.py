"""The store as a map source: what it hands out is what the backbone computes, but for the store's rounding."""

import resource

import psutil
import pytest
import torch

from hypercolumns.columns import Frame
from hypercolumns.sources import BackboneSource
from tasks import stores
from tasks.manifests import load_manifest
from tasks.stores import canvas_loader, experiment_backbone, open_source
from tests.pipeline_factory import run_tasks, tiny_spec

_TOLERANCE = {"float16": 2**-10, "float32": 1e-5, "bfloat16": 2**-7, "uint8": 1 / 255}


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16", "uint8"])
@pytest.mark.parametrize("passes", [1, 10])
def test_maps_and_columns_of_the_store_equal_those_of_the_backbone_within_its_type(data, workspace, dtype, passes):
    spec = tiny_spec(data, store__dtype=dtype, store__views=["identity", "hflip"], train__epochs=0, evaluate__baselines=[])
    outcome = run_tasks(spec, workspace)
    manifest = load_manifest(outcome.prepared.path)
    backbone = experiment_backbone(spec)
    stored = open_source(outcome.job, manifest, "train", passes=passes)
    live = BackboneSource(backbone, canvas_loader(manifest, manifest.splits["train"], spec))
    assert [layer.name for layer in stored.layers] == [layer.name for layer in live.layers]
    items = [(4, "hflip"), (0, "identity"), (4, "identity")]
    points = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) * 64
    frame = Frame((64, 64), "resize")
    for mine, expected in zip(stored.maps(items), live.maps(items), strict=True):
        scale = float(expected.abs().max())
        assert float((mine.float() - expected).abs().max()) <= _TOLERANCE[dtype] * scale
    for whole, apart in zip(stored.maps(items), stored.maps_apart(items), strict=True):
        assert len(apart) == len(items)
        for one, other in zip(whole, apart, strict=True):
            assert torch.equal(one, other)
    columns, wanted = stored.gather(items[0], points, frame), live.gather(items[0], points, frame)
    assert columns.shape == wanted.shape == (50, sum(layer.channels for layer in backbone.layers))
    assert float((columns - wanted).abs().max()) <= _TOLERANCE[dtype] * float(wanted.abs().max())
    assert not torch.equal(stored.maps([items[0]])[0], stored.maps([items[2]])[0]), "the two views must differ"


def test_maps_larger_than_what_a_limit_on_memory_leaves_are_read_past_the_cache(monkeypatch):
    unlimited = stores._available_memory()
    real = resource.getrlimit
    taken = psutil.Process().memory_info().data
    monkeypatch.setattr(
        resource, "getrlimit", lambda limit: (taken + 5000, -1) if limit == resource.RLIMIT_DATA else real(limit)
    )
    assert stores._available_memory() <= 5000 < unlimited
