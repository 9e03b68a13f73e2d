"""The decision to promote: against hand-made matrices, and a plain loop for the intervals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from hypercolumns.errors import MetricError
from hypercolumns.metrics.bootstrap import paired_bootstrap, paired_class_intervals
from hypercolumns.metrics.promotion import decide
from hypercolumns.nights import PromotionSpec

NAMES = ("ground", "box", "disc")
IMAGES = 20


def matrices(rights, *, pixels=(600, 300, 100), images=IMAGES, seed=0):
    """Confusion matrices an image in which about these shares of the classes' pixels are right; errors go to the next class."""
    generator = np.random.default_rng(seed)
    stack = np.zeros((images, 3, 3), np.int64)
    for label, (share, count) in enumerate(zip(rights, pixels, strict=True)):
        right = (count * np.clip(share + generator.normal(0, 0.01, images), 0, 1)).astype(int)
        stack[:, label, label] = right
        stack[:, label, (label + 1) % 3] = count - right
    return stack


def test_without_a_champion_whoever_comes_first_is_promoted():
    decision = decide(matrices((0.5, 0.5, 0.5)), None, NAMES, PromotionSpec())
    assert decision.promote
    assert decision.reasons[0].startswith("the first of its line: mean IU ")
    assert (decision.champion_mean_iu, decision.interval) == (None, None)


def test_one_that_is_surely_better_is_promoted_with_its_interval():
    ours, theirs = matrices((0.9, 0.9, 0.9)), matrices((0.8, 0.8, 0.8), seed=1)
    decision = decide(ours, theirs, NAMES, PromotionSpec(min_gain=0.05))
    assert decision.promote
    paired = paired_bootstrap(ours, theirs, NAMES, resamples=2000)
    assert decision.difference == paired["difference"] > 0.05
    assert decision.interval == (paired["low"], paired["high"])
    assert decision.interval[0] < decision.difference < decision.interval[1]
    assert decision.probability_better == 1.0
    assert "95 % interval" in decision.reasons[0]
    assert "20 images" in decision.reasons[0]


def test_one_that_is_worse_is_refused_for_both_reasons():
    decision = decide(matrices((0.8, 0.8, 0.8)), matrices((0.9, 0.9, 0.9), seed=1), NAMES, PromotionSpec())
    assert not decision.promote
    assert "min_gain" in decision.reasons[0]
    assert "not surely better" in decision.reasons[1]


def test_a_gain_that_is_sure_but_small_is_refused():
    theirs = matrices((0.8, 0.8, 0.8))
    ours = theirs.copy()
    ours[:, 0, 0] += 1
    ours[:, 0, 1] -= 1
    spec = PromotionSpec(min_gain=0.01)
    decision = decide(ours, theirs, NAMES, spec)
    assert decision.interval[0] > 0
    assert not decision.promote
    assert [reason for reason in decision.reasons if "less than the 1 asked for (min_gain)" in reason]
    assert decide(ours, theirs, NAMES, PromotionSpec(min_gain=0.0)).promote


def test_a_gain_that_comes_from_one_image_is_not_sure():
    theirs = matrices((0.5, 0.5, 0.5), images=5)
    ours = theirs.copy()
    ours[0] = np.diag(theirs[0].sum(axis=1))
    ours[1:, 0, 0] -= 3
    ours[1:, 0, 1] += 3
    decision = decide(ours, theirs, NAMES, PromotionSpec(min_gain=0.0))
    assert decision.difference > 0.05
    assert not decision.promote
    assert "not surely better" in decision.reasons[0]


def test_a_collapsed_class_is_refused_although_the_mean_is_surely_better():
    ours, theirs = matrices((0.95, 0.95, 0.5)), matrices((0.5, 0.9, 0.9), seed=1)
    spec = PromotionSpec(min_class_pixels=2000)
    decision = decide(ours, theirs, NAMES, spec)
    assert decision.difference > 0.1
    assert decision.interval[0] > 0
    assert not decision.promote
    assert decision.reasons[0].startswith("class disc fell from ")
    assert "on 2000 pixels" in decision.reasons[0]
    assert [change.name for change in decision.classes if change.collapsed] == ["disc"]
    assert decide(ours, theirs, NAMES, PromotionSpec(max_class_drop=0.5)).promote


