"""PCK and APK against hand-made cases and plain loops."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from hypercolumns.errors import MetricError
from hypercolumns.metrics import PoseImage, full_scores, intervals, score_apk, score_pck, torso_scales

NAMES = ("nose", "tail")


def test_a_keypoint_is_right_up_to_alpha_times_the_scale_and_no_further():
    truth = np.zeros((3, 2, 2))
    predicted = np.array([[[1.0, 0], [0, 1.01]], [[0.6, 0.8], [0, 0]], [[3, 4], [0.0, 0]]])
    labelled = np.array([[True, True], [True, False], [True, True]])
    result = score_pck(
        predicted, truth, labelled, np.array([10.0, 10, 50]), np.array([0, 0, 1]), NAMES, alphas=(0.1, 0.05, 0.2)
    )
    scores = full_scores(result)
    # At 0.1: nose at 1 of 1, 1 of 1, 5 of 5; tail at 1.01 of 1, not annotated, 0.
    assert (scores["pck@0.1/nose"], scores["pck@0.1/tail"], scores["pck@0.1"]) == (1.0, 0.5, 0.75)
    assert (scores["pck@0.05/nose"], scores["pck@0.05/tail"]) == (0.0, 0.5)
    assert scores["pck@0.2"] == 1.0


def test_a_keypoint_that_is_not_predicted_is_wrong_and_one_that_is_nowhere_annotated_takes_no_part():
    predicted = np.array([[[np.nan, np.nan], [np.nan, 0]], [[0, 0], [0, 0]]])
    labelled = np.array([[True, False], [True, False]])
    truth = np.where(labelled[..., None], np.zeros(2), np.nan)
    scores = full_scores(score_pck(predicted, truth, labelled, np.ones(2), np.zeros(2, int), NAMES))
    assert scores == {"pck@0.1": 0.5, "pck@0.1/nose": 0.5, "pck@0.1/tail": None}


def test_normalised_by_the_torso_poses_without_one_are_left_out_and_said():
    truth = np.array([[[0.0, 0], [3, 4]], [[0, 0], [1, 1]], [[2, 2], [2, 2]]])
    labelled = np.array([[True, True], [True, False], [True, True]])
    scales = torso_scales(truth, labelled, (0, 1))
    np.testing.assert_allclose(scales, [5, np.nan, np.nan])
    result = score_pck(truth + 0.3, truth, labelled, scales, np.array([0, 1, 1]), NAMES)
    assert full_scores(result)["pck@0.1/nose"] == 1.0
    assert result.labelled.tolist() == [[1, 1], [0, 0]]
    assert "2 poses without a scale left out" in result.protocol


def random_pck(seed: int = 0):
    generator = np.random.default_rng(seed)
    truth = generator.random((30, 2, 2)) * 20
    return (
        truth + generator.normal(0, 1.5, truth.shape), truth, generator.random((30, 2)) < 0.7,
        generator.random(30) * 10 + 8, generator.integers(0, 6, 30),
    )  # fmt: skip


def plain_pck(predicted, truth, labelled, scales, image, chosen, alpha: float, keypoint: int) -> float:
    right = total = 0
    for drawn in chosen:
        for pose in range(len(truth)):
            if image[pose] == drawn and labelled[pose, keypoint]:
                total += 1
                right += float(np.linalg.norm(predicted[pose, keypoint] - truth[pose, keypoint])) <= alpha * scales[pose]
    return right / total if total else float("nan")


def test_pck_and_its_intervals_are_those_of_a_plain_loop():
    given = random_pck()
    result = score_pck(*given, NAMES, alphas=(0.1, 0.2))
    drawn = np.random.default_rng(4).integers(0, 6, (25, 6))
    scores, spread = full_scores(result), intervals(result, resamples=25, seed=4)
    for alpha in (0.1, 0.2):
        means = []
        for keypoint, name in enumerate(NAMES):
            assert scores[f"pck@{alpha}/{name}"] == pytest.approx(plain_pck(*given, range(6), alpha, keypoint))
            values = [plain_pck(*given, chosen, alpha, keypoint) for chosen in drawn]
            assert spread[f"pck@{alpha}/{name}"] == pytest.approx(tuple(np.nanpercentile(values, [2.5, 97.5])))
            means.append(values)
        assert spread[f"pck@{alpha}"] == pytest.approx(tuple(np.percentile(np.nanmean(means, axis=0), [2.5, 97.5])))


def test_no_poses_have_no_score():
    nothing = np.empty((0, 2, 2))
    empty = np.empty((0, 2), np.bool_)
    result = score_pck(nothing, nothing, empty, np.empty(0), np.empty(0, np.int64), NAMES)
    assert full_scores(result)["pck@0.1"] is None


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, np.zeros((30, 3, 2)), "predicted: expected points"),
        (1, np.zeros((30, 2)), "truth: expected points"),
        (1, np.full((30, 2, 2), np.inf), "truth: expected finite positions"),
        (2, np.ones((30, 2)), "boolean annotation"),
        (3, np.zeros(30), "a scale > 0"),
        (3, np.full(30, np.inf), "a scale > 0"),
        (3, np.ones(29), "a scale > 0"),
        (4, np.zeros(29, int), "an image for each"),
        (4, np.full(30, -1), "whole numbers from 0"),
        (4, np.zeros(30), "whole numbers from 0"),
    ],
)
def test_poses_that_do_not_fit_are_refused(place, value, message):
    given = list(random_pck())
    given[place] = value
    with pytest.raises(MetricError, match=message):
        score_pck(*given, NAMES)


@pytest.mark.parametrize(
    ("names", "alphas", "message"),
    [
        (("nose", "nose"), (0.1,), "distinct names"),
        ((), (0.1,), "distinct names"),
        (NAMES, (), "tolerances"),
        (NAMES, (0.0,), "tolerances"),
    ],
)
def test_names_and_tolerances_that_cannot_be_are_refused(names, alphas, message):
    with pytest.raises(MetricError, match=message):
        score_pck(*random_pck(), names, alphas=alphas)
    with pytest.raises(MetricError, match=message):
        score_apk([], names, alphas=alphas)


@pytest.mark.parametrize("ends", [(0, 2), (-1, 0)])
def test_a_torso_between_keypoints_that_are_not_there_is_refused(ends):
    with pytest.raises(MetricError, match=r"two keypoints in 0\.\.1"):
        torso_scales(np.zeros((1, 2, 2)), np.ones((1, 2), bool), ends)


def pose_image(points, scores, truth, scales=None, labelled=None, image="a") -> PoseImage:
    """Make an image of poses with a single keypoint."""
    points, truth = (np.array(part, np.float64).reshape(-1, 1, 2) for part in (points, truth))
    labelled = np.ones((len(truth), 1), np.bool_) if labelled is None else np.array(labelled).reshape(-1, 1)
    scales = np.full(len(truth), 10.0) if scales is None else np.array(scales, np.float64)
    return PoseImage(image, points, np.array(scores, np.float64).reshape(-1, 1), truth, labelled, scales)


def apk(*images: PoseImage, alpha: float = 0.1) -> float | None:
    return full_scores(score_apk(images, ("nose",), alphas=(alpha,)))[f"apk@{alpha:g}/nose"]


def test_a_detection_hits_the_nearest_keypoint_once():
    assert apk(pose_image([[0.5, 0]], [0.9], [[0, 0]])) == 1.0
    # A second one on the same keypoint is wrong, but comes last.
    assert apk(pose_image([[0.5, 0], [0, 0]], [0.9, 0.8], [[0, 0]])) == 1.0
    # Before the first of another image it costs.
    assert apk(pose_image([[0.5, 0], [0, 0]], [0.9, 0.8], [[0, 0]]), pose_image([[0, 0]], [0.1], [[0, 0]])) == pytest.approx(
        5 / 6
    )


def test_the_nearest_keypoint_counts_even_if_another_one_is_free():
    # Both detections are nearest to the first keypoint; the second keypoint is within reach of the second detection.
    image = pose_image([[0.1, 0], [0.4, 0]], [0.9, 0.8], [[0, 0], [1, 0]])
    assert apk(image) == 0.5


def test_the_reach_is_that_of_the_nearest_pose_s_scale():
    image = pose_image([[2.0, 0], [100, 0]], [0.9, 0.8], [[0, 0], [102, 0]], scales=[10, 30])
    assert apk(image) == pytest.approx(0.5 * 0.5)
    assert apk(image, alpha=0.2) == 1.0
    assert apk(pose_image([[1.0, 0]], [0.9], [[0, 0]])) == 1.0


def test_keypoints_without_annotation_cannot_be_hit_and_poses_without_a_point_do_not_vote():
    image = pose_image([[0, 0], [np.nan, np.nan]], [0.9, np.nan], [[0, 0], [50, 50]], labelled=[False, True])
    assert apk(image) == 0.0
    nothing = pose_image([], [], [[0, 0]], labelled=[False])
    result = score_apk([nothing], ("nose",))
    assert result.absent == ("nose",)
    assert full_scores(result) == {"apk@0.1": None}
    assert "nearest keypoint" in result.protocol
    # A detection in an image without keypoints is wrong.
    assert apk(pose_image([[0, 0]], [0.99], []), pose_image([[0, 0]], [0.5], [[0, 0]])) == 0.5


def random_images(seed: int) -> list[PoseImage]:
    generator = np.random.default_rng(seed)
    images = []
    for number in range(6):
        truth = generator.random((int(generator.integers(1, 4)), 2, 2)) * 15
        points = np.concatenate([truth + generator.normal(0, 1, truth.shape), generator.random((2, 2, 2)) * 15])
        labelled = generator.random(truth.shape[:2]) < 0.8
        scales = generator.random(len(truth)) * 10 + 8
        images.append(PoseImage(str(number), points, generator.random(points.shape[:2]), truth, labelled, scales))
    return images


def plain_apk(images, keypoint: int, alpha: float) -> float:
    ranked = []
    for place, image in enumerate(images):
        used: set[int] = set()
        for detection in sorted(range(len(image.points)), key=lambda d: -image.scores[d, keypoint]):
            distances = {
                pose: float(np.linalg.norm(image.points[detection, keypoint] - image.truth[pose, keypoint]))
                for pose in range(len(image.truth))
                if image.labelled[pose, keypoint]
            }
            nearest = min(distances, key=distances.__getitem__, default=None)
            hit = nearest is not None and nearest not in used and distances[nearest] <= alpha * image.scales[nearest]
            if hit:
                used.add(nearest)
            ranked.append((-image.scores[detection, keypoint], place, hit))
    total = sum(int(image.labelled[:, keypoint].sum()) for image in images)
    curve, found = [], 0
    for rank, (*_, hit) in enumerate(sorted(ranked), start=1):
        found += hit
        curve.append((found / total, found / rank))
    steps = [curve[0][0], *(now[0] - before[0] for before, now in pairwise(curve))]
    return sum(step * max(p for _, p in curve[place:]) for place, step in enumerate(steps))


@pytest.mark.parametrize("seed", range(4))
def test_apk_is_that_of_a_plain_loop(seed):
    images = random_images(seed)
    scores = full_scores(score_apk(images, NAMES, alphas=(0.1, 0.2)))
    for alpha in (0.1, 0.2):
        expected = [plain_apk(images, keypoint, alpha) for keypoint in range(2)]
        assert [scores[f"apk@{alpha}/{name}"] for name in NAMES] == pytest.approx(expected)
        assert scores[f"apk@{alpha}"] == pytest.approx(np.mean(expected))


def test_apk_has_intervals_over_images():
    images = random_images(0)
    drawn = np.random.default_rng(7).integers(0, 6, (20, 6))
    values = [plain_apk([images[number] for number in sorted(chosen)], 0, 0.1) for chosen in drawn]
    found = intervals(score_apk(images, NAMES), resamples=20, seed=7)
    assert found["apk@0.1/nose"] == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": np.zeros((1, 2, 2))}, "image a: points: expected points"),
        ({"points": np.full((1, 1, 2), np.inf)}, "image a: points: expected finite"),
        ({"scores": np.array([[np.nan]])}, "image a: expected a finite score"),
        ({"scores": np.ones(1)}, "image a: expected a finite score"),
        ({"truth": np.full((1, 1, 2), np.nan)}, "image a: truth: expected finite"),
        ({"labelled": np.ones((2, 1), bool)}, "image a: truth: expected points"),
        ({"scales": np.array([0.0])}, "image a: expected a scale > 0"),
        ({"scales": np.array([np.nan])}, "image a: expected a scale > 0"),
        ({"scales": np.ones(2)}, "image a: expected a scale > 0"),
    ],
)
def test_images_of_poses_that_cannot_be_are_refused(change, message):
    good = pose_image([[0, 0]], [0.9], [[0, 0]])
    given = {name: getattr(good, name) for name in ("image", "points", "scores", "truth", "labelled", "scales")}
    with pytest.raises(MetricError, match=message):
        score_apk([PoseImage(**{**given, **change})], ("nose",))
