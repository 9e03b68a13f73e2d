"""Heatmaps over boxes: targets, the way back to the image, peaks, superpixels, baselines."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from skimage.segmentation import slic

from hypercolumns.errors import GeometryError, SamplingError
from hypercolumns.geometry import REFINER_EXPANSION
from hypercolumns.heatmaps import (
    blur,
    cut_mask,
    find_peaks,
    find_superpixels,
    heatmap_points,
    keypoint_targets,
    mask_target,
    part_targets,
    project,
    splat,
)
from hypercolumns.heatmaps.baselines import ellipse, mean_points, mean_targets, prior_logits, rectangle

BOX = np.array([4.0, 2.0, 24.0, 12.0])


def positions(box, side, expansion=0.0):
    """Spell out where heatmap pixels lie, number by number."""
    width, height = box[2] - box[0], box[3] - box[1]
    x0, y0 = box[0] - expansion * width, box[1] - expansion * height
    step_x, step_y = width * (1 + 2 * expansion) / side, height * (1 + 2 * expansion) / side
    return [[(x0 + (j + 0.5) * step_x, y0 + (i + 0.5) * step_y) for j in range(side)] for i in range(side)]


@pytest.mark.parametrize("expansion", [0.0, REFINER_EXPANSION, 0.5])
def test_a_mask_is_read_at_the_pixel_that_holds_each_position_and_is_unknown_beyond_the_image(expansion):
    mask = np.random.default_rng(0).random((16, 30)) < 0.5
    found = mask_target(mask, BOX, 7, expansion)
    for i, line in enumerate(positions(BOX, 7, expansion)):
        for j, (x, y) in enumerate(line):
            if 0 <= x < 30 and 0 <= y < 16:
                assert found[i, j] == mask[int(y), int(x)]
            else:
                assert np.isnan(found[i, j])


def test_keypoints_become_bumps_that_are_round_in_the_image_and_unlabelled_ones_are_unknown():
    points = np.array([[14.3, 7.2], [np.nan, np.nan], [400.0, 7.0]])
    found = keypoint_targets(points, np.array([True, False, True]), BOX, (16, 30), 40, sigma=0.1)
    assert np.isnan(found[1]).all()
    assert (found[2] == 0).all(), "out of reach is zero, not unknown"
    for i, line in enumerate(positions(BOX, 40)):
        for j, (x, y) in enumerate(line):
            share = ((x - 14.3) ** 2 + (y - 7.2) ** 2) / (0.1 * 20) ** 2
            assert found[0, i, j] == pytest.approx(np.exp(-share / 2) if share <= 9 else 0, abs=1e-6)


def test_parts_are_learned_inside_the_object_alone_and_not_where_nobody_knows_them():
    parts = np.zeros((10, 10), np.uint8)
    parts[:, 2:4], parts[:, 4:6], parts[:, 6:8] = 1, 2, 255
    found = part_targets(parts, 2, np.array([0.0, 0, 10, 10]), 10)
    assert found.shape == (2, 10, 10)
    assert np.isnan(found[:, :, [0, 1, 6, 7, 8, 9]]).all()
    assert (found[0, :, 2:4] == 1).all()
    assert (found[0, :, 4:6] == 0).all()
    np.testing.assert_array_equal(found[1, :, 2:6], 1 - found[0, :, 2:6])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mask_target(np.zeros((4, 4)), BOX, 5), "boolean mask"),
        (lambda: mask_target(np.zeros((4, 4), bool), BOX[[2, 1, 0, 3]], 5), "x0 < x1"),
        (lambda: keypoint_targets(np.zeros((2, 2)), np.ones(3, bool), BOX, (9, 9), 5), "boolean annotation"),
        (lambda: keypoint_targets(np.full((2, 2), np.nan), np.ones(2, bool), BOX, (9, 9), 5), "finite annotated"),
        (lambda: keypoint_targets(np.zeros((2, 2)), np.ones(2, bool), BOX, (9, 9), 5, sigma=0), "sigma > 0"),
        (lambda: part_targets(np.full((4, 4), 3, np.uint8), 2, BOX, 5), "got part 3"),
        (lambda: part_targets(np.zeros((4, 4)), 2, BOX, 5), "uint8"),
        (lambda: splat(np.zeros((4, 5)), BOX, (9, 9)), "heatmaps"),
        (lambda: cut_mask(np.ones((3, 3)), 0), "threshold"),
        (lambda: cut_mask(np.zeros((3, 3))), "pixel's centre"),
        (lambda: find_peaks(np.zeros((2, 4, 5))), "heatmaps"),
        (lambda: find_peaks(np.full((1, 4, 4), np.nan)), "finite"),
        (lambda: find_superpixels(np.zeros((4, 4), np.uint8)), "image"),
        (lambda: find_superpixels(np.zeros((4, 4, 3), np.uint8), "watershed"), "slic or felzenszwalb"),
        (lambda: project(np.zeros((3, 3)), np.zeros((3, 4), np.int64)), "size"),
        (lambda: project(np.zeros((3, 3)), np.zeros((3, 3), np.int64), 0), "least mean"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_reason(call, message):
    with pytest.raises(GeometryError, match=message):
        call()


@pytest.mark.parametrize("factor", [1, 2, 5])
def test_a_heatmap_on_a_box_of_whole_pixels_is_torchs_bilinear_resizing(factor):
    heatmap = np.random.default_rng(1).random((3, 6, 6)).astype(np.float32)
    side = 6 * factor
    laid = splat(heatmap, np.array([3.0, 2, 3 + side, 2 + side]), (40, 45))
    expected = F.interpolate(torch.from_numpy(heatmap)[None], size=(side, side), mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(laid[:, 2 : 2 + side, 3 : 3 + side], expected, atol=1e-6)
    laid[:, 2 : 2 + side, 3 : 3 + side] = 0
    assert not laid.any(), "nothing lies outside the box"


def test_a_box_that_leaves_the_image_is_cut_off_and_not_moved():
    heatmap = np.random.default_rng(2).random((8, 8)).astype(np.float32)
    whole = splat(heatmap, np.array([10.0, 10, 30, 26]), (40, 40))
    moved = splat(heatmap, np.array([-10.0, -5, 10, 11]), (20, 20))
    np.testing.assert_allclose(moved, whole[15:35, 20:40], atol=1e-6)
    assert moved[0, 0] > 0
    assert not moved[11:].any()


def test_a_mask_seen_through_a_box_and_laid_back_is_the_mask_again():
    rows, columns = np.mgrid[:80, :90]
    mask = ((rows - 40) / 22) ** 2 + ((columns - 45) / 30) ** 2 < 1
    box = np.array([13.0, 16.0, 77.0, 64.0])
    back = cut_mask(splat(np.nan_to_num(mask_target(mask, box, 50, 0.1)), box, mask.shape, 0.1), 0.5)
    assert (back & mask).sum() / (back | mask).sum() > 0.97


def test_a_heatmap_below_the_threshold_keeps_its_highest_pixel():
    laid = np.zeros((4, 5))
    laid[2, 3] = 0.2
    assert np.argwhere(cut_mask(laid, 0.5)).tolist() == [[2, 3]]


def test_peaks_of_parabolas_are_found_between_the_pixels():
    random = np.random.default_rng(3)
    tops = random.uniform(2, 13, (20, 2))
    rows, columns = np.mgrid[:16, :16]
    maps = np.stack([1 - 0.003 * ((columns - x) ** 2 + 2 * (rows - y) ** 2) for x, y in tops])
    shares, scores = find_peaks(maps)
    np.testing.assert_allclose(shares * 16 - 0.5, tops, atol=1e-9)
    np.testing.assert_array_equal(scores, maps.max(axis=(1, 2)))


def test_a_peak_at_the_rim_stays_on_its_pixel_and_a_flat_heatmap_takes_the_first():
    maps = np.zeros((2, 5, 5))
    maps[0, 0, 4] = 1.0
    shares, scores = find_peaks(maps)
    np.testing.assert_allclose(shares, [[0.9, 0.1], [0.1, 0.1]])
    assert scores.tolist() == [1.0, 0.0]
    np.testing.assert_allclose(heatmap_points(shares[:1], BOX), [[4 + 0.9 * 20, 2 + 0.1 * 10]])


def test_superpixels_whose_mean_reaches_the_limit_are_kept_whole():
    pieces = np.repeat(np.arange(4), 5)[None].repeat(3, 0)
    laid = np.zeros((3, 20), np.float32)
    laid[:, 0:2], laid[:, 5:10] = 1.0, 0.39
    mask = project(laid, pieces, 0.4)
    np.testing.assert_array_equal(mask, pieces == 0)


@pytest.mark.parametrize("method", ["slic", "felzenszwalb"])
def test_superpixels_follow_a_sharp_edge(method):
    image = np.full((40, 60, 3), 40, np.uint8)
    image[:, 33:] = 200
    pieces = find_superpixels(image, method, 100)
    assert pieces.shape == (40, 60)
    assert set(np.unique(pieces)) == set(range(int(pieces.max()) + 1))
    assert not set(np.unique(pieces[:, :31])) & set(np.unique(pieces[:, 35:]))
    if method == "slic":
        assert pieces.max() + 1 == len(np.unique(slic(image, n_segments=24, compactness=10, start_label=0)))


def test_baselines_know_where_the_box_ends_in_an_expanded_heatmap():
    assert rectangle(10).all()
    inner = rectangle(10, 0.125)
    np.testing.assert_array_equal(inner, np.pad(np.ones((8, 8)), 1))
    assert ellipse(400).mean() == pytest.approx(np.pi / 4, abs=2e-3)
    assert ellipse(400, 0.5).mean() == pytest.approx(np.pi / 16, abs=2e-3)


@pytest.mark.parametrize("alike", [True, False])
def test_a_prior_is_the_mean_target_with_some_boxes_of_the_simpler_mean_added(alike):
    random = np.random.default_rng(0)
    targets = [(slice(n % 2, n % 2 + 1), (random.random((1, 3, 3)) < 0.3).astype(np.float32)) for n in range(9)]
    targets[0][1][0, 0, 0] = np.nan
    shares = 1 / (1 + np.exp(-prior_logits(targets, 3, 2.0, alike=alike).astype(np.float64)))
    for output in range(2):
        own = np.concatenate([target for outputs, target in targets if outputs.start == output])
        for y, x in np.ndindex(3, 3):
            simple = np.concatenate([target[:, y, x] for _, target in targets]) if alike else own.ravel()
            simple = simple[~np.isnan(simple)]
            mean = (simple.sum() + 0.5) / (len(simple) + 1)
            known = own[:, y, x][~np.isnan(own[:, y, x])]
            assert shares[output, y, x] == pytest.approx((known.sum() + 2 * mean + 0.5) / (len(known) + 3), rel=1e-5)
    # An output without a box has the mean of the others, or knows nothing.
    assert shares[2].std() > 0.01 if alike else shares[2] == pytest.approx(0.5)
    assert np.isfinite(prior_logits([(slice(0, 1), np.ones((1, 2, 2), np.float32))], 1, 0.0, alike=alike)).all()
    with pytest.raises(SamplingError, match="got none"):
        prior_logits([], 1, 0.0, alike=alike)


def test_a_blur_is_scipys_and_round_in_the_image():
    heatmaps = np.random.default_rng(0).random((2, 20, 20))
    # Twice as wide as high: σ is 0.1 of the width, 2 pixels across and 4 down.
    expected = [gaussian_filter(each, (4, 2), mode="constant", truncate=30) for each in heatmaps]
    np.testing.assert_allclose(blur(heatmaps, 0.1, (80.0, 40.0)), expected, atol=1e-6)
    assert blur(heatmaps, 0.0, (80.0, 40.0)) is heatmaps


def test_a_blurred_maximum_lies_where_most_is_not_at_a_lone_pixel():
    heatmap = np.zeros((1, 20, 20))
    heatmap[0, 2, 2], heatmap[0, 12:15, 12:15] = 1.0, 0.8
    np.testing.assert_allclose(find_peaks(heatmap)[0], [[0.125, 0.125]])
    np.testing.assert_allclose(find_peaks(blur(heatmap, 0.1, (1, 1)))[0], [[0.675, 0.675]], atol=0.01)


@pytest.mark.parametrize(("sigma", "box"), [(-0.1, (1, 1)), (0.1, (0, 1)), (np.nan, (1, 1))])
def test_a_blur_of_no_width_or_over_no_box_is_refused(sigma, box):
    with pytest.raises(GeometryError, match="sigma"):
        blur(np.zeros((1, 3, 3)), sigma, box)


def test_means_are_over_what_is_known():
    one, two = np.array([[1.0, np.nan], [0, np.nan]]), np.array([[0.0, 1], [np.nan, np.nan]])
    np.testing.assert_array_equal(mean_targets([one, two]), [[0.5, 1], [0, 0]])
    with pytest.raises(SamplingError, match="got none"):
        mean_targets([])
    points = np.array([[[5.0, 10], [0, 0]], [[15.0, 30], [0, 0]]])
    there = np.array([[True, False], [True, False]])
    boxes = np.array([[0.0, 0, 10, 20], [10, 20, 20, 40]])
    np.testing.assert_allclose(mean_points(points, there, boxes), [[0.5, 0.5], [0.5, 0.5]])
