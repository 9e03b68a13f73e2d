"""AP^r and AP^b: match flags against pycocotools, every rule by a hand-made case, and average precision by brute force."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hypercolumns.errors import GeometryError, MetricError
from hypercolumns.metrics import (
    VOLUME,
    Overlaps,
    box_overlaps,
    diagnose,
    full_scores,
    intervals,
    mask_overlaps,
    score_instances,
)
from hypercolumns.metrics.diagnosis import VOC_SIMILAR
from hypercolumns.metrics.instances import match

NAMES = ("cat", "dog", "car")
EVALUATORS = ("coco", "sds_matlab", "sds_python")


def table(overlaps, scores=None, labels=None, truth_labels=None, crowd=None, image="a") -> Overlaps:
    overlaps = np.array(overlaps, np.float64)
    detections, instances = overlaps.shape
    return Overlaps(
        image,
        np.linspace(0.9, 0.1, detections) if scores is None else np.array(scores),
        np.zeros(detections, np.int64) if labels is None else np.array(labels),
        np.zeros(instances, np.int64) if truth_labels is None else np.array(truth_labels),
        np.zeros(instances, np.bool_) if crowd is None else np.array(crowd),
        overlaps,
    )


def random_rectangles(generator, count: int) -> np.ndarray:
    masks = np.zeros((count, 20, 24), np.bool_)
    for mask in masks:
        y, x = generator.integers(0, 14, 2)
        height, width = generator.integers(3, 10, 2)
        mask[y : y + height, x : x + width] = True
    return masks


def random_scene(seed: int, crowds: bool):
    generator = np.random.default_rng(seed)
    images = []
    for _ in range(6):
        truth = random_rectangles(generator, int(generator.integers(1, 5)))
        near = np.roll(truth, generator.integers(-3, 4, 2), axis=(1, 2))
        masks = np.concatenate([near, truth[:1], random_rectangles(generator, int(generator.integers(0, 4)))])
        scores = generator.integers(1, 7, len(masks)) / 8
        labels, truth_labels = generator.integers(0, 2, len(masks)), generator.integers(0, 2, len(truth))
        crowd = generator.random(len(truth)) < (0.3 if crowds else 0.0)
        images.append((masks, scores, labels, truth, truth_labels, crowd))
    return images


def coco_flags(images, kind: str) -> dict:
    """Let pycocotools match: by image, class and threshold, scores of detections, hits and left-out ones."""
    annotations, results = [], []
    for image, (masks, scores, labels, truth, truth_labels, crowd) in enumerate(images, start=1):
        for mask, label, is_crowd in zip(truth, truth_labels, crowd, strict=True):
            code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            instance = {"id": len(annotations) + 1, "image_id": image, "category_id": int(label) + 1, "iscrowd": int(is_crowd)}
            box = coco_mask.toBbox(code).tolist()
            annotations.append({**instance, "segmentation": code, "bbox": box, "area": float(mask.sum())})
        for mask, score, label in zip(masks, scores, labels, strict=True):
            code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            given = {"segmentation": code} if kind == "segm" else {"bbox": coco_mask.toBbox(code).tolist()}
            results.append({"image_id": image, "category_id": int(label) + 1, "score": float(score), **given})
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = {
            "images": [{"id": image, "height": 20, "width": 24} for image in range(1, len(images) + 1)],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            "annotations": annotations,
        }
        known.createIndex()
        judge = COCOeval(known, known.loadRes(results), kind)
        judge.params.iouThrs = np.array(VOLUME)
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.evaluate()
    return {(found["image_id"] - 1, found["category_id"] - 1): found for found in judge.evalImgs if found is not None}


def boxes_of(masks: np.ndarray) -> np.ndarray:
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return np.array(boxes, np.float64).reshape(-1, 4)


def tables_of(images, kind: str) -> list[Overlaps]:
    found = []
    for number, (masks, scores, labels, truth, truth_labels, crowd) in enumerate(images):
        compare = mask_overlaps if kind == "segm" else box_overlaps
        given = (masks, truth) if kind == "segm" else (boxes_of(masks), boxes_of(truth))
        found.append(compare(str(number), given[0], scores, labels, given[1], truth_labels, crowd))
    return found


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_flags_are_those_of_pycocotools(kind, crowds, seed):
    images = random_scene(seed, crowds)
    expected = coco_flags(images, kind)
    hits = left_out = 0
    for number, image in enumerate(tables_of(images, kind)):
        for label in (0, 1):
            own, truth = image.labels == label, image.truth_labels == label
            if not own.any() and not truth.any():
                assert (number, label) not in expected
                continue
            order = np.argsort(-image.scores[own], kind="stable")
            np.testing.assert_allclose(image.scores[own][order], expected[number, label]["dtScores"])
            for place, threshold in enumerate(VOLUME):
                found = match(image.overlaps[np.ix_(own, truth)], image.scores[own], image.crowd[truth], threshold)[order]
                flags, out = (expected[number, label][key][place] for key in ("dtMatches", "dtIgnore"))
                np.testing.assert_array_equal(found >= 0, flags > 0)
                in_crowd = np.append(image.crowd[truth], False)[found]
                np.testing.assert_array_equal(in_crowd, out.astype(bool))
                hits, left_out = hits + (found >= 0).sum(), left_out + in_crowd.sum()
    assert hits > 20
    assert (left_out > 0) == crowds


def plain_match(image: Overlaps, label: int, threshold: float, evaluator: str) -> list[tuple[float, bool]]:
    """The three rules once more, written as they are told, without crowds: (score, hit) of each detection, best first."""
    truth = [number for number, value in enumerate(image.truth_labels) if value == label]
    ranked = sorted((-image.scores[d], d) for d in range(len(image.scores)) if image.labels[d] == label)
    covered: set[int] = set()
    found = []
    for score, detection in ranked:
        open_to = [t for t in truth if evaluator == "sds_matlab" or t not in covered]
        value = max((image.overlaps[detection, t] for t in open_to), default=-1.0)
        equal = [t for t in open_to if image.overlaps[detection, t] == value]
        enough = value > threshold if evaluator == "sds_python" else value >= threshold
        choice = equal[-1 if evaluator == "coco" else 0] if equal and enough else None
        hit = choice is not None and choice not in covered
        if hit:
            covered.add(choice)
        found.append((-score, hit))
    return found


def plain_ap(images, label: int, threshold: float, evaluator: str, numbers=None) -> float:
    """Rank by score, then image, then detection; `numbers` say which image each one is, where some are drawn twice."""
    numbers = range(len(images)) if numbers is None else numbers
    ranked = []
    for place, (number, image) in enumerate(zip(numbers, images, strict=True)):
        for detection, (score, hit) in enumerate(plain_match(image, label, threshold, evaluator)):
            ranked.append((-score, number, detection, place, hit))
    total = sum(int((image.truth_labels == label).sum()) for image in images)
    recalls, precisions, found = [], [], 0
    for rank, (*_, hit) in enumerate(sorted(ranked), start=1):
        found += hit
        recalls.append(found / total)
        precisions.append(found / rank)
    area = before = 0.0
    for place, recall in enumerate(recalls):
        area += (recall - before) * max(precisions[place:])
        before = recall
    return area


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_that_of_brute_force(evaluator, seed):
    images = tables_of(random_scene(seed, crowds=False), "segm")
    result = score_instances(images, NAMES, evaluator=evaluator)
    scores = full_scores(result)
    for threshold in VOLUME:
        by_class = [plain_ap(images, label, threshold, evaluator) for label in (0, 1)]
        assert [scores[f"ap@{threshold:g}/{name}"] for name in NAMES[:2]] == pytest.approx(by_class)
        assert scores[f"ap@{threshold:g}"] == pytest.approx(np.mean(by_class))
    assert scores["ap_volume"] == pytest.approx(np.mean([scores[f"ap@{threshold:g}"] for threshold in VOLUME]))
    assert scores["ap_volume/cat"] == pytest.approx(np.mean([scores[f"ap@{threshold:g}/cat"] for threshold in VOLUME]))
    assert result.absent_classes == ("car",)
    assert evaluator in result.protocol


def found_by(image: Overlaps, threshold: float, evaluator: str) -> list[int]:
    return match(image.overlaps, image.scores, image.crowd, threshold, evaluator).tolist()


def test_a_second_detection_of_an_instance_is_wrong_under_every_rule():
    for evaluator in EVALUATORS:
        assert found_by(table([[0.9], [0.8]]), 0.5, evaluator) == [0, -1]


def test_an_overlap_of_exactly_t_counts_under_two_rules_and_not_under_the_third():
    assert [found_by(table([[0.5]]), 0.5, evaluator) for evaluator in EVALUATORS] == [[0], [0], [-1]]
    assert [found_by(table([[1.0]]), 1.0, evaluator) for evaluator in EVALUATORS] == [[0], [0], [-1]]


def test_a_detection_whose_best_instance_is_covered_takes_the_next_best_or_is_wrong():
    image = table([[0.9, 0.0], [0.8, 0.6]])
    assert [found_by(image, 0.5, evaluator) for evaluator in EVALUATORS] == [[0, 1], [0, -1], [0, 1]]


def test_of_equal_overlaps_coco_takes_the_last_and_the_others_the_first():
    assert [found_by(table([[0.7, 0.7]]), 0.5, evaluator) for evaluator in EVALUATORS] == [[1], [0], [0]]


def test_equal_scores_are_matched_in_the_order_given():
    assert found_by(table([[0.6], [0.9]], scores=[0.5, 0.5]), 0.5, "coco") == [0, -1]
    assert found_by(table([[0.6], [0.9]], scores=[0.5, 0.6]), 0.5, "coco") == [-1, 0]


def test_a_detection_in_a_crowd_is_left_out_and_a_crowd_need_not_be_found():
    image = table([[0.9, 0.6], [0.2, 0.8], [0.1, 0.7]], crowd=[False, True])
    for evaluator in EVALUATORS:
        assert found_by(image, 0.5, evaluator) == [0, 1, 1]
        result = score_instances([image], NAMES, thresholds=(0.5,), evaluator=evaluator)
        assert result.instances == {"cat": 1, "dog": 0, "car": 0}
        assert full_scores(result) == {"ap@0.5": 1.0, "ap@0.5/cat": 1.0}
    # The same without the crowd: two wrong detections, both after the right one.
    image = table([[0.2], [0.1], [0.9]])
    assert full_scores(score_instances([image], NAMES, thresholds=(0.5,)))["ap@0.5"] == pytest.approx(1 / 3)


def test_a_crowd_is_overlapped_by_the_share_of_the_detection_in_it():
    whole, corner = np.ones((1, 4, 4), np.bool_), np.zeros((1, 4, 4), np.bool_)
    corner[0, :2, :2] = True
    scores, labels = np.ones(1), np.zeros(1, np.int64)
    for crowd, expected in ((True, 1.0), (False, 0.25)):
        found = mask_overlaps("a", corner, scores, labels, whole, labels, np.array([crowd]))
        assert found.overlaps.tolist() == [[expected]]
        boxes = np.array([[0, 0, 2, 2]]), np.array([[0, 0, 4, 4]])
        assert box_overlaps("a", boxes[0], scores, labels, boxes[1], labels, np.array([crowd])).overlaps[0, 0] == expected


def test_an_empty_detection_overlaps_nothing():
    nothing, whole = np.zeros((1, 4, 4), np.bool_), np.ones((1, 4, 4), np.bool_)
    found = mask_overlaps("a", nothing, np.ones(1), np.zeros(1), whole, np.zeros(1))
    assert found.overlaps.tolist() == [[0.0]]


def test_images_without_detections_or_instances_count_and_a_class_without_instances_does_not():
    nothing_found = table(np.empty((0, 2)))
    nothing_there = table(np.empty((1, 0)), scores=[0.99])
    scores = full_scores(score_instances([table([[0.9]]), nothing_found, nothing_there], NAMES, thresholds=(0.5,)))
    # Of three instances one is found, second in the ranking.
    assert scores == {"ap@0.5": pytest.approx(1 / 6), "ap@0.5/cat": pytest.approx(1 / 6)}
    result = score_instances([nothing_there], NAMES, thresholds=(0.5,))
    assert result.absent_classes == NAMES
    assert full_scores(result) == {"ap@0.5": None}


def test_the_volume_needs_all_nine_thresholds():
    assert "ap_volume" not in full_scores(score_instances([table([[0.9]])], NAMES, thresholds=(0.5, 0.7)))
    # An overlap of 0.55 is enough for five of nine.
    assert full_scores(score_instances([table([[0.55]])], NAMES))["ap_volume"] == pytest.approx(5 / 9)


def test_intervals_are_those_of_brute_force_on_drawn_images():
    images = tables_of(random_scene(1, crowds=False), "segm")
    found = intervals(score_instances(images, NAMES, thresholds=(0.5,)), resamples=30, seed=2)
    drawn = np.random.default_rng(2).integers(0, 6, (30, 6))
    for label, name in enumerate(NAMES[:2]):
        values = []
        for numbers in drawn:
            chosen = [images[number] for number in numbers]
            if any((image.truth_labels == label).any() for image in chosen):
                values.append(plain_ap(chosen, label, 0.5, "coco", numbers))
        assert found[f"ap@0.5/{name}"] == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))


def test_every_kind_of_mistake_is_told_from_the_others():
    # Instances: cat, dog, car. Detections of a cat: right, again, too little, on the dog, on the car, on nothing.
    overlaps = [[0.8, 0, 0], [0.7, 0, 0], [0.3, 0, 0], [0.05, 0.6, 0], [0, 0, 0.4], [0.05, 0.09, 0]]
    image = table(overlaps, truth_labels=[0, 1, 2])
    # Five more cats, so that all six detections are among the best.
    more = table(np.empty((0, 5)), image="b")
    found = diagnose([image, more], NAMES, similar=[("cat", "dog")])
    assert found["cat"].to_json() == {
        "instances": 6, "correct": 1, "mislocalised": 2, "similar_class": 1, "other_class": 1, "background": 1, "missed": 5,
    }  # fmt: skip
    assert (found["dog"].instances, found["dog"].missed, found["car"].missed) == (1, 1, 1)
    alone = diagnose([image, more], NAMES)["cat"]
    assert (alone.similar_class, alone.other_class) == (0, 2)


def test_as_many_detections_are_diagnosed_as_there_are_instances_best_first():
    image = table([[0.1], [0.9]], scores=[0.3, 0.6])
    assert diagnose([image], NAMES)["cat"].to_json() == {
        "instances": 1, "correct": 1, "mislocalised": 0, "similar_class": 0, "other_class": 0, "background": 0, "missed": 0,
    }  # fmt: skip


def test_detections_in_crowds_are_no_mistakes_and_crowds_attract_none():
    image = table([[0.0, 0.9], [0.0, 0.3]], crowd=[False, True])
    found = diagnose([image, table(np.empty((0, 1)))], NAMES)["cat"]
    assert (found.instances, found.background, found.mislocalised, found.missed) == (2, 1, 0, 2)


def test_the_similar_classes_of_voc_are_voc_s():
    names = {name for group in VOC_SIMILAR for name in group}
    assert {"person", "bird", "aeroplane", "sofa"} <= names
    with pytest.raises(MetricError, match="similar: expected names of classes, got aeroplane"):
        diagnose([table([[0.5]])], NAMES, similar=VOC_SIMILAR)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.array([0.5, np.nan])}, "image a: detection 1: expected a finite score, got nan"),
        ({"scores": np.array([0.5])}, "image a: expected labels"),
        ({"crowd": np.zeros(3, bool)}, "image a: expected labels"),
        ({"overlaps": np.full((2, 1), 1.5)}, r"overlaps in \[0, 1\]"),
        ({"overlaps": np.full((2, 1), np.nan)}, r"overlaps in \[0, 1\]"),
    ],
)
def test_tables_that_cannot_be_are_refused(change, message):
    given = {
        "image": "a", "scores": np.ones(2), "labels": np.zeros(2), "truth_labels": np.zeros(1), "crowd": np.zeros(1, bool),
        "overlaps": np.zeros((2, 1)),
    }  # fmt: skip
    with pytest.raises(MetricError, match=message):
        Overlaps(**{**given, **change})


@pytest.mark.parametrize(
    ("masks", "truth", "message"),
    [
        (np.zeros((1, 4, 4)), np.ones((1, 4, 4), bool), "boolean masks .* of detections"),
        (np.ones((1, 4, 4), bool), np.ones((4, 4), bool), "boolean masks .* of instances"),
        (np.ones((1, 5, 4), bool), np.ones((1, 4, 4), bool), "resize heatmaps"),
        (np.ones((1, 4, 4), bool), np.zeros((1, 4, 4), bool), "instance 0: expected at least one pixel"),
    ],
)
def test_masks_that_cannot_be_compared_are_refused(masks, truth, message):
    with pytest.raises(MetricError, match=message):
        mask_overlaps("a", masks, np.ones(1), np.zeros(1), truth, np.zeros(1))


def test_boxes_without_area_are_refused():
    with pytest.raises(GeometryError, match="box 0"):
        box_overlaps("a", np.zeros((1, 4)), np.ones(1), np.zeros(1), np.array([[0, 0, 1, 1]]), np.zeros(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evaluator": "voc"}, "expected evaluator coco, sds_matlab, sds_python, got 'voc'"),
        ({"thresholds": ()}, "thresholds"),
        ({"thresholds": (0.0,)}, "thresholds"),
        ({"thresholds": (1.1,)}, "thresholds"),
        ({"class_names": ("cat", "cat")}, "distinct class names"),
        ({"class_names": ()}, "distinct class names"),
        ({"images": [table([[0.5]], labels=[3])]}, "image a: expected labels in 0..2, got 3"),
        ({"images": [table([[0.5]], truth_labels=[-1])]}, "image a: expected labels in 0..2, got -1"),
    ],
)
def test_scoring_what_is_not_defined_is_refused(options, message):
    given = {"images": [table([[0.5]])], "class_names": NAMES, **options}
    with pytest.raises(MetricError, match=message):
        score_instances(given.pop("images"), given.pop("class_names"), **given)
