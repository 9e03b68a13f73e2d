"""Average precision and its intervals against plain loops over drawn images, whose detections are simply repeated."""

from __future__ import annotations

import numpy as np
import pytest

from hypercolumns.errors import MetricError
from hypercolumns.metrics.ranking import Ranking, full_scores, intervals, mean_over, paired_difference


def plain_precision(judged, positives, images, at_recalls=False) -> float:
    """Rank the detections of a list of images, in which one may occur twice, and measure the curve step by step."""
    total = sum(positives[image] for image in images)
    if total == 0:
        return float("nan")
    ranked = [(-score, place, number, hit) for place, image in enumerate(images)
              for number, (score, hit, out) in enumerate(zip(*judged[image], strict=True)) if not out]  # fmt: skip
    points, found = [], 0
    for rank, (*_, hit) in enumerate(sorted(ranked), start=1):
        found += hit
        points.append((found / total, found / rank))
    best = lambda recall: max([p for r, p in points if r >= recall - 1e-12], default=0.0)  # noqa: E731
    if at_recalls:
        return float(np.mean([best(level) for level in np.linspace(0, 1, 101)]))
    area, before = 0.0, 0.0
    for recall, _ in points:
        area += (recall - before) * best(recall)
        before = recall
    return area


def make_judged(images: int, seed: int, tied: bool = False):
    generator = np.random.default_rng(seed)
    judged = []
    for _ in range(images):
        count = int(generator.integers(0, 9))
        scores = generator.integers(0, 4, count) / 4 if tied else generator.random(count)
        judged.append((scores, generator.random(count) < 0.5, generator.random(count) < 0.2))
    positives = [int((hit & ~out).sum() + generator.integers(0, 3)) for _, hit, out in judged]
    return judged, positives


class Whole:
    """One ranking as a summary."""

    def __init__(self, ranking: Ranking) -> None:
        self.ranking, self.images = ranking, len(ranking.positives)

    def summarise(self, weights):
        return {"ap": self.ranking.average_precision(weights)}


def rank(judged, positives, area="curve") -> Ranking:
    return Ranking.of([(number, *parts) for number, parts in enumerate(judged)], positives, area)


