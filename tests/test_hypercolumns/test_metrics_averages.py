"""Means over objects and classes, and part IU, against sums spelled out."""

import numpy as np
import pytest

from hypercolumns.errors import MetricError
from hypercolumns.metrics import full_scores, intervals
from hypercolumns.metrics.averages import MeanOf, box_mask_iou, score_means
from hypercolumns.metrics.part_scores import PartScores


def test_means_are_over_classes_that_have_an_object_and_over_all_objects():
    values, labels, image = np.array([0.2, 0.4, 0.9]), np.array([0, 0, 2]), np.array([0, 1, 1])
    scores = score_means("iou", values, labels, image, 3, ("a", "b", "c"))
    assert full_scores(scores) == pytest.approx({"iou": 0.6, "iou/all": 0.5, "iou/a": 0.3, "iou/c": 0.9})
    twice = scores.summarise(np.array([[1.0, 0, 5], [2, 1, 0]]))
    assert twice["iou"].tolist() == pytest.approx([0.2, ((0.2 * 2 + 0.4) / 3 + 0.9) / 2])
    assert np.isnan(twice["iou/c"][0])
    low, high = intervals(scores, resamples=50)["iou"]
    assert 0.2 <= low <= high <= 0.9


@pytest.mark.parametrize(
    ("values", "labels", "image", "message"),
    [
        ([np.nan], [0], [0], "finite"),
        ([1.0, 2.0], [0], [0], "finite"),
        ([1.0], [2], [0], "labels in 0..1"),
        ([1.0], [0], [3], "images in 0..2"),
    ],
)
def test_numbers_that_fit_no_object_are_refused(values, labels, image, message):
    with pytest.raises(MetricError, match=message):
        score_means("iou", np.array(values), np.array(labels), np.array(image), 3, ("a", "b"))


def test_the_mean_of_scores_by_class_names_every_part_of_it():
    members = {
        name: score_means("iou", np.array([value]), np.array([0]), np.array([0]), 2, ("x",))
        for name, value in (("a", 0.2), ("b", 0.6))
    }
    scores = full_scores(MeanOf(members))
    assert scores["iou"] == pytest.approx(0.4)
    assert scores["iou/a"] == pytest.approx(0.2)
    assert scores["iou/b: x"] == pytest.approx(0.6)
    assert MeanOf(members).images == 2
    assert "mean over classes" in MeanOf(members).protocol


def test_overlap_counts_inside_the_window_alone_and_two_empty_masks_agree():
    first, second = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    first[:, :3], second[:, 1:4] = True, True
    assert box_mask_iou(first, second, (slice(0, 4), slice(0, 6))) == 0.5
    assert box_mask_iou(first, second, (slice(0, 2), slice(1, 3))) == 1.0
    assert box_mask_iou(first, second, (slice(0, 2), slice(5, 6))) == 1.0


def test_part_iu_is_intersection_over_union_without_the_outside():
    matrix = np.array([[[9, 1, 0], [2, 3, 1], [0, 0, 0]], [[5, 0, 0], [0, 1, 0], [0, 0, 0]]])
    scores = full_scores(PartScores((("house", ("roof", "door")),), (matrix,)))
    assert scores["part_iou/house: roof"] == pytest.approx(4 / 8)
    assert scores["part_iou/house: door"] is None, "no true pixel: it takes no part"
    assert scores["part_iou"] == scores["part_iou/house"] == pytest.approx(0.5)
    assert PartScores((), ()).images == 0
