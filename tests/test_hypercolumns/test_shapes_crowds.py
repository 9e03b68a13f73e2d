"""Crowded scenes: look-alike parts, groups of one class, and the same promises as of all generated scenes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hypercolumns.datasets.shapes import TWIN_CLASSES, render_crowd, render_scene, write_shapes
from hypercolumns.datasets.shapes.rasters import extreme
from hypercolumns.errors import SpecError

SCENES = 24


@pytest.fixture(scope="module")
def crowds() -> list:
    return [render_crowd(0, index, (128, 128)) for index in range(SCENES)]


def test_a_crowd_is_a_function_of_seed_and_index_alone(crowds: list) -> None:
    again = render_crowd(0, 5, (128, 128))
    for name in ("image", "class_mask", "object_mask", "part_mask", "depth"):
        np.testing.assert_array_equal(getattr(again, name), getattr(crowds[5], name))
    assert not np.array_equal(render_crowd(1, 5, (128, 128)).image, again.image)


def test_every_four_scenes_have_a_group_of_every_class(crowds: list) -> None:
    for first in range(0, SCENES, 4):
        groups = set()
        for scene in crowds[first : first + 4]:
            counts = Counter(figure.label for figure in scene.figures)
            assert 3 <= sum(counts.values()) <= 5
            groups |= {label for label, count in counts.items() if count >= 2}
        assert groups == {1, 2, 3, 4}


def test_figures_of_one_class_touch_in_most_scenes(crowds: list) -> None:
    touching = 0
    for scene in crowds:
        masks = {figure.instance: scene.object_mask == figure.instance for figure in scene.figures}
        labels = {figure.instance: figure.label for figure in scene.figures}
        pairs = [(a, b) for a in masks for b in masks if a < b and labels[a] == labels[b]]
        touching += any((extreme(masks[a], 1, np.maximum) & masks[b]).any() for a, b in pairs)
    assert touching >= SCENES // 2


def test_enough_is_seen_of_every_figure(crowds: list) -> None:
    assert all((scene.object_mask == figure.instance).sum() >= 131 for scene in crowds for figure in scene.figures)


def test_parts_lie_inside_their_figures_and_belong_to_their_classes(crowds: list) -> None:
    first = np.cumsum([0, *(len(figure.parts) for figure in TWIN_CLASSES)])
    for scene in crowds:
        np.testing.assert_array_equal(scene.part_mask > 0, scene.object_mask > 0)
        for figure in scene.figures:
            parts = np.unique(scene.part_mask[scene.object_mask == figure.instance])
            assert first[figure.label - 1] < parts.min()
            assert parts.max() <= first[figure.label]


def test_visible_keypoints_lie_on_their_figure(crowds: list) -> None:
    for scene in crowds:
        for figure in scene.figures:
            assert figure.keypoints.shape == (len(TWIN_CLASSES[figure.label - 1].keypoints), 3)
            for x, y, seen in figure.keypoints:
                near = scene.object_mask[max(0, int(y) - 1) : int(y) + 2, max(0, int(x) - 1) : int(x) + 2]
                assert seen < 2 or (near == figure.instance).any()
    assert {0.0, 1.0, 2.0} <= {value for scene in crowds for figure in scene.figures for value in figure.keypoints[:, 2]}


def test_colour_tells_twin_parts_no_better_than_chance(crowds: list) -> None:
    # Left and right discs of barbells, seen by their mean colours' distance to their own other disc's.
    start = 1 + sum(len(figure.parts) for figure in TWIN_CLASSES[:2])
    gaps, spreads = [], []
    for scene in crowds:
        for figure in (figure for figure in scene.figures if figure.label == 3):
            own = scene.object_mask == figure.instance
            discs = [scene.image[own & (scene.part_mask == start + side)].astype(float) for side in (1, 2)]
            if min(map(len, discs)) >= 30:
                gaps.append(discs[0].mean(axis=0) - discs[1].mean(axis=0))
                spreads.append(discs[0].std(axis=0).mean())
    assert len(gaps) >= 5
    assert np.abs(np.mean(gaps, axis=0)).max() < np.mean(spreads)


def test_a_crowded_set_is_written_with_its_own_classes_and_found_again(tmp_path: Path) -> None:
    made = write_shapes(tmp_path / "set", images=4, size=96, seed=3, scenery="crowded")
    assert made.created
    assert not write_shapes(tmp_path / "set", images=4, size=96, seed=3, scenery="crowded").created
    names = (tmp_path / "set" / "classes.txt").read_text().split()
    assert names == ["background", "doll", "windmill", "barbell", "totem"]
    parts = json.loads((tmp_path / "set" / "parts.json").read_text())
    assert parts["parts_of_class"]["totem"] == ["totem_bottom", "totem_middle", "totem_top"]
    assert "--scenery crowded" in (tmp_path / "set" / "README.md").read_text()
    varied = write_shapes(tmp_path / "varied", images=2, size=96, seed=3)
    assert varied.digest != made.digest
    assert "scenery" not in (tmp_path / "varied" / "manifest.json").read_text()


def test_an_unknown_scenery_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="scenery: expected varied or crowded, received 'empty'"):
        write_shapes(tmp_path / "set", images=2, size=96, seed=0, scenery="empty")
    assert not list(tmp_path.iterdir())
    with pytest.raises(SpecError, match="size"):
        render_crowd(0, 0, (10, 10))


def test_varied_scenes_have_other_streams_of_chance() -> None:
    assert not np.array_equal(render_scene(0, 0, (64, 64)).image, render_crowd(0, 0, (64, 64)).image)