@pytest.mark.parametrize("area", ["curve", "101-point"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_the_full_set_scores_as_a_plain_loop_does(area, tied, seed):
    judged, positives = make_judged(8, seed, tied)
    found = full_scores(Whole(rank(judged, positives, area)))["ap"]
    assert found == pytest.approx(plain_precision(judged, positives, range(8), area == "101-point"))


@pytest.mark.parametrize("area", ["curve", "101-point"])
def test_drawn_sets_score_as_if_their_images_were_repeated(area):
    judged, positives = make_judged(7, 3)
    drawn = np.random.default_rng(5).integers(0, 7, (40, 7))
    weights = np.array([np.bincount(chosen, minlength=7) for chosen in drawn], np.float64)
    expected = [plain_precision(judged, positives, sorted(chosen), area == "101-point") for chosen in drawn]
    np.testing.assert_allclose(rank(judged, positives, area).average_precision(weights), expected)


def test_hand_made_curve():
    # right, wrong, right of three: precision 1, 1/2, 2/3 and never the third: 1/3·1 + 1/3·2/3.
    ranking = Ranking.of([(0, np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), np.zeros(3, bool))], [3])
    assert ranking.average_precision(np.ones((1, 1)))[0] == pytest.approx(5 / 9)


def test_a_wrong_detection_that_ties_counts_by_its_image_s_place():
    right, wrong, nobody = np.array([True]), np.array([False]), np.zeros(1, bool)
    first = Ranking.of([(0, np.array([0.5]), right, nobody), (1, np.array([0.5]), wrong, nobody)], [1, 0])
    last = Ranking.of([(0, np.array([0.5]), wrong, nobody), (1, np.array([0.5]), right, nobody)], [0, 1])
    assert [r.average_precision(np.ones((1, 2)))[0] for r in (first, last)] == [1.0, 0.5]


def test_nothing_found_scores_zero_and_nothing_to_find_nothing():
    assert full_scores(Whole(Ranking.of([], [2, 1]))) == {"ap": 0.0}
    assert full_scores(Whole(Ranking.of([], [2], "101-point"))) == {"ap": 0.0}
    assert full_scores(Whole(Ranking.of([], [0, 0]))) == {"ap": None}


def test_the_intervals_are_the_percentiles_of_a_plain_loop():
    judged, positives = make_judged(9, 1)
    found = intervals(Whole(rank(judged, positives)), resamples=60, confidence=0.9, seed=5)
    drawn = np.random.default_rng(5).integers(0, 9, (60, 9))
    expected = [plain_precision(judged, positives, sorted(chosen)) for chosen in drawn]
    assert found == {"ap": pytest.approx(tuple(np.nanpercentile(expected, [5, 95])))}
    assert intervals(Whole(rank(judged[:1], positives[:1]))) == {}
    assert intervals(Whole(Ranking.of([], [0, 0]))) == {}


def test_blocks_of_sets_change_nothing(monkeypatch):
    judged, positives = make_judged(9, 1)
    whole = intervals(Whole(rank(judged, positives)), resamples=50)
    monkeypatch.setattr("hypercolumns.metrics.ranking._BLOCK_NUMBERS", 100)
    monkeypatch.setattr("hypercolumns.metrics.bootstrap._BLOCK_NUMBERS", 63)
    assert intervals(Whole(rank(judged, positives)), resamples=50) == whole


def test_a_paired_difference_is_that_of_the_same_drawn_images():
    judged, positives = make_judged(9, 2)
    worse = [(scores, hit & (scores > 0.4), out) for scores, hit, out in judged]
    found = paired_difference(*(Whole(rank(part, positives)) for part in (judged, worse)), "ap", resamples=40, seed=3)
    drawn = np.random.default_rng(3).integers(0, 9, (40, 9))
    differences = [plain_precision(judged, positives, sorted(c)) - plain_precision(worse, positives, sorted(c)) for c in drawn]
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.percentile(differences, [2.5, 97.5])))
    full = plain_precision(judged, positives, range(9)) - plain_precision(worse, positives, range(9))
    assert found["difference"] == pytest.approx(full)
    assert found["probability_better"] == pytest.approx(np.mean([(d > 0) + 0.5 * (d == 0) for d in differences]))


def test_the_mean_runs_over_what_is_defined_in_each_set():
    values = [np.array([0.2, np.nan, np.nan]), np.array([0.4, 0.6, np.nan])]
    np.testing.assert_allclose(mean_over(values, 3), [0.3, 0.6, np.nan])
    assert np.isnan(mean_over([], 2)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"resamples": 0}, "one resample"), ({"confidence": 1.0}, "confidence"), ({"confidence": 0}, "confidence")],
)
def test_a_resampling_out_of_range_is_refused(options, message):
    summary = Whole(rank(*make_judged(3, 0)))
    with pytest.raises(MetricError, match=message):
        intervals(summary, **options)
    with pytest.raises(MetricError, match=message):
        paired_difference(summary, summary, "ap", **options)


def test_results_that_cannot_be_compared_are_refused():
    three, four, none = Whole(rank(*make_judged(3, 0))), Whole(rank(*make_judged(4, 0))), Whole(Ranking.of([], [0, 0, 0]))
    with pytest.raises(MetricError, match="the same two or more images, got 3 and 4"):
        paired_difference(three, four, "ap")
    with pytest.raises(MetricError, match="a score that both define"):
        paired_difference(three, none, "ap")
    with pytest.raises(MetricError, match="one of ap, got 'miou'"):
        paired_difference(three, three, "miou")
    # The one set that is drawn has no object to find.
    rare = Whole(Ranking.of([], [1, 0, 0, 0, 0, 0, 0, 0]))
    seed = next(s for s in range(99) if 0 not in np.random.default_rng(s).integers(0, 8, (1, 8)))
    with pytest.raises(MetricError, match="draw more sets"):
        paired_difference(rare, rare, "ap", resamples=1, seed=seed)
