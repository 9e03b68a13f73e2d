"""Segmentation scores against scikit-learn and against sums done by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, jaccard_score
from sklearn.metrics import confusion_matrix as reference_confusion

from hypercolumns.errors import MetricError
from hypercolumns.metrics import METRICS, confusion_matrix, expected_prior_matrix, majority_matrix, score

VOID = 255
NAMES = ("sky", "road", "tree")


def scene(seed: int, classes: int, side: int = 12) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, classes, (side, side), dtype=np.uint8)
    prediction = np.where(generator.random((side, side)) < 0.6, truth, generator.integers(0, classes, (side, side)))
    truth[generator.random((side, side)) < 0.1] = VOID
    return truth, prediction


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("classes", [2, 3, 11, 255])
def test_the_confusion_matrix_is_that_of_scikit_learn(classes, dtype):
    truth, prediction = scene(classes, classes)
    labelled = truth != VOID
    expected = reference_confusion(truth[labelled], prediction[labelled], labels=range(classes))
    matrix = confusion_matrix(truth, prediction.astype(dtype), classes)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 6))
def test_the_scores_are_those_of_scikit_learn(seed, classes):
    truth, prediction = scene(seed, classes)
    labelled = truth != VOID
    true, guessed = truth[labelled], prediction[labelled]
    present = np.unique(true)
    scores = score(confusion_matrix(truth, prediction, classes), [str(index) for index in range(classes)])
    per_class = jaccard_score(true, guessed, labels=present, average=None)
    assert scores.pixel_accuracy == pytest.approx(accuracy_score(true, guessed))
    recall = [(guessed[true == label] == label).mean() for label in present]
    assert scores.mean_accuracy == pytest.approx(np.mean(recall))
    if set(guessed) <= set(present):
        assert scores.mean_accuracy == pytest.approx(balanced_accuracy_score(true, guessed))
    assert scores.mean_iu == pytest.approx(per_class.mean())
    weighted = jaccard_score(true, guessed, labels=present, average="weighted")
    assert scores.frequency_weighted_iu == pytest.approx(weighted)
    assert [scores.per_class_iu[str(label)] for label in present] == pytest.approx(list(per_class))


def test_a_case_done_by_hand():
    matrix = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    scores = score(matrix, NAMES, images=2)
    assert scores.pixel_accuracy == pytest.approx(9 / 12)
    assert scores.mean_accuracy == pytest.approx((6 / 8 + 3 / 4) / 2)
    assert scores.per_class_iu == {"sky": pytest.approx(6 / 9), "road": pytest.approx(3 / 6), "tree": None}
    assert scores.mean_iu == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert scores.frequency_weighted_iu == pytest.approx((8 * 6 / 9 + 4 * 3 / 6) / 12)
    assert scores.per_class_pixels == {"sky": 8, "road": 4, "tree": 0}
    assert scores.absent_classes == ("tree",)
    assert scores.images == 2


def test_a_pixel_predicted_as_an_absent_class_counts_against_its_true_class_only():
    scores = score(np.array([[3, 0, 1], [0, 4, 0], [0, 0, 0]]), NAMES)
    assert scores.per_class_iu == {"sky": pytest.approx(3 / 4), "road": 1.0, "tree": None}
    assert scores.mean_iu == pytest.approx((3 / 4 + 1) / 2)


def test_a_stack_of_matrices_scores_as_their_sum_and_counts_its_images():
    stack = np.random.default_rng(0).integers(0, 9, (5, 3, 3))
    assert score(stack, NAMES) == score(stack.sum(axis=0), NAMES, images=5)


def test_the_scores_travel_as_json():
    scores = score(np.array([[1, 0, 0], [0, 2, 0], [0, 0, 0]]), NAMES)
    plain = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert plain["absent_classes"] == ["tree"]
    assert plain["per_class_iu"] == {"sky": 1.0, "road": 1.0, "tree": None}


matrices = st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=3), min_size=3, max_size=3).map(np.array)


@given(matrix=matrices.filter(lambda matrix: matrix.any()), order=st.permutations(range(3)), factor=st.integers(1, 7))
def test_scores_ignore_the_order_of_classes_and_the_number_of_copies(matrix, order, factor):
    scores = score(matrix, NAMES)
    moved = score(factor * matrix[np.ix_(order, order)], [NAMES[index] for index in order])
    for name in METRICS:
        assert getattr(moved, name) == pytest.approx(getattr(scores, name))
        assert 0 <= getattr(scores, name) <= 1
    for name in NAMES:
        assert moved.per_class_iu[name] == (
            None if scores.per_class_iu[name] is None else pytest.approx(scores.per_class_iu[name])
        )
    assert scores.mean_iu <= scores.mean_accuracy + 1e-12
    assert scores.frequency_weighted_iu <= scores.pixel_accuracy + 1e-12


def test_what_is_predicted_at_void_pixels_changes_nothing():
    truth, prediction = scene(3, 4)
    other = np.where(truth == VOID, (prediction + 1) % 4, prediction)
    assert (other != prediction).any()
    np.testing.assert_array_equal(confusion_matrix(truth, prediction, 4), confusion_matrix(truth, other, 4))


@pytest.mark.parametrize(
    ("truth", "prediction", "classes", "words"),
    [
        (np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.int64), 3, "shape"),
        (np.zeros((2, 2), np.int64), np.zeros((2, 2), np.int64), 3, "uint8"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2)), 3, "argmax"),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), 3), 3, "3 to 3"),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), -1), 3, "-1 to -1"),
        (np.full((2, 2), 7, np.uint8), np.zeros((2, 2), np.int64), 3, r"\[7\]"),
        (np.full((2, 2), 254, np.uint8), np.zeros((2, 2), np.int64), 3, r"\[254\]"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.int64), 256, "1 to 255 classes"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.int64), 0, "1 to 255 classes"),
    ],
)
def test_labels_that_cannot_be_compared_are_refused(truth, prediction, classes, words):
    with pytest.raises(MetricError, match=words):
        confusion_matrix(truth, prediction, classes)


@pytest.mark.parametrize(
    ("matrix", "names", "words"),
    [
        (np.zeros((3, 3), int), NAMES, "at least one labelled pixel"),
        (np.ones((2, 2), int), NAMES, "3 class names"),
        (np.ones((3, 3), int), ("a", "a", "b"), "distinct"),
        (-np.ones((3, 3), int), NAMES, "not negative"),
        (np.full((3, 3), np.nan), NAMES, "finite"),
        (np.ones(3, int), NAMES, "3 class names"),
    ],
)
def test_a_matrix_that_cannot_be_scored_is_refused(matrix, names, words):
    with pytest.raises(MetricError, match=words):
        score(matrix, names)


def test_the_majority_baseline_is_a_constant_prediction():
    truth, _ = scene(5, 3)
    histogram = np.bincount(truth[truth != VOID], minlength=3)
    np.testing.assert_array_equal(majority_matrix(histogram, 1), confusion_matrix(truth, np.ones_like(truth), 3))
    stacked = majority_matrix(np.stack([histogram, 2 * histogram]), 2)
    np.testing.assert_array_equal(stacked[1], 2 * majority_matrix(histogram, 2))


def test_the_prior_baseline_is_the_mean_of_random_guesses():
    truth, _ = scene(6, 3, side=40)
    histogram, prior = np.bincount(truth[truth != VOID], minlength=3), np.array([0.5, 0.3, 0.2])
    generator = np.random.default_rng(0)
    guesses = [confusion_matrix(truth, generator.choice(3, truth.shape, p=prior), 3) for _ in range(200)]
    expected = expected_prior_matrix(histogram, prior)
    np.testing.assert_allclose(np.mean(guesses, axis=0), expected, rtol=0.03)
    np.testing.assert_allclose(expected.sum(axis=1), histogram)
    np.testing.assert_allclose(expected_prior_matrix(histogram[None], prior)[0], expected)
    assert score(expected, NAMES).pixel_accuracy == pytest.approx(float(histogram @ prior / histogram.sum()))


@pytest.mark.parametrize("prior", [[0.5, 0.5], [0.5, 0.6, 0.2], [1.5, -0.5, 0.0]])
def test_a_prior_that_is_no_distribution_is_refused(prior):
    with pytest.raises(MetricError, match="expected"):
        expected_prior_matrix(np.array([1, 2, 3]), np.array(prior))


def test_baselines_refuse_what_is_no_histogram_or_no_class():
    with pytest.raises(MetricError, match="majority class in"):
        majority_matrix(np.array([1, 2]), 2)
    with pytest.raises(MetricError, match="pixel counts"):
        majority_matrix(np.array([-1, 2]), 0)
