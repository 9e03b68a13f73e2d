"""Where maps come from: the backbone, the pixels themselves, or some layers of another source."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hypercolumns.backbones import build_backbone
from hypercolumns.columns import Frame
from hypercolumns.errors import BackboneError, GeometryError, LayerNotFoundError
from hypercolumns.heads import PixelConv
from hypercolumns.sources import BackboneSource, MapSource, PixelSource, select_layers
from hypercolumns.specs import BackboneSpec, HeadSpec
from tests.core_factory import MemorySource, grid_points, make_layer, torch_stack

CANVAS = (64, 96)
LAYERS = (make_layer("a", 2, (4, 6)), make_layer("b", 3, (2, 3)), make_layer("c", 1, (1, 1)))


@pytest.fixture(scope="module")
def backbone():
    spec = BackboneSpec(weights="random:3", layers=("features.1", "features.4.cat", "features.12.cat"))
    return build_backbone(spec, CANVAS)


def load(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (*CANVAS, 3), np.uint8)


def normalised(canvas: np.ndarray) -> torch.Tensor:
    values = (canvas / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    return torch.from_numpy(values.transpose(2, 0, 1)[None]).float()


def test_every_source_is_a_map_source(backbone):
    sources = [BackboneSource(backbone, load), PixelSource(load, CANVAS), MemorySource(LAYERS, CANVAS)]
    for source in sources:
        assert isinstance(source, MapSource)


def test_recomputed_maps_are_the_backbone_s_channels_last_and_in_the_order_asked_for(backbone):
    source = BackboneSource(backbone, load)
    maps = source.maps([(2, "identity"), (0, "hflip")])
    for position, canvas in enumerate((load(2), load(0)[:, ::-1])):
        direct = backbone(normalised(canvas))
        for values, layer in zip(maps, source.layers, strict=True):
            assert values.dtype == torch.float32
            assert values.shape[1:] == (*layer.map_hw, layer.channels)
            torch.testing.assert_close(values[position], direct[layer.name][0].permute(1, 2, 0), rtol=1e-4, atol=1e-4)


def test_a_head_can_be_trained_on_recomputed_maps(backbone):
    source = BackboneSource(backbone, load, ["features.12.cat"])
    conv = PixelConv(source.layers, 3, HeadSpec(hidden=4, output_stride=16), Frame(CANVAS))
    conv(source.maps([(0, "identity")])).square().sum().backward()
    assert conv.first.weight.grad is not None
    assert conv.first.weight.grad.isfinite().all()


def test_gathered_columns_are_torch_s_interpolation_of_the_maps(backbone):
    source = BackboneSource(backbone, load)
    points = torch.from_numpy(grid_points(CANVAS, 8)).float()
    expected = torch_stack(source.maps([(1, "hflip")]), (8, 12)).reshape(96, -1).float()
    torch.testing.assert_close(source.gather((1, "hflip"), points, Frame(CANVAS)), expected, rtol=1e-4, atol=1e-5)


def test_pixels_are_a_layer_of_three_colours_from_0_to_1():
    source = PixelSource(load, CANVAS)
    (values,) = source.maps([(4, "hflip")])
    np.testing.assert_allclose(values[0].numpy(), load(4)[:, ::-1] / 255, rtol=1e-6)
    for alignment in ("resize", "receptive_field", "corners"):
        points = torch.tensor([[0.5, 0.5], [95.5, 63.5], [10.5, 3.5]])
        found = source.gather((4, "identity"), points, Frame(CANVAS, alignment))
        np.testing.assert_allclose(found.numpy(), load(4)[[0, 63, 3], [0, 95, 10]] / 255, rtol=1e-5, atol=1e-6)


def test_a_selection_computes_its_layers_alone_shallow_to_deep(backbone):
    source = BackboneSource(backbone, load)
    names = [source.layers[2].name, source.layers[0].name]
    chosen = source.select(names)
    assert [layer.name for layer in chosen.layers] == names[::-1]
    whole = source.maps([(1, "identity")])
    for values, position in zip(chosen.maps([(1, "identity")]), (0, 2), strict=True):
        assert values.equal(whole[position])


def test_pixels_have_no_other_layer_to_select():
    source = PixelSource(load, CANVAS)
    assert source.select(["rgb"]).layers == source.layers
    with pytest.raises(LayerNotFoundError, match="rgb"):
        source.select(["depth"])


def test_a_layer_that_is_not_there_is_refused_with_those_that_are(backbone):
    with pytest.raises(LayerNotFoundError, match=r"\['a', 'b', 'c'\], got \['d'\]"):
        select_layers(LAYERS, ["a", "d"])
    with pytest.raises(LayerNotFoundError, match="conv9"):
        BackboneSource(backbone, load, ["conv9"])


def test_a_canvas_of_another_size_and_an_unknown_view_are_refused(backbone):
    with pytest.raises(BackboneError, match="expected images of shape"):
        BackboneSource(backbone, lambda index: np.zeros((32, 32, 3), np.uint8)).maps([(0, "identity")])
    with pytest.raises(GeometryError, match="identity or hflip"):
        BackboneSource(backbone, load).maps([(0, "vflip")])
