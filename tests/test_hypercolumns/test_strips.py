"""Where the classifier works in strips of rows; that they compute the same is `test_pixel_head`'s business."""

from __future__ import annotations

import pytest
import torch

from hypercolumns.columns import Frame
from hypercolumns.heads import PixelConv
from hypercolumns.specs import HeadSpec
from tests.core_factory import make_layer, make_maps

LAYERS = [make_layer("fine", 3, (8, 8)), make_layer("coarse", 3, (2, 2))]


@pytest.mark.parametrize(
    ("dtype", "dropout", "training", "taken"),
    [
        (torch.float32, 0.0, True, True),
        (torch.bfloat16, 0.0, True, True),
        (torch.float64, 0.0, True, False),  # no kernel
        (torch.float32, 0.5, True, False),  # every run draws its own
        (torch.float32, 0.5, False, True),
    ],
)
def test_strips_are_taken_where_they_compute_the_same(dtype, dropout, training, taken):
    conv = PixelConv(LAYERS, 4, HeadSpec(hidden=8, dropout=dropout), Frame((16, 16)), dtype).train(training)
    assert conv._fits_strips(make_maps(LAYERS, 1)) is taken


def test_maps_that_want_a_gradient_get_one():
    conv = PixelConv(LAYERS, 4, HeadSpec(hidden=8), Frame((16, 16)))
    maps = [values.requires_grad_() for values in make_maps(LAYERS, 1)]
    assert not conv._fits_strips(maps)
    conv(maps).sum().backward()
    assert all(values.grad is not None and values.grad.abs().sum() > 0 for values in maps)


def test_under_autocast_products_are_of_another_type_and_strips_are_not_taken():
    conv = PixelConv(LAYERS, 4, HeadSpec(hidden=8), Frame((16, 16)))
    with torch.autocast("cpu", torch.bfloat16):
        assert not conv._fits_strips(make_maps(LAYERS, 1))
        assert conv(make_maps(LAYERS, 1)).shape == (1, 4, 4, 4)


@pytest.mark.parametrize("hidden", [0, 8])
@pytest.mark.parametrize("coordinates", [False, True])
@pytest.mark.parametrize("batches", [(0, 0), (1, 2), (2, 1), (2, 2)])
def test_batches_of_any_size_and_one_image_s_map_for_all(hidden, coordinates, batches):
    torch.manual_seed(0)
    conv = PixelConv(LAYERS, 4, HeadSpec(hidden=hidden, coordinates=coordinates), Frame((16, 16)))
    maps = [make_maps([layer], count, seed=3)[0] for layer, count in zip(LAYERS, batches, strict=True)]
    written_out = [values.expand(max(batches), -1, -1, -1) for values in maps]
    found = []
    for form, given in ((conv._in_strips, maps), (conv._at_once, written_out)):
        conv.zero_grad()
        logits = form(conv._parts(given, 4), 4)
        logits.square().sum().backward()
        found.append((logits.detach(), *(parameter.grad.clone() for parameter in conv.parameters())))
    assert found[0][0].shape == (max(batches), 4, 4, 4)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
