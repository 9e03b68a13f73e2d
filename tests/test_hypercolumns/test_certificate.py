"""What the certificate measures, and that it does not hold when it should not."""

from __future__ import annotations

import json

import pytest
import torch

from hypercolumns import certificate
from hypercolumns.certificate import TOLERANCE, certify
from hypercolumns.columns import Frame
from hypercolumns.errors import TrainingError
from hypercolumns.heads import PixelMLP
from hypercolumns.specs import HeadSpec
from tests.core_factory import MemorySource, make_layer

CANVAS = (32, 48)
LAYERS = (make_layer("fine", 3, (16, 24), (2.0, 2.0), (1.0, 1.0)), make_layer("coarse", 4, (2, 3), (16.0, 16.0), (7.0, 7.0)))


def make_mlp(**options) -> PixelMLP:
    spec = HeadSpec(**{"hidden": 8, **options})
    torch.manual_seed(0)
    return PixelMLP(LAYERS, 3, spec, Frame(CANVAS, spec.alignment))


@pytest.mark.parametrize("alignment", ["resize", "receptive_field", "corners"])
@pytest.mark.parametrize("options", [{}, {"coordinates": True}, {"hidden": 0}, {"context": "kernel3"}])
def test_the_forms_agree_at_every_pixel_of_every_image(alignment, options):
    mlp = make_mlp(alignment=alignment, **options).train()
    found = certify(mlp, MemorySource(LAYERS, CANVAS, images=2), [(0, "identity"), (1, "hflip")])
    assert found.holds
    assert found.pixels == 2 * 32 * 48
    assert 0 < found.factorised_difference <= TOLERANCE
    assert found.argmax_agreement > 0.999
    assert 0.5 < found.stride_argmax_agreement < 1
    assert mlp.training, "the classifier is left as it was"
    assert mlp.spec.context == options.get("context", "none")
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["holds"] is True


def test_at_stride_1_resampling_changes_no_class():
    assert certify(make_mlp(output_stride=1), MemorySource(LAYERS, CANVAS), [(0, "identity")]).stride_argmax_agreement > 0.999


def test_a_classifier_whose_folding_loses_its_digits_gets_no_certificate():
    mlp = make_mlp()
    # The mean is a million times the deviation: folded, the difference of two huge numbers is left.
    mlp.set_statistics(torch.full((7,), 1e4), torch.full((7,), 1e-2))
    source = MemorySource(LAYERS, CANVAS)
    source.values = [values * 1e-2 + 1e4 for values in source.values]
    assert not certify(mlp, source, [(0, "identity")]).holds


def test_a_stack_too_large_for_memory_is_left_out_and_said_so(monkeypatch):
    monkeypatch.setattr(certificate, "_STACK_BYTES", 1.0)
    found = certify(make_mlp(), MemorySource(LAYERS, CANVAS), [(0, "identity")])
    assert found.stacked_difference is None
    assert found.holds


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_never_pass_as_equal(broken):
    mlp = make_mlp()
    with torch.no_grad():
        mlp.first.weight[0, 0] = broken
    with pytest.raises(TrainingError, match="finite logits"):
        certify(mlp, MemorySource(LAYERS, CANVAS), [(0, "identity")])


def test_a_classifier_that_says_nothing_is_equal_to_itself():
    mlp = make_mlp()
    for parameter in mlp.parameters():
        torch.nn.init.zeros_(parameter)
    assert certify(mlp, MemorySource(LAYERS, CANVAS), [(0, "identity")]).holds


def test_no_image_is_no_certificate():
    with pytest.raises(TrainingError, match="at least one image"):
        certify(make_mlp(), MemorySource(LAYERS, CANVAS), [])
