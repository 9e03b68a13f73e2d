"""Where the classifier works in strips of rows; that they compute the same is `test_pixel_head`'s business."""

from __future__ import annotations

import pytest

from hypercolumns.columns import Frame
from hypercolumns.heads import PixelConv
from hypercolumns.specs import HeadSpec
from tests.core_factory import make_layer


@pytest.mark.parametrize(
    ("canvas", "map_hw", "stride", "hidden", "taken"),
    [
        ((224, 224), (56, 56), 1, 64, True),  # widened sixteenfold
        ((224, 224), (56, 56), 4, 1024, True),  # the finer one is read as it is, the other widened sixteenfold
        ((360, 480), (89, 119), 4, 256, False),  # hardly
        ((1440, 1920), (359, 479), 4, 256, True),  # hardly, but memory counts
        ((64, 64), (16, 16), 1, 64, False),  # fits the cache anyway
    ],
)
def test_strips_are_taken_where_maps_are_widened_or_memory_counts(canvas, map_hw, stride, hidden, taken):
    layers = [make_layer("fine", 3, map_hw), make_layer("coarse", 3, (map_hw[0] // 4, map_hw[1] // 4))]
    conv = PixelConv(layers, 4, HeadSpec(hidden=hidden), Frame(canvas))
    assert conv._fits_strips([], stride) is taken
