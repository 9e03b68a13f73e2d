"""Part labels: overlaps pixel by pixel, and the confusion inside boxes."""

from __future__ import annotations

import numpy as np
import pytest

from hypercolumns.errors import GeometryError, MetricError
from hypercolumns.metrics import full_scores, mask_overlaps, part_confusion, part_overlaps, score, score_instances

ONE, LABEL = np.ones(1), np.zeros(1, np.int64)


def overlap(found, truth) -> float:
    return float(part_overlaps("a", [np.array(found)], ONE, LABEL, [np.array(truth, np.uint8)], LABEL).overlaps[0, 0])


def test_a_pixel_of_the_intersection_counts_only_with_the_right_part():
    assert overlap([[1, 1, 2, 0]], [[1, 2, 2, 0]]) == pytest.approx(2 / 3)
    assert overlap([[2, 2, 2, 2]], [[1, 1, 1, 1]]) == 0.0
    assert overlap([[1, 1, 0, 2]], [[1, 1, 1, 0]]) == pytest.approx(2 / 4)
    assert overlap([[0, 0, 0, 0]], [[1, 1, 0, 0]]) == 0.0


def test_pixels_of_unknown_part_are_left_out():
    assert overlap([[1, 1, 2, 2]], [[1, 255, 255, 1]]) == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_overlaps_are_those_of_a_loop_over_pixels(seed):
    generator = np.random.default_rng(seed)
    found = [generator.integers(0, 4, (6, 7)) for _ in range(3)]
    truth = [np.where(generator.random((6, 7)) < 0.1, 255, generator.integers(0, 4, (6, 7))).astype(np.uint8) for _ in range(2)]
    table = part_overlaps("a", found, np.ones(3), np.zeros(3), truth, np.zeros(2))
    for number, parts in enumerate(found):
        for instance, real in enumerate(truth):
            right = union = 0
            for guess, label in zip(parts.ravel(), real.ravel(), strict=True):
                if label != 255:
                    union += guess > 0 or label > 0
                    right += guess == label > 0
            assert table.overlaps[number, instance] == pytest.approx(right / union)


def test_with_a_single_part_it_is_the_overlap_of_masks():
    generator = np.random.default_rng(0)
    found, truth = generator.random((3, 8, 8)) < 0.5, generator.random((2, 8, 8)) < 0.5
    given = np.array([0.3, 0.2, 0.9]), np.array([0, 1, 0])
    by_parts = part_overlaps("a", list(found.astype(np.int64)), *given, list(truth.astype(np.uint8)), np.array([0, 1]))
    by_masks = mask_overlaps("a", found, *given, truth, np.array([0, 1]))
    np.testing.assert_allclose(by_parts.overlaps, by_masks.overlaps)


def test_average_precision_falls_where_parts_are_wrong():
    truth = np.array([[1, 1, 2, 2]], np.uint8)
    for guess, expected in (([[1, 1, 2, 2]], 1.0), ([[1, 1, 1, 2]], 1.0), ([[1, 2, 1, 2]], 1.0), ([[2, 2, 1, 2]], 0.0)):
        table = part_overlaps("a", [np.array(guess)], ONE, LABEL, [truth], LABEL)
        assert full_scores(score_instances([table], ["cat"], thresholds=(0.5,)))["ap@0.5"] == expected


def test_an_image_without_detections_or_instances_has_an_empty_table():
    assert part_overlaps("a", [], np.empty(0), np.empty(0), [np.ones((2, 2), np.uint8)], LABEL).overlaps.shape == (0, 1)
    assert part_overlaps("a", [], np.empty(0), np.empty(0), [], np.empty(0)).overlaps.shape == (0, 0)


@pytest.mark.parametrize(
    ("found", "truth", "message"),
    [
        (np.ones((2, 3), np.int64), np.ones((2, 2), np.uint8), "map 1: expected an integer map"),
        (np.ones((2, 2)), np.ones((2, 2), np.uint8), "map 1: expected an integer map"),
        (np.ones((2, 2), np.int64), np.ones(4, np.uint8), "map 0: expected an integer map"),
        (np.full((2, 2), 255), np.ones((2, 2), np.uint8), "without void pixels"),
        (np.ones((2, 2), np.int64), np.zeros((2, 2), np.uint8), "instance 0: expected at least one pixel"),
        (np.ones((2, 2), np.int64), np.full((2, 2), 255, np.uint8), "instance 0: expected at least one pixel"),
    ],
)
def test_part_maps_that_cannot_be_compared_are_refused(found, truth, message):
    with pytest.raises(MetricError, match=f"image a: .*{message}"):
        part_overlaps("a", [found], ONE, LABEL, [truth], LABEL)


def test_part_iu_counts_the_pixels_in_boxes():
    truth = np.array([[0, 1, 1, 2], [0, 1, 255, 2]], np.uint8)
    found = np.array([[1, 1, 2, 2], [2, 0, 1, 2]])
    matrix = part_confusion(truth, found, np.array([[0.5, 0.0, 3.0, 2.0]]), 2)
    # Columns 0 to 2, void left out: (0,1) (1,1) (1,2) (0,2) (1,0).
    assert matrix.tolist() == [[0, 1, 1], [1, 1, 1], [0, 0, 0]]
    twice = part_confusion(truth, found, np.array([[0.5, 0.0, 3.0, 2.0], [3.0, 0.0, 4.0, 2.0]]), 2)
    assert (twice - matrix).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 2]]
    assert score(twice, ("outside", "head", "legs")).per_class_iu["legs"] == pytest.approx(2 / 4)
    assert part_confusion(truth, found, np.empty((0, 4)), 2).sum() == 0


def test_parts_in_what_is_no_box_or_has_another_size_are_refused():
    truth = np.zeros((2, 4), np.uint8)
    with pytest.raises(GeometryError, match="box 0"):
        part_confusion(truth, truth, np.array([[1, 1, 1, 2]]), 2)
    with pytest.raises(MetricError, match="the truth's size"):
        part_confusion(truth, np.zeros((3, 4), np.uint8), np.array([[0, 0, 1, 2]]), 2)
    with pytest.raises(MetricError, match=r"0\.\.2"):
        part_confusion(truth, np.full((2, 4), 3), np.array([[0, 0, 1, 2]]), 2)
