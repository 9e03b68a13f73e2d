"""timm's networks: tokens become maps at any canvas, stages come by their paths, and the extra may be missing."""

from __future__ import annotations

import sys

import pytest
import torch

from hypercolumns.backbones import build_backbone, list_layers
from hypercolumns.errors import BackboneError, LayerNotFoundError, WeightsError
from hypercolumns.specs import BackboneSpec

timm = pytest.importorskip("timm")

VIT = "test_vit"  # timm's own miniatures: depth 6, patch 16
RESNET = "test_resnet"


def _build(name, canvas_hw, *layers, weights="random:0"):
    return build_backbone(BackboneSpec(name=f"timm:{name}", weights=str(weights), layers=layers or None), canvas_hw)


def _images(canvas_hw, seed=0):
    return torch.randn(2, 3, *canvas_hw, generator=torch.Generator().manual_seed(seed))


def test_token_maps_equal_a_block_by_block_forward_without_prefix_tokens(tmp_path):
    torch.manual_seed(1)
    plain = timm.create_model(VIT, num_classes=7, img_size=(96, 64)).eval()
    reference = timm.create_model(VIT, num_classes=7).eval()
    torch.save(reference.state_dict(), tmp_path / "vit.pth")
    reference.set_input_size(img_size=(96, 64))
    plain.load_state_dict(reference.state_dict())

    maps = _build(VIT, (96, 64), "blocks.1", "blocks.5", weights=tmp_path / "vit.pth")(_images((96, 64)))

    with torch.inference_mode():
        tokens = plain.norm_pre(plain._pos_embed(plain.patch_embed(_images((96, 64)))))
        for index, block in enumerate(plain.blocks):
            tokens = block(tokens)
            if index in (1, 5):
                grid = tokens[:, plain.num_prefix_tokens :].transpose(1, 2).reshape(2, -1, 6, 4)
                assert plain.num_prefix_tokens > 0
                torch.testing.assert_close(maps[f"blocks.{index}"], grid, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layer", "canvas_hw", "stride"),
    [
        (VIT, "blocks.0", (64, 160), 16),
        ("swin_tiny_patch4_window7_224", "layers.0", (224, 224), 4),
        ("hiera_tiny_224", "blocks.0", (96, 64), 4),
    ],
)
def test_a_token_stays_at_its_patch_s_place(name, layer, canvas_hw, stride):
    backbone = _build(name, canvas_hw, layer)
    images = _images(canvas_hw)
    changed = images.clone()
    row, column = 2, 1
    top, left = (
        int(offset + cell * stride - stride / 2)
        for offset, cell in zip(backbone.layers[0].offset_px, (row, column), strict=True)
    )
    changed[:, :, top : top + stride, left : left + stride] += 3.0

    difference = (backbone(changed)[layer] - backbone(images)[layer]).norm(dim=1)[0]

    assert divmod(int(difference.argmax()), difference.shape[1]) == (row, column)
    assert backbone.layers[0].map_hw == (canvas_hw[0] // stride, canvas_hw[1] // stride)
    assert backbone.layers[0].stride_px == (stride, stride)
    assert backbone.layers[0].receptive_field_px is None


def test_a_vit_cell_lies_at_its_patch_s_centre():
    (info,) = _build(VIT, (32, 48), "blocks.3").layers

    assert (info.stride_px, info.offset_px, info.receptive_field_px) == ((16.0, 16.0), (8.0, 8.0), None)


def test_a_stage_without_a_known_place_says_so():
    assert _build("hiera_tiny_224", (64, 64), "blocks.9").layers[0].stride_px is None


def test_stages_of_a_convolutional_network_equal_the_plain_modules_and_their_fields_are_traced(tmp_path):
    torch.manual_seed(2)
    plain = timm.create_model(RESNET, num_classes=3).eval()
    torch.save(plain.state_dict(), tmp_path / "resnet.pth")
    expected = {}
    for name in ("act1", "layer2"):
        plain.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: expected.__setitem__(name, output.clone())
        )

    backbone = _build(RESNET, (64, 96), "act1", "layer2", weights=tmp_path / "resnet.pth")
    maps = backbone(_images((64, 96)))

    with torch.inference_mode():
        plain(_images((64, 96)))
    for name, value in maps.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    assert backbone.layers[0].receptive_field_px is not None
    assert torch.equal(backbone(_images((64, 96)), ["act1"])["act1"], maps["act1"])


def test_the_last_feature_is_the_default_layer_and_blocks_can_be_concatenated():
    assert [layer.name for layer in _build(VIT, (32, 32)).layers] == ["blocks.5"]

    (both,) = _build(VIT, (32, 32), "blocks.2+blocks.4").layers

    assert both.channels == 2 * _build(VIT, (32, 32)).layers[0].channels


def test_features_are_listed_by_their_paths():
    assert list_layers(BackboneSpec(name=f"timm:{VIT}", weights="random:0"))[:2] == ("blocks.0", "blocks.1")


def test_an_unknown_network_or_feature_is_refused_with_the_nearest():
    with pytest.raises(BackboneError, match=r"got 'test_vitt'; nearest: test_vit"):
        _build("test_vitt", (32, 32))
    with pytest.raises(LayerNotFoundError, match=r"got 'blocks.6'; nearest: blocks"):
        _build(VIT, (32, 32), "blocks.6")
    with pytest.raises(BackboneError, match=r"expected timm to build 'test_vit.nonsense'"):
        _build("test_vit.nonsense", (32, 32))


def test_a_canvas_that_is_no_multiple_of_the_patch_is_refused():
    with pytest.raises(BackboneError, match=r"multiples of the patch \(16, 16\) of timm's test_vit, got \(40, 32\)"):
        _build(VIT, (40, 32))


def test_a_network_that_gives_no_features_is_refused(monkeypatch):
    bare = torch.nn.Linear(1, 1)
    bare.default_cfg = {"input_size": (3, 32, 32)}
    monkeypatch.setattr(timm, "create_model", lambda name, **arguments: bare)

    with pytest.raises(BackboneError, match=r"gives intermediate features, got 'test_vit'"):
        _build(VIT, (32, 32))


def test_published_weights_by_name_are_left_to_the_user():
    with pytest.raises(WeightsError, match=r"expected one of random:SEED, a path .* for timm:test_vit"):
        _build(VIT, (32, 32), weights="IMAGENET1K_V1")


def test_a_missing_timm_is_said_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)

    with pytest.raises(BackboneError, match=r"pip install 'hypercolumns\[timm\]'"):
        _build(VIT, (32, 32))
