"""Backbones: presets are exact, maps are what the plain network computes, and bad specs are refused with a remedy."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from hypercolumns.backbones import PRESETS, build_backbone, list_layers, preset_layers
from hypercolumns.backbones.caffenet import CaffeNet
from hypercolumns.backbones.graphs import GraphNetwork, build_module
from hypercolumns.errors import BackboneError, LayerNotFoundError
from hypercolumns.specs import BackboneSpec

SQUEEZENET = BackboneSpec(name="squeezenet1_1", weights="random:1")


@pytest.fixture(scope="module")
def squeezenet():
    return build_backbone(SQUEEZENET, (64, 96))


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("vgg11", [64, 128, 256, 512, 512]),
        ("vgg16", [64, 128, 256, 512, 512]),
        ("squeezenet1_0", [96, 128, 128, 256, 384, 512]),
        ("squeezenet1_1", [64, 128, 128, 256, 256, 384, 384, 512, 512]),
        ("caffenet", [256, 384, 4096]),
    ],
)
@pytest.mark.parametrize("activation", ["post_relu", "pre_relu"])
def test_a_preset_has_its_channels_before_and_after_the_relu(name, channels, activation):
    with torch.device("meta"):
        network = GraphNetwork(build_module(name))
    layers = preset_layers(name, activation)
    measured = network.measure([node for layer in layers for node in layer.split("+")], PRESETS[name].canvas_hw or (96, 96))

    assert [sum(measured[node].shape[1] for node in layer.split("+")) for layer in layers] == channels


def test_presets_have_their_published_widths_and_activations():
    assert preset_layers("vgg11") == tuple(f"features.{index}" for index in (0, 3, 8, 13, 18))
    assert preset_layers("squeezenet1_0")[1] == "features.3.expand1x1+features.3.expand3x3"
    assert preset_layers("squeezenet1_1")[-1] == "features.12.cat"
    assert preset_layers("caffenet") == ("pool2", "relu4", "relu7")


def _plain_squeezenet(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every activation of a SqueezeNet, module by module with torchvision's own in-place ReLUs, copied before they strike."""
    found, x = {}, images
    for index, module in enumerate(model.features):
        if type(module).__name__ != "Fire":
            x = module(x)
            found[f"features.{index}"] = x.clone()
            continue
        x = module.squeeze_activation(module.squeeze(x))
        one, three = module.expand1x1(x), module.expand3x3(x)
        found[f"features.{index}.expand1x1"], found[f"features.{index}.expand3x3"] = one.clone(), three.clone()
        x = torch.cat([module.expand1x1_activation(one), module.expand3x3_activation(three)], 1)
        found[f"features.{index}.cat"] = x.clone()
    return found


@pytest.mark.parametrize("name", ["squeezenet1_0", "squeezenet1_1"])
def test_maps_equal_a_plain_forward_bit_for_bit_although_torchvision_s_relu_works_in_place(name, tmp_path, images):
    torch.manual_seed(0)
    plain = getattr(torchvision.models, name)().eval()
    torch.save(plain.state_dict(), tmp_path / "weights.pth")
    layers = preset_layers(name, "pre_relu") + preset_layers(name, "post_relu")

    maps = build_backbone(BackboneSpec(name=name, weights=str(tmp_path / "weights.pth"), layers=layers), (64, 96))(images)

    with torch.inference_mode():
        channels_last = plain.to(memory_format=torch.channels_last)
        expected = _plain_squeezenet(channels_last, images.to(memory_format=torch.channels_last))
    for layer in layers:
        assert torch.equal(maps[layer], torch.cat([expected[node] for node in layer.split("+")], 1)), layer
    assert all(bool((maps[layer] < 0).any()) for layer in preset_layers(name, "pre_relu"))
    assert all(bool((maps[layer] >= 0).all()) for layer in preset_layers(name, "post_relu"))


def test_an_in_place_function_does_not_overwrite_the_map_before_it():
    spec = BackboneSpec(name="googlenet", weights="random:0", layers=("conv1.bn", "conv1.relu"))

    maps = build_backbone(spec, (32, 32))(torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))

    assert bool((maps["conv1.bn"] < 0).any())
    assert torch.equal(maps["conv1.bn"].relu(), maps["conv1.relu"])


def test_layer_infos_describe_the_maps_that_come(squeezenet, images):
    maps = squeezenet(images)

    assert list(maps) == [layer.name for layer in squeezenet.layers] == list(preset_layers("squeezenet1_1"))
    for layer in squeezenet.layers:
        assert maps[layer.name].shape == (2, layer.channels, *layer.map_hw)
        assert maps[layer.name].dtype == torch.float32
        assert maps[layer.name].is_inference()
        assert maps[layer.name].is_contiguous(memory_format=torch.channels_last)