def test_a_class_of_too_few_pixels_is_not_guarded_and_named():
    ours, theirs = matrices((0.95, 0.95, 0.5)), matrices((0.5, 0.9, 0.9), seed=1)
    decision = decide(ours, theirs, NAMES, PromotionSpec(min_class_pixels=2001))
    assert decision.promote
    assert decision.reasons[-1] == "too few labelled pixels to be guarded, fewer than 2001: disc (2000)"


def test_a_class_without_a_labelled_pixel_takes_no_part():
    ours, theirs = matrices((0.9, 0.9, 0.9)), matrices((0.8, 0.8, 0.8), seed=1)
    ours[:, 2], theirs[:, 2] = 0, 0
    decision = decide(ours, theirs, NAMES, PromotionSpec())
    assert [change.name for change in decision.classes] == ["ground", "box"]


def test_too_few_images_promote_nothing_and_other_images_are_an_error():
    ours, theirs = matrices((0.9, 0.9, 0.9), images=4), matrices((0.5, 0.5, 0.5), images=4)
    decision = decide(ours, theirs, NAMES, PromotionSpec())
    assert (decision.promote, decision.interval) == (False, None)
    assert "4 val images are too few" in decision.reasons[0]
    with pytest.raises(MetricError, match="same images"):
        decide(ours, matrices((0.5, 0.5, 0.5), pixels=(500, 300, 100), images=4), NAMES, PromotionSpec(min_images=2))


def test_a_decision_is_plain_json():
    decision = decide(matrices((0.9, 0.9, 0.9)), matrices((0.8, 0.8, 0.8), seed=1), NAMES, PromotionSpec())
    plain = json.loads(json.dumps(decision.to_json(), allow_nan=False))
    assert plain["interval"] == list(decision.interval)
    assert plain["classes"][1]["interval"] == list(decision.classes[1].interval)
    assert plain["classes"][1]["challenger_iu"] - plain["classes"][1]["champion_iu"] == decision.classes[1].difference
    assert decide(matrices((0.9, 0.9, 0.9)), None, NAMES, PromotionSpec()).to_json()["interval"] is None


def test_intervals_of_classes_are_the_percentiles_of_a_plain_loop():
    ours, theirs = matrices((0.9, 0.7, 0.5), images=7), matrices((0.8, 0.8, 0.4), images=7, seed=3)
    ours[1:, 2], theirs[1:, 2] = 0, 0  # labelled in one image alone
    drawn = np.random.default_rng(4).integers(0, 7, (50, 7))
    expected = {name: [] for name in NAMES}
    for chosen in drawn:
        sides = []
        for stack in (ours, theirs):
            total = stack[chosen].sum(axis=0)
            truth, guess = (
                np.repeat(np.repeat(np.arange(3), 3), total.ravel()),
                np.repeat(np.tile(np.arange(3), 3), total.ravel()),
            )
            sides.append(jaccard_score(truth, guess, labels=range(3), average=None, zero_division=0))
        for label, name in enumerate(NAMES):
            if ours[chosen].sum(axis=0)[label].any():
                expected[name].append(sides[0][label] - sides[1][label])
    found = paired_class_intervals(ours, theirs, NAMES, resamples=50, confidence=0.9, seed=4)
    assert len(expected["disc"]) < 50
    for name in NAMES:
        assert found[name] == pytest.approx(tuple(np.percentile(expected[name], [5, 95]))), name


def test_a_class_that_no_replicate_has_gets_no_interval():
    ours = matrices((0.9, 0.9, 0.9), images=3)
    ours[:, 2] = 0
    assert set(paired_class_intervals(ours, ours, NAMES, resamples=10)) == {"ground", "box"}
