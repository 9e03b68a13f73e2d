"""Boxes warped to a canvas, against the filter written out in double precision."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hypercolumns.crops import crop_edges, warp_box
from hypercolumns.errors import GeometryError

FILL = (0.2, 0.4, 0.6)


def image(height=37, width=53, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def weights(low, high, canvas, pixels):
    """Write out the triangle filter of every canvas pixel, the image's outermost pixels going on for ever (canvas, pixels)."""
    scale = (high - low) / canvas
    found = np.zeros((canvas, pixels))
    for number in range(canvas):
        centre, reach = low + (number + 0.5) * scale, max(scale, 1.0)
        for place in range(int(np.floor(centre - reach)) - 1, int(np.ceil(centre + reach)) + 1):
            found[number, min(max(place, 0), pixels - 1)] += max(0.0, 1 - abs(place + 0.5 - centre) / reach)
    return found / found.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    "box",
    [
        (5, 4, 37, 30),
        (5.3, 4.9, 20.1, 11.2),
        (0, 0, 53, 37),
        (-9.5, -3, 30, 20.7),
        (40, 20, 90.2, 60),
        (-200, -100, 300, 200),
        (10.2, 10.2, 10.9, 10.4),
    ],
)
@pytest.mark.parametrize("size_hw", [(20, 31), (64, 48)])
def test_a_crop_is_a_window_on_the_resampled_image_and_padding_lies_beyond_it(box, size_hw):
    pixels = image()
    x0, y0, x1, y1 = box
    down, right = weights(y0, y1, size_hw[0], 37), weights(x0, x1, size_hw[1], 53)
    expected = np.einsum("ij,jkc,lk->ilc", down, pixels.astype(np.float64), right)
    rows = y0 + (np.arange(size_hw[0]) + 0.5) * (y1 - y0) / size_hw[0]
    columns = x0 + (np.arange(size_hw[1]) + 0.5) * (x1 - x0) / size_hw[1]
    inside = ((rows >= 0) & (rows < 37))[:, None] & ((columns >= 0) & (columns < 53))
    expected[~inside] = np.rint(np.array(FILL) * 255)
    found = warp_box(pixels, np.array(box), size_hw, fill_rgb=FILL)
    assert found.shape == (*size_hw, 3)
    assert np.abs(found - expected).max() <= 1.5, "Pillow rounds to whole numbers twice, along each axis"
    np.testing.assert_array_equal(found[~inside], expected[~inside])


def test_a_box_of_whole_pixels_is_cut_out_as_it_is():
    np.testing.assert_array_equal(warp_box(image(), np.array([5, 4, 37, 30]), (26, 32)), image()[4:30, 5:37])


def test_a_box_inside_a_smooth_image_is_what_torch_makes_of_it():
    ramp = np.stack([np.add.outer(np.arange(60.0), 2 * np.arange(60.0))] * 3, axis=2).astype(np.uint8)
    found = warp_box(ramp, np.array([10, 10, 50, 50]), (20, 20))
    whole = F.interpolate(
        torch.from_numpy(ramp).permute(2, 0, 1)[None].double(), size=(30, 30), mode="bilinear", antialias=True
    )
    np.testing.assert_allclose(found, whole[0, :, 5:25, 5:25].permute(1, 2, 0), atol=1.5)


def test_edges_say_what_of_a_crop_is_image():
    assert crop_edges(np.array([5, 4, 37, 30]), (37, 53), (20, 30)).tolist() == [0, 0, 30, 20]
    assert crop_edges(np.array([-10, 0, 30, 74]), (37, 53), (20, 40)).tolist() == [10, 0, 40, 10]
    pixels, box = np.full((37, 53, 3), 255, np.uint8), np.array([-13.0, -5, 60, 39])
    x0, y0, x1, y1 = crop_edges(box, (37, 53), (44, 73))
    shown = (warp_box(pixels, box, (44, 73), fill_rgb=(0, 0, 0)) == 255).all(axis=2)
    assert shown.sum() == shown[round(y0) : round(y1), round(x0) : round(x1)].size


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([5, 4, 5, 30], "x0 < x1"),
        ([5, 4, np.nan, 30], "finite"),
        ([53, 4, 60, 30], "meets the image of 53 x 37"),
        ([-5, -9, 10, 0], "meets the image"),
    ],
)
def test_boxes_without_an_area_and_beyond_the_image_are_refused(box, message):
    for function in (lambda: warp_box(image(), np.array(box), (8, 8)), lambda: crop_edges(np.array(box), (37, 53), (8, 8))):
        with pytest.raises(GeometryError, match=message):
            function()


def test_other_images_are_refused():
    with pytest.raises(GeometryError, match="uint8 RGB"):
        warp_box(image()[..., 0], np.array([0, 0, 5, 5]), (8, 8))
