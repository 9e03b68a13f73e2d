"""Widening by products of matrices against plain resampling: values, gradients, and where it is taken."""

import pytest
import torch

from hypercolumns.columns import Frame, resample
from hypercolumns.heads import PixelMLP, convert, widening
from hypercolumns.heads.widening import plan_widening, widen_and_sum
from hypercolumns.specs import HeadSpec
from tests.core_factory import make_layer

CANVAS = (48, 64)
FRAME = Frame(CANVAS, "receptive_field")
# Offsets as valid convolutions have them: the first cells do not lie where a resized map's would.
LAYERS = (
    make_layer("fine", 3, (11, 15), stride_px=(4.0, 4.0), offset_px=(3.5, 3.5)),
    make_layer("middle", 4, (5, 7), stride_px=(8.0, 8.0), offset_px=(7.5, 7.5)),
    make_layer("coarse", 5, (2, 3), stride_px=(16.0, 16.0), offset_px=(15.5, 15.5)),
)


@pytest.fixture(autouse=True)
def fast_bfloat16(monkeypatch):
    """Take the form on processors, too, that it is not made for."""
    monkeypatch.setattr(widening, "multiplies_tiles", lambda: True)


def responses(dtype=torch.bfloat16, images=2, channels=6):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(images, *layer.map_hw, channels, generator=generator).to(dtype) for layer in LAYERS]


def plain_sum(values, stride):
    return sum(resample(part, layer, FRAME, stride) for part, layer in zip(values, LAYERS, strict=True))


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("images", [1, 3])
def test_values_and_gradients_are_those_of_resampling_each_and_adding(stride, images):
    plan = plan_widening(LAYERS, FRAME, stride, torch.bfloat16)
    found = [part.requires_grad_() for part in responses(images=images)]
    exact = [part.detach().double().requires_grad_() for part in found]
    widened, expected = widen_and_sum(found, plan), plain_sum(exact, stride)
    assert widened.dtype == torch.bfloat16
    torch.testing.assert_close(widened.double(), expected, rtol=0.01, atol=0.03)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    (widened * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    for part, reference in zip(found, exact, strict=True):
        torch.testing.assert_close(part.grad.double(), reference.grad, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("stride", [2, 4])
def test_the_matrices_are_the_interpolation_itself(stride):
    """In double precision, with the plan's matrices: nothing but the order of the sums differs."""
    plan = plan_widening(LAYERS, FRAME, stride, torch.bfloat16)
    values = responses(torch.float64)
    heights = [layer.map_hw[0] for layer in LAYERS]
    rows = plan.rows.double().split(heights, dim=1)
    columns = [matrix.double() for matrix in plan.columns]
    written = sum(
        torch.einsum("yh,xw,bhwc->byxc", row, column, part) for row, column, part in zip(rows, columns, values, strict=True)
    )
    torch.testing.assert_close(written, plain_sum(values, stride), rtol=1e-12, atol=1e-12)
    for there, back in zip((*plan.columns, plan.rows), (*plan.columns_back, plan.rows_back), strict=True):
        assert torch.equal(there.t(), back)
        assert back.is_contiguous()


def test_other_types_resized_maps_inexact_weights_and_many_cells_are_resampled_plainly(monkeypatch):
    assert plan_widening(LAYERS, FRAME, 4, torch.float32) is None
    assert plan_widening((), FRAME, 4, torch.bfloat16) is None
    assert plan_widening((make_layer("resized", 3, (12, 16)),), Frame(CANVAS), 4, torch.bfloat16) is None, (
        "F.interpolate does it"
    )
    thirds = make_layer("thirds", 3, (7, 10), stride_px=(6.0, 6.0), offset_px=(5.0, 5.0))
    assert plan_widening((thirds,), FRAME, 2, torch.bfloat16) is None, "a third is no number of eight bits"
    monkeypatch.setattr(widening, "_MOST_CELLS", 24)
    assert plan_widening(LAYERS, FRAME, 4, torch.bfloat16) is None
    monkeypatch.setattr(widening, "_MOST_CELLS", 512)
    monkeypatch.setattr(widening, "multiplies_tiles", lambda: False)
    assert plan_widening(LAYERS, FRAME, 4, torch.bfloat16) is None


@pytest.mark.parametrize("hidden", [0, 8])
@pytest.mark.parametrize("coordinates", [False, True])
def test_a_head_gives_the_same_logits_and_gradients_either_way(monkeypatch, hidden, coordinates):
    torch.manual_seed(3)
    spec = HeadSpec(hidden=hidden, output_stride=4, coordinates=coordinates)
    mlp = PixelMLP(LAYERS, 4, spec, FRAME)
    generator = torch.Generator().manual_seed(5)
    maps = [torch.randn(2, *layer.map_hw, layer.channels, generator=generator) for layer in LAYERS]
    found = {}
    for fast in (True, False):
        monkeypatch.setattr(widening, "multiplies_tiles", lambda fast=fast: fast)
        conv = convert(mlp, torch.bfloat16)
        logits = conv(maps)
        assert [plan is not None for plan in conv._widening_plans.values()] == [fast]
        logits.float().square().mean().backward()
        found[fast] = logits, {name: parameter.grad for name, parameter in conv.named_parameters()}
    torch.testing.assert_close(found[True][0], found[False][0], rtol=0.02, atol=0.03)
    for name, gradient in found[True][1].items():
        torch.testing.assert_close(gradient, found[False][1][name], rtol=0.05, atol=0.02, msg=name)


def test_a_head_that_predicted_first_can_be_trained_afterwards():
    conv = convert(PixelMLP(LAYERS, 4, HeadSpec(hidden=8, output_stride=4), FRAME), torch.bfloat16)
    maps = [torch.randn(1, *layer.map_hw, layer.channels) for layer in LAYERS]
    with torch.inference_mode():
        predicted = conv(maps)
    conv(maps).float().square().mean().backward()
    assert all(parameter.grad is not None for parameter in conv.parameters())
    torch.testing.assert_close(conv(maps).detach(), predicted.clone())
