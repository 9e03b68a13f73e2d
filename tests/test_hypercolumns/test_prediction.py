"""Label masks at the image's own size: letterboxes, mirror images, and scores at the edge of what a float holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hypercolumns.columns import Frame
from hypercolumns.geometry import place
from hypercolumns.heads import PixelMLP, convert
from hypercolumns.prediction import canvas_scores, segment
from hypercolumns.sources import PixelSource
from hypercolumns.specs import CanvasSpec, HeadSpec
from tests.core_factory import MemorySource, make_layer

CANVAS = (32, 48)
LAYERS = (make_layer("fine", 3, (16, 24)), make_layer("coarse", 4, (3, 5)))


def make_conv(source, classes=3, alignment="resize", **options):
    torch.manual_seed(0)
    spec = HeadSpec(**{"hidden": 8, "output_stride": 4, **options})
    return convert(PixelMLP(source.layers, classes, spec, Frame(source.canvas_hw, alignment))).eval()


def test_without_flips_the_scores_are_the_classifier_s_logits():
    source = MemorySource(LAYERS, CANVAS, images=2)
    conv = make_conv(source)
    torch.testing.assert_close(canvas_scores(conv, source, 1), conv(source.maps([(1, "identity")]))[0].detach())


def test_with_flips_the_scores_are_mean_probabilities_and_do_not_care_which_side_is_which():
    source = MemorySource(LAYERS, CANVAS)
    conv = make_conv(source)
    scores = canvas_scores(conv, source, 0, flip=True)
    plain, mirrored = (conv(source.maps([(0, view)]))[0].detach().double() for view in ("identity", "hflip"))
    expected = (F.softmax(plain, 0) + F.softmax(mirrored, 0).flip(-1)) / 2
    torch.testing.assert_close(scores.double().exp(), expected, rtol=1e-5, atol=1e-7)
    source.values = [values.flip(2) for values in source.values]
    torch.testing.assert_close(canvas_scores(conv, source, 0, flip=True), scores.flip(-1), rtol=1e-4, atol=1e-5)


def test_with_flips_a_hopeless_class_stays_finite_and_never_wins():
    source = MemorySource(LAYERS, CANVAS)
    conv = make_conv(source)
    # Far beyond what exp() can hold in float32, so that the probability alone would be zero and its logarithm infinite.
    conv.logit_offset.copy_(torch.tensor([400.0, 0.0, -400.0]))
    scores = canvas_scores(conv, source, 0, flip=True)
    assert scores.isfinite().all()
    labels = segment(conv, source, 0, place((31, 77), CanvasSpec(size_hw=CANVAS)), flip=True)
    assert (labels == 0).all()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("mode", ["letterbox", "stretch"])
@pytest.mark.parametrize("image_hw", [(64, 96), (40, 17), (9, 100), (1, 1), (33, 47)])
def test_masks_have_the_image_s_size_and_the_class_under_each_pixel(image_hw, mode, flip):
    placement = place(image_hw, CanvasSpec(mode=mode, size_hw=CANVAS))
    top, left, bottom, right = placement.box_yxyx
    canvas = np.zeros((*CANVAS, 3), np.uint8)
    canvas[top:bottom, left:right, 0] = 255
    # The left half of the content is green too; the padding is black.
    middle = (left + right) // 2
    canvas[top:bottom, left:middle, 1] = 255
    source = PixelSource(lambda index: canvas, CANVAS)
    conv = make_conv(source, hidden=0, output_stride=1)
    with torch.no_grad():
        # Class 0 is content without green, class 1 content with green, class 2 padding.
        conv.first.weight.copy_(torch.tensor([[4.0, -8.0, 0.0], [0.0, 8.0, 0.0], [-9.0, -9.0, 0.0]]))
        conv.first.bias.copy_(torch.tensor([0.0, 0.0, 3.0]))
    labels = segment(conv, source, 0, placement, flip=flip)
    assert labels.dtype == np.uint8
    assert labels.shape == image_hw
    if flip:
        return
    assert (labels != 2).all(), "the padding never leaks in"
    boundary = (middle - left) / (right - left) * image_hw[1]
    reach = 1.5 * max(1.0, image_hw[1] / (right - left))
    for x in range(image_hw[1]):
        if abs(x + 0.5 - boundary) > reach:
            assert (labels[:, x] == (1 if x + 0.5 < boundary else 0)).all()
