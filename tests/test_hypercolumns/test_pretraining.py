"""Pretraining a backbone on generated figures: a tiny run end to end, and the folding it rests on."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import squeezenet1_1

from hypercolumns import pretraining
from hypercolumns.backbones import build_backbone
from hypercolumns.datasets.shapes import FIGURE_CLASSES, figure_crops
from hypercolumns.errors import SpecError
from hypercolumns.pretraining import (
    BackbonePretrainingSpec,
    PretrainedBackbone,
    model_card,
    pretrain_backbone,
    write_backbone,
)
from hypercolumns.specs import BackboneSpec, parse_spec

SPEC = BackbonePretrainingSpec(crops=64, test_crops=64, size=64, epochs=2)


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def result(told) -> PretrainedBackbone:
    return pretrain_backbone(SPEC, workers=1, report=told.append)


def test_a_tiny_run_tells_its_epochs_and_measures_itself(result, told):
    assert [line.split(":")[0] for line in told[1:]] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert "drew 64 figures" in told[0]
    assert 0 <= result.test_accuracy <= 1
    assert 0 < result.train_loss < 4
    assert result.seconds > 0


def test_what_is_kept_are_the_plain_network_s_features_in_half_precision(result):
    plain = squeezenet1_1().state_dict()
    expected = {name: value.shape for name, value in plain.items() if name.startswith("features.")}
    assert {name: value.shape for name, value in result.features.items()} == expected
    for name, value in result.features.items():
        assert value.dtype == torch.float16, name
        assert value.is_contiguous(), name
        assert value.isfinite().all(), name


def test_the_written_file_loads_as_a_backbone_and_computes_the_network_s_maps(result, tmp_path):
    path = tmp_path / "new folder" / "figures.safetensors"
    for _ in range(2):
        write_backbone(path, result)
    assert [entry.name for entry in path.parent.iterdir()] == ["figures.safetensors"]
    assert path.stat().st_size < 3e6
    assert set(load_file(path)) == set(result.features)
    backbone = build_backbone(BackboneSpec(weights=str(path)), (64, 64))
    network = squeezenet1_1()
    network.load_state_dict({name: value.float() for name, value in result.features.items()}, strict=False)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = network.features.eval()(images)
    torch.testing.assert_close(backbone(images)["features.12.cat"].contiguous(), expected, rtol=1e-3, atol=1e-4)


def test_the_same_spec_gives_the_same_weights_whatever_happened_before(result):
    torch.manual_seed(12345)
    again = pretrain_backbone(SPEC, workers=1)
    assert again.test_accuracy == result.test_accuracy
    for name, value in again.features.items():
        assert value.equal(result.features[name]), name


def test_the_figures_that_are_tested_on_were_not_trained_on(monkeypatch):
    drawn = []
    monkeypatch.setattr(pretraining, "_epoch", lambda *arguments: 0.0)
    monkeypatch.setattr(pretraining, "_draw_piece", lambda piece: drawn.append(piece) or figure_crops(1, *piece[1:3]))
    pretrain_backbone(SPEC, workers=1)
    (train, test) = drawn
    assert train[2] == SPEC.seed != test[2]


def test_folding_batch_normalisation_changes_nothing_but_the_layers():
    torch.manual_seed(0)
    features = pretraining._normalised(squeezenet1_1().features).double()
    convolutions = sum(isinstance(part, nn.Conv2d) for part in squeezenet1_1().features.modules())
    normalisations = [part for part in features.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(normalisations) == convolutions
    for part in normalisations:
        part.running_mean.normal_()
        part.running_var.uniform_(0.1, 3)
        nn.init.normal_(part.weight)
        nn.init.normal_(part.bias)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        expected = features.eval()(images)
        folded = pretraining._folded(copy.deepcopy(features).train())
        found = folded(images)
    assert not [part for part in folded.modules() if isinstance(part, nn.BatchNorm2d)]
    assert list(folded.state_dict()) == list(squeezenet1_1().features.state_dict())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_figures_are_the_same_from_one_process_or_two(monkeypatch):
    monkeypatch.setattr(pretraining, "_CHUNK", 3)
    images, labels = pretraining._draw(8, 64, 5, 2)
    expected, expected_labels = figure_crops(8, 64, 5)
    assert (images.numpy() == expected).all()
    assert (labels.numpy() == expected_labels).all()


def test_the_card_says_how_to_make_the_weights_again(result):
    card = model_card(SPEC, result)
    command = re.search(r"`hypercolumns pretrain-backbone (.*)`", card)
    assert command is not None
    words = command[1].split()
    options = {name.removeprefix("--").replace("-", "_"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    assert parse_spec(BackbonePretrainingSpec, options) == SPEC
    assert f"{result.test_accuracy:.3f}" in card
    assert f"chance: {1 / len(FIGURE_CLASSES):.3f}" in card


@pytest.mark.parametrize("value", [{"crops": 63}, {"size": 32}, {"epochs": 0}, {"crop": 100}])
def test_settings_out_of_range_are_refused_by_name(value):
    with pytest.raises(SpecError, match=next(iter(value))):
        parse_spec(BackbonePretrainingSpec, value)
