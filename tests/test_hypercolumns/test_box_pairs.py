"""Pairs of boxes and instances, how they are drawn, and what their targets look like."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hypercolumns.box_pairs import BoxPair, draw_pairs, training_pairs
from hypercolumns.box_targets import box_labels, keypoint_cells
from hypercolumns.boxes import box_iou
from hypercolumns.datasets.instances import AnnotatedImage, Detections, Instance
from hypercolumns.errors import GeometryError, SamplingError


def something(image_hw: tuple[int, int]) -> Any:
    return np.ones(image_hw, np.bool_)


def instance(label: int, *box: float, **settings: Any) -> Instance:
    return Instance(str(box), label, np.array(box, np.float64), **{"mask": something, **settings})


def image(key: str, *instances: Instance) -> AnnotatedImage:
    return AnnotatedImage(key, Path(f"{key}.jpg"), (50, 50), instances, 1)


def detections(*lines: tuple[int, float, float, float, float]) -> Detections:
    boxes = np.array([line[1:] for line in lines], np.float64).reshape(-1, 4)
    count = len(lines)
    return Detections(boxes, np.ones(count), np.array([line[0] for line in lines], np.int64), np.full(count, -1, np.int64))


def test_a_box_pairs_with_the_instance_of_its_class_that_it_overlaps_most() -> None:
    random = np.random.default_rng(0)
    corners = random.uniform(0, 10, (40, 2))
    boxes = np.concatenate([corners, corners + random.uniform(15, 30, (40, 2))], axis=1)
    labels = random.integers(0, 2, 40)
    instances = [instance(int(label), *box) for label, box in zip(labels[:10], boxes[:10], strict=True)]
    given = detections(*[(int(label), *box) for label, box in zip(labels[10:], boxes[10:], strict=True)])
    found = training_pairs([image("a", *instances)], {"a": given}, least_iou=0.6)
    expected = set()
    for label, box in zip(labels[10:], boxes[10:], strict=True):
        overlaps = {n: box_iou(box[None], boxes[[n]])[0, 0] for n in range(10) if labels[n] == label}
        best = max(overlaps, key=lambda n: overlaps[n])
        if overlaps[best] >= 0.6:
            expected.add(BoxPair("a", best, int(label), tuple(box.tolist())))
    assert 5 < len(expected) < 30
    assert set(found) == expected
    assert list(found) == sorted(found)


def test_the_limit_itself_is_enough() -> None:
    truth = image("a", instance(0, 0, 0, 10, 10))
    assert len(training_pairs([truth], {"a": detections((0, 0, 0, 10, 7))}, least_iou=0.7)) == 1
    assert not training_pairs([truth], {"a": detections((0, 0, 0, 10, 6.99))}, least_iou=0.7)


def test_crowds_other_classes_and_instances_without_the_target_pair_with_nothing() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    seen = np.array([[1.0, 1.0, 2.0]])
    instances = [
        instance(0, *box, crowd=True),
        instance(1, *box, mask=None),
        instance(2, *box, keypoints_xyv=seen),
        instance(3, *box, keypoints_xyv=seen * 0),
        instance(4, *box, parts=something),
    ]
    given = {"a": detections(*[(label, *box) for label in range(6)])}

    def labels(target: Any) -> list[int]:
        return [pair.class_index for pair in training_pairs([image("a", *instances), image("b")], given, target=target)]

    assert (labels("mask"), labels("keypoints"), labels("parts")) == ([2, 3, 4], [2], [4])
    assert training_pairs([image("a")], given) == ()
    assert training_pairs([image("a", *instances)], {"a": Detections.none()}) == ()
    with pytest.raises(SamplingError, match=r"an overlap in \[0, 1\], got 1.5"):
        training_pairs([], {}, least_iou=1.5)


def uneven_pairs() -> list[BoxPair]:
    # Class 0 has one box in one image; class 1 has 2 boxes in one image and 30 in another.
    counts = {(0, "a"): 1, (1, "a"): 2, (1, "b"): 30}
    return [BoxPair(key, 0, label, (0, 0, n + 1, 1)) for (label, key), count in counts.items() for n in range(count)]


def test_classes_are_drawn_uniformly_then_images_then_boxes() -> None:
    drawn = draw_pairs(uneven_pairs(), 8000, seed=1)
    assert len(drawn) == 8000
    by_class = Counter(pair.class_index for pair in drawn)
    by_image = Counter(pair.image for pair in drawn if pair.class_index == 1)
    by_box = Counter(pair.box_xyxy for pair in drawn if pair.image == "b")
    # Five standard deviations of a fair coin.
    assert abs(by_class[0] - 4000) < 5 * 8000**0.5 / 2
    assert abs(by_image["a"] - by_class[1] / 2) < 5 * by_class[1] ** 0.5 / 2
    assert len(by_box) == 30
    assert max(by_box.values()) < 2 * min(by_box.values())


def test_a_draw_depends_on_the_seed_and_not_on_the_order() -> None:
    pairs = uneven_pairs()
    one = draw_pairs(pairs, 50, seed=3)
    assert one == draw_pairs(list(np.random.default_rng(0).permutation(np.array(pairs, object))), 50, seed=3)
    assert one != draw_pairs(pairs, 50, seed=4)


@pytest.mark.parametrize(("pairs", "count", "seed"), [([], 1, 0), (uneven_pairs(), 0, 0), (uneven_pairs(), 1, -1)])
def test_a_draw_of_nothing_is_refused(pairs: list[BoxPair], count: int, seed: int) -> None:
    with pytest.raises(SamplingError, match="expected pairs, a count of at least 1 and a seed"):
        draw_pairs(pairs, count, seed)


# --- targets


@pytest.mark.parametrize("expansion", [0.0, 16 / 195])
def test_a_target_is_the_mask_under_each_heatmap_pixel(expansion: float) -> None:
    random = np.random.default_rng(0)
    mask = random.random((20, 30)) < 0.5
    for x0, y0, width, height in random.uniform([-5, -5, 1, 1], [25, 15, 20, 15], (20, 4)):
        found = box_labels(mask, np.array([x0, y0, x0 + width, y0 + height]), 7, expansion)
        for row in range(7):
            for column in range(7):
                x = x0 - expansion * width + (column + 0.5) * width * (1 + 2 * expansion) / 7
                y = y0 - expansion * height + (row + 0.5) * height * (1 + 2 * expansion) / 7
                inside = 0 <= x < 30 and 0 <= y < 20
                assert found[row, column] == (inside and mask[int(y), int(x)])


def test_targets_of_part_labels_keep_their_type() -> None:
    labels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    found = box_labels(labels, np.array([1, 1, 3, 3]), 2)
    assert found.dtype == np.uint8
    assert found.tolist() == [[5, 6], [9, 10]]


def test_keypoints_are_the_heatmap_pixels_they_lie_in() -> None:
    points = np.array([[10.0, 20.0, 2], [19.99, 29.99, 1], [14.9, 20.1, 2], [0, 0, 0], [20.0, 25, 2], [9.9, 25, 2]])
    cells = keypoint_cells(points, np.array([10, 20, 20, 30]), 10)
    assert cells.tolist() == [[0, 0], [9, 9], [0, 4], [-1, -1], [-1, -1], [-1, -1]]
    # Half of the box is added at each side: the last two lie inside it now.
    assert keypoint_cells(points, np.array([10, 20, 20, 30]), 10, 0.5)[4:].tolist() == [[5, 7], [5, 2]]


def test_targets_of_what_is_no_box_or_no_keypoints_are_refused() -> None:
    with pytest.raises(GeometryError, match="box 0"):
        box_labels(np.zeros((4, 4)), np.array([3, 0, 1, 2]))
    with pytest.raises(GeometryError, match=r"expected keypoints \(K, 3\)"):
        keypoint_cells(np.zeros((4, 2)), np.array([0, 0, 1, 2]))
    with pytest.raises(GeometryError, match="at least one pixel a side"):
        box_labels(np.zeros((4, 4)), np.array([0, 0, 1, 2]), 0)


def test_a_mask_on_the_pixel_grid_comes_back_from_its_own_box() -> None:
    mask = np.random.default_rng(1).random((12, 9)) < 0.5
    found = box_labels(np.pad(mask, 3), np.array([0, 0, 15, 18]) * 1.0, 90)
    grown = torch.nn.functional.interpolate(
        torch.from_numpy(np.pad(mask, 3))[None, None].float(), (90, 90), mode="nearest-exact"
    )
    np.testing.assert_array_equal(found, grown[0, 0].bool().numpy())