def _convolutions_run(call) -> int:
    count = 0

    def note(module, inputs, output):
        nonlocal count
        count += isinstance(module, nn.Conv2d)

    handle = register_module_forward_hook(note)
    try:
        call()
    finally:
        handle.remove()
    return count


def test_only_wanted_layers_come_and_nothing_after_the_last_is_computed(squeezenet, images):
    everything = squeezenet(images)

    chosen = squeezenet(images, ["features.4.cat", "features.1"])

    assert list(chosen) == ["features.4.cat", "features.1"]
    assert all(torch.equal(chosen[name], everything[name]) for name in chosen)
    assert _convolutions_run(lambda: squeezenet(images, ["features.1"])) == 1
    assert _convolutions_run(lambda: squeezenet(images, ["features.4.cat"])) == 7
    assert _convolutions_run(lambda: squeezenet(images)) == 25


def test_a_backbone_is_frozen_and_leaves_its_images_alone(squeezenet, images):
    before = images.clone()

    maps = squeezenet(images)

    assert torch.equal(images, before)
    assert not any(value.requires_grad for value in maps.values())


def test_weights_that_are_rounded_once_give_the_bits_of_those_that_autocast_rounds_each_time(images):
    rounded = build_backbone(SQUEEZENET, (64, 96), precision="bfloat16")
    plain = build_backbone(SQUEEZENET, (64, 96))
    assert any(parameter.dtype == torch.bfloat16 for parameter in rounded._tap.parameters())
    plain.precision = "bfloat16"
    expected = plain(images)
    for name, value in rounded(images).items():
        assert torch.equal(value, expected[name]), name


def test_bfloat16_gives_maps_of_that_type_near_the_float32_ones(images, squeezenet):
    rough = build_backbone(SQUEEZENET, (64, 96), precision="bfloat16")(images)
    exact = squeezenet(images)

    for name, value in rough.items():
        assert value.dtype == torch.bfloat16
        assert float((value.float() - exact[name]).norm() / exact[name].norm()) < 0.02


def test_an_identity_is_plain_json_and_names_neither_layers_nor_canvas(squeezenet):
    other = build_backbone(SQUEEZENET.model_copy(update={"layers": ("features.1",)}), (32, 32))

    assert json.loads(json.dumps(squeezenet.identity)) == squeezenet.identity
    assert squeezenet.identity == other.identity
    assert squeezenet.identity["weights_sha256"] == squeezenet.weights_sha256


def test_caffenet_gives_fc7_as_a_single_cell_on_its_own_canvas():
    backbone = build_backbone(BackboneSpec(name="caffenet", weights="random:0"), (227, 227))

    maps = backbone(torch.randn(1, 3, 227, 227))

    assert [tuple(value.shape) for value in maps.values()] == [(1, 256, 13, 13), (1, 384, 13, 13), (1, 4096, 1, 1)]
    assert sum(layer.channels for layer in backbone.layers) == 4736
    assert backbone.layers[2].receptive_field_px is backbone.layers[2].stride_px is backbone.layers[2].offset_px is None


def test_caffenet_scores_classes():
    assert CaffeNet(classes=3).eval()(torch.zeros(1, 3, 227, 227)).shape == (1, 3)


def test_caffenet_without_its_fully_connected_layers_takes_any_canvas():
    backbone = build_backbone(BackboneSpec(name="caffenet", weights="random:0", layers=("pool2",)), (96, 128))

    assert backbone.layers[0].map_hw == (5, 7)


@pytest.mark.parametrize("canvas_hw", [(224, 224), (229, 229)])
def test_caffenet_s_fully_connected_layers_are_refused_on_another_canvas(canvas_hw):
    with pytest.raises(BackboneError, match=r"caffenet.*use a canvas of 227 x 227"):
        build_backbone(BackboneSpec(name="caffenet", weights="random:0"), canvas_hw)


def test_any_torchvision_model_is_tapped_by_node_names():
    layers = ("relu", "layer1.0.relu+layer1.1.add", "layer2", "avgpool+fc")
    backbone = build_backbone(BackboneSpec(name="resnet18", weights="random:0", layers=layers), (64, 64))

    maps = backbone(torch.randn(1, 3, 64, 64))

    shapes = [tuple(value.shape) for value in maps.values()]
    assert shapes == [(1, 64, 32, 32), (1, 128, 16, 16), (1, 128, 8, 8), (1, 1512, 1, 1)]
    assert backbone.layers[2].receptive_field_px == (99.0, 99.0)
    assert backbone.layers[3].stride_px is None


