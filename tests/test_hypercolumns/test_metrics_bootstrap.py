"""Bootstrap intervals against a plain loop over drawn images."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from hypercolumns.errors import MetricError
from hypercolumns.metrics import METRICS, bootstrap_intervals, paired_bootstrap, score

NAMES = ("a", "b", "c", "d")


def matrices(images: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    stack = generator.integers(0, 20, (images, 4, 4)) + 30 * np.eye(4, dtype=int) * generator.random((images, 1, 1)).round(2)
    stack[:, 3] = 0  # never in the ground truth
    stack[1:, 2] = 0  # in one image only
    return stack.astype(np.int64)


def replicate_by_hand(stack: np.ndarray, chosen: np.ndarray) -> tuple[float, dict[int, float]]:
    """Mean IU and IU of one drawn set, from pixels through scikit-learn rather than from sums."""
    total = stack[chosen].sum(axis=0)
    truth = np.repeat(np.repeat(np.arange(4), 4), total.ravel())
    guess = np.repeat(np.tile(np.arange(4), 4), total.ravel())
    present = np.unique(truth)
    values = jaccard_score(truth, guess, labels=present, average=None)
    return float(values.mean()), dict(zip(present.tolist(), values.tolist(), strict=True))


def test_the_intervals_are_the_percentiles_of_a_plain_loop():
    stack, resamples = matrices(7), 60
    intervals = bootstrap_intervals(stack, NAMES, resamples=resamples, confidence=0.9, seed=5)
    drawn = np.random.default_rng(5).integers(0, 7, (resamples, 7))
    replicates = [replicate_by_hand(stack, chosen) for chosen in drawn]
    assert intervals["mean_iu"] == pytest.approx(tuple(np.percentile([mean for mean, _ in replicates], [5, 95])))
    for label in range(3):
        defined = [values[label] for _, values in replicates if label in values]
        assert intervals[f"iu/{NAMES[label]}"] == pytest.approx(tuple(np.percentile(defined, [5, 95])))
    assert set(intervals) == {*METRICS, "iu/a", "iu/b", "iu/c"}
    assert len(defined) < resamples


def test_the_intervals_hold_the_score_and_narrow_with_more_images():
    few, many = matrices(12), np.tile(matrices(12), (20, 1, 1))
    for name, (low, high) in bootstrap_intervals(few, NAMES).items():
        if name in METRICS:
            assert low <= getattr(score(few, NAMES), name) <= high
    width_few, width_many = (np.diff(bootstrap_intervals(stack, NAMES)["pixel_accuracy"])[0] for stack in (few, many))
    assert width_many == pytest.approx(width_few / np.sqrt(20), rel=0.2)


def test_the_coverage_of_a_95_percent_interval_is_near_95_percent():
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        right = generator.binomial(100, 0.7, size=40)
        stack = np.zeros((40, 2, 2), np.int64)
        stack[:, 0, 0], stack[:, 0, 1] = right, 100 - right
        low, high = bootstrap_intervals(stack, ("a", "b"), resamples=300, seed=trial)["pixel_accuracy"]
        covered += low <= 0.7 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    first, again, other = (bootstrap_intervals(matrices(9), NAMES, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_blocks_of_replicates_change_nothing(monkeypatch):
    whole = bootstrap_intervals(matrices(9), NAMES, resamples=50)
    monkeypatch.setattr("hypercolumns.metrics.bootstrap._BLOCK_NUMBERS", 63)
    assert bootstrap_intervals(matrices(9), NAMES, resamples=50) == whole


def test_one_image_gives_no_interval():
    assert bootstrap_intervals(matrices(1), NAMES) == {}


def test_a_name_that_no_replicate_defines_is_left_out():
    stack = np.zeros((2, 4, 4), np.int64)
    stack[0, 0, 0] = stack[1, 1, 1] = 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [set(bootstrap_intervals(stack, NAMES, resamples=1, seed=seed)) for seed in range(20)]
    assert {*METRICS, "iu/a"} in found
    assert {*METRICS, "iu/b"} in found


def test_a_clear_winner_wins_every_replicate_and_a_twin_none():
    stack = matrices(15)
    worse = stack.copy()
    worse[:, 0, 1] += worse[:, 0, 0]
    worse[:, 0, 0] = 0
    result = paired_bootstrap(stack, worse, NAMES)
    assert result["difference"] == pytest.approx(score(stack, NAMES).mean_iu - score(worse, NAMES).mean_iu)
    assert 0 < result["low"] <= result["difference"] <= result["high"]
    assert result["probability_better"] == 1.0
    assert paired_bootstrap(worse, stack, NAMES)["probability_better"] == 0.0
    assert paired_bootstrap(stack, stack, NAMES) == {"difference": 0, "low": 0, "high": 0, "probability_better": 0.5}


def test_pairing_cancels_what_is_hard_for_both():
    generator = np.random.default_rng(0)
    first, second = np.zeros((60, 2, 2), np.int64), np.zeros((60, 2, 2), np.int64)
    hard = generator.integers(100, 900, 60)
    first[:, 0, 0], second[:, 0, 0] = hard + 20, hard
    first[:, 0, 1], second[:, 0, 1] = 980 - hard, 1000 - hard
    alone = np.diff(bootstrap_intervals(first, ("a", "b"))["pixel_accuracy"])[0]
    paired = paired_bootstrap(first, second, ("a", "b"), metric="pixel_accuracy")
    assert paired["low"] == pytest.approx(0.02)
    assert paired["high"] - paired["low"] < alone / 20


def test_an_unlabelled_draw_is_skipped():
    stack = np.zeros((2, 4, 4), np.int64)
    stack[0, 0, 0] = 5
    result = paired_bootstrap(stack, stack, NAMES, resamples=50)
    assert result["probability_better"] == 0.5
    seed = next(seed for seed in range(50) if (np.random.default_rng(seed).integers(0, 2, (1, 2)) == 1).all())
    with pytest.raises(MetricError, match="replicate with labelled pixels"):
        paired_bootstrap(stack, stack, NAMES, resamples=1, seed=seed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resamples": 0}, "resample"),
        ({"confidence": 1.0}, "confidence"),
        ({"confidence": 95}, "confidence"),
        ({"matrices": np.ones((4, 4), int)}, "one matrix an image"),
        ({"matrices": np.zeros((3, 4, 4), int)}, "labelled pixel"),
    ],
)
def test_parameters_out_of_range_are_refused(change, words):
    arguments = {"matrices": matrices(3), "class_names": NAMES} | change
    with pytest.raises(MetricError, match=words):
        bootstrap_intervals(**arguments)


def test_predictors_of_different_truths_cannot_be_paired():
    with pytest.raises(MetricError, match="same images"):
        paired_bootstrap(matrices(5), matrices(5)[::-1], NAMES)
    with pytest.raises(MetricError, match="two images"):
        paired_bootstrap(matrices(1), matrices(1), NAMES)
    with pytest.raises(MetricError, match="mean_iou"):
        paired_bootstrap(matrices(5), matrices(5), NAMES, metric="mean_iou")
