"""Arithmetic on boxes against hand-made cases, counting pixels, and pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from hypercolumns.boxes import (
    box_iou,
    clip_boxes,
    jitter_boxes,
    longer_sides,
    non_maximum_suppression,
    pixel_slices,
)
from hypercolumns.errors import GeometryError


def random_boxes(count: int, seed: int = 0, scale: float = 40.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    corner = generator.random((count, 2)) * scale
    return np.concatenate([corner, corner + 1 + generator.random((count, 2)) * scale], axis=1)


def test_overlaps_are_those_of_pycocotools():
    first, second = random_boxes(9), random_boxes(7, seed=1)
    as_xywh = [np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1) for boxes in (first, second)]
    np.testing.assert_allclose(box_iou(first, second), coco_mask.iou(*as_xywh, [0] * 7), atol=1e-12)
    assert box_iou(np.empty((0, 4)), second).shape == (0, 7)


def test_boxes_that_only_touch_do_not_overlap_and_halves_overlap_by_a_third():
    boxes = np.array([[0, 0, 2, 2], [2, 0, 4, 2], [1, 0, 3, 2]])
    np.testing.assert_allclose(box_iou(boxes, boxes), [[1, 0, 1 / 3], [0, 1, 1 / 3], [1 / 3, 1 / 3, 1]])


@pytest.mark.parametrize("limit", [0.0, 0.3, 0.7, 1.0])
def test_suppression_keeps_what_a_plain_loop_keeps(limit):
    boxes, scores = random_boxes(40), np.random.default_rng(3).integers(0, 8, 40) / 8
    kept: list[int] = []
    for number in sorted(range(40), key=lambda n: (-scores[n], n)):
        if all(float(box_iou(boxes[[number]], boxes[[other]])[0, 0]) <= limit for other in kept):
            kept.append(number)
    assert non_maximum_suppression(boxes, scores, limit).tolist() == kept


def test_an_overlap_of_exactly_the_limit_is_kept():
    boxes = np.array([[0, 0, 2, 2], [1, 0, 3, 2]])
    assert non_maximum_suppression(boxes, np.array([0.5, 0.9]), 1 / 3).tolist() == [1, 0]
    assert non_maximum_suppression(boxes, np.array([0.5, 0.9]), 0.33).tolist() == [1]
    assert non_maximum_suppression(np.empty((0, 4)), np.empty(0)).tolist() == []


@pytest.mark.parametrize(
    ("scores", "limit"), [([0.5, np.nan], 0.3), ([0.5, np.inf], 0.3), ([0.5], 0.3), ([0.5, 0.4], 1.1), ([0.5, 0.4], -0.1)]
)
def test_suppression_by_no_numbers_is_refused(scores, limit):
    with pytest.raises(GeometryError, match="expected"):
        non_maximum_suppression(random_boxes(2), np.array(scores), limit)


def test_clipping_stops_at_the_image_and_refuses_what_lies_outside():
    assert clip_boxes(np.array([[-5, -1, 3, 90]]), (20, 30)).tolist() == [[0, 0, 3, 20]]
    with pytest.raises(GeometryError, match="box 1: expected a box that meets the image of 30 x 20"):
        clip_boxes(np.array([[0, 0, 5, 5], [30, 0, 40, 5]]), (20, 30))


def test_jittered_boxes_stay_in_the_image_and_close_and_differ():
    boxes = np.array([[2.0, 3.0, 12.0, 9.0], [-4.0, 0.0, 30.0, 20.0], [10.0, 10.0, 10.5, 10.5]])
    clipped = clip_boxes(boxes, (20, 30))
    jittered = jitter_boxes(boxes, (20, 30), np.random.default_rng(0), spread=0.4, least_iou=0.8)
    assert (np.diag(box_iou(jittered, clipped)) >= 0.8).all()
    assert not np.allclose(jittered, clipped)
    assert (jittered >= 0).all()
    assert (jittered <= [30, 20, 30, 20]).all()
    again = jitter_boxes(boxes, (20, 30), np.random.default_rng(0), spread=0.4, least_iou=0.8)
    np.testing.assert_array_equal(jittered, again)
    np.testing.assert_array_equal(jitter_boxes(boxes, (20, 30), np.random.default_rng(0), spread=0.0), clipped)


def test_a_very_close_jitter_is_found_by_halving_the_spread():
    boxes = random_boxes(4)
    jittered = jitter_boxes(boxes, (100, 100), np.random.default_rng(0), spread=0.49, least_iou=0.999)
    assert (np.diag(box_iou(jittered, boxes)) >= 0.999).all()
    assert not np.array_equal(jittered, boxes)


@pytest.mark.parametrize("options", [{"spread": 0.5}, {"spread": -0.1}, {"least_iou": 1.0}, {"least_iou": -0.1}])
def test_a_jitter_out_of_range_is_refused(options):
    with pytest.raises(GeometryError, match="expected a spread"):
        jitter_boxes(random_boxes(1), (100, 100), np.random.default_rng(0), **options)


def test_the_longer_side_is_the_scale():
    assert longer_sides(np.array([[0, 0, 3, 7], [1, 1, 9, 2]])).tolist() == [7, 8]


def test_a_box_holds_the_pixels_whose_centres_it_holds():
    boxes = np.concatenate([random_boxes(60) - 10, [[2.5, 2.5, 3.5, 3.5], [2.6, 2.6, 3.4, 3.4], [-9, -9, -1, -1]]])
    for x0, y0, x1, y1 in boxes:
        rows, columns = pixel_slices(np.array([x0, y0, x1, y1]), (20, 30))
        inside = np.zeros((20, 30), np.bool_)
        inside[rows, columns] = True
        expected = [[x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1 for x in range(30)] for y in range(20)]
        np.testing.assert_array_equal(inside, expected)


@pytest.mark.parametrize("box", [[0, 0, 0, 5], [0, 0, np.nan, 5], [3, 0, 1, 5]])
def test_what_is_no_box_is_refused_everywhere(box):
    wrong = np.array([box], np.float64)
    calls = (
        lambda: box_iou(random_boxes(1), wrong),
        lambda: non_maximum_suppression(wrong, np.ones(1)),
        lambda: clip_boxes(wrong, (9, 9)),
        lambda: longer_sides(wrong),
        lambda: pixel_slices(wrong[0], (9, 9)),
    )
    for call in calls:
        with pytest.raises(GeometryError, match="box 0"):
            call()