def test_a_model_without_a_preset_asks_for_layers_and_says_how_to_list_them():
    with pytest.raises(BackboneError, match=r"resnet18 is not a preset.*list_layers\(spec\)"):
        build_backbone(BackboneSpec(name="resnet18", weights="random:0"), (64, 64))


def test_the_layers_of_a_network_can_be_listed():
    names = list_layers(SQUEEZENET)

    assert names.index("features.0") < names.index("features.3.expand1x1") < names.index("features.3.cat")


def test_an_unknown_layer_is_refused_with_the_nearest_names():
    with pytest.raises(LayerNotFoundError, match=r"got 'features.3.cart'; nearest: features.3.cat"):
        build_backbone(SQUEEZENET.model_copy(update={"layers": ("features.3.cart",)}), (64, 64))


def test_a_layer_that_was_not_built_is_refused_with_the_nearest_names(squeezenet, images):
    with pytest.raises(LayerNotFoundError, match=r"got 'features.2'; nearest: features\."):
        squeezenet(images, ["features.2"])


def test_an_unknown_backbone_is_refused_with_the_nearest_names():
    with pytest.raises(BackboneError, match=r"got 'squeezenet1_3'; nearest: squeezenet1_[01], squeezenet1_[01]"):
        build_backbone(BackboneSpec(name="squeezenet1_3", weights="random:0", layers=("x",)), (64, 64))


def test_a_preset_that_does_not_exist_is_refused():
    with pytest.raises(BackboneError, match=r"expected a preset .*vgg11.*got 'vgg12'; nearest: vgg1"):
        preset_layers("vgg12")


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))]
)
def test_a_backbone_moves_to_a_device_and_computes_the_same_maps_there(images, squeezenet, device):
    backbone = build_backbone(SQUEEZENET, (64, 96))
    backbone(images, ["features.1"])

    assert backbone.to(device) is backbone
    for layers in (["features.1"], ["features.12.cat"]):
        (here,), (there,) = squeezenet(images, layers).values(), backbone(images, layers).values()
        assert there.device.type == device
        torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-4)


def test_a_canvas_too_small_for_the_network_is_refused():
    with pytest.raises(BackboneError, match=r"expected a canvas that fits squeezenet1_1, got 8 x 4 pixels"):
        build_backbone(SQUEEZENET, (8, 4))


def test_images_of_another_size_are_refused(squeezenet):
    with pytest.raises(BackboneError, match=r"expected images of shape \(b, 3, 64, 96\)"):
        squeezenet(torch.zeros(1, 3, 96, 64))


def test_nodes_of_different_sizes_cannot_be_concatenated():
    with pytest.raises(BackboneError, match=r"expected maps of equal size to concatenate"):
        build_backbone(SQUEEZENET.model_copy(update={"layers": ("features.1+features.3.cat",)}), (64, 64))


@pytest.mark.parametrize(
    ("name", "node", "said"),
    [
        ("convnext_tiny", "features.1.0.block.2", r"\(1, 16, 16, 96\) with channels on axis 3"),
        ("shufflenet_v2_x0_5", "stage2.0.transpose", r"\(1, 24, 2, 8, 8\)"),
        ("shufflenet_v2_x0_5", "stage2.0.size", r"\(\)"),
    ],
)
def test_an_activation_that_is_no_map_is_refused(name, node, said):
    with pytest.raises(BackboneError, match=rf"layer {node} of {name}: expected an activation of shape .* got {said}"):
        build_backbone(BackboneSpec(name=name, weights="random:0", layers=(node,)), (64, 64))


REAL_DATA = os.environ.get("HYPERCOLUMNS_REAL_DATA")


@pytest.mark.real
@pytest.mark.skipif(REAL_DATA is None, reason="HYPERCOLUMNS_REAL_DATA is not set")
@pytest.mark.parametrize("name", ["squeezenet1_0", "squeezenet1_1"])
def test_published_weights_give_the_plain_network_s_maps_bit_for_bit(name, images):
    path = Path(str(REAL_DATA)) / "weights" / f"{name}.pth"
    layers = preset_layers(name, "pre_relu") + preset_layers(name, "post_relu")

    maps = build_backbone(BackboneSpec(name=name, weights=str(path), layers=layers), (64, 96))(images)

    plain = getattr(torchvision.models, name)().eval()
    plain.load_state_dict(torch.load(path, weights_only=True))
    with torch.inference_mode():
        expected = _plain_squeezenet(plain.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last))
    for layer in layers:
        assert torch.equal(maps[layer], torch.cat([expected[node] for node in layer.split("+")], 1)), layer
