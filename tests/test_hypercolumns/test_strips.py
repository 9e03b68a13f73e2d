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
