"""Scenes and crops: labels that fit each other, chance that depends on seed and index alone, a task that is not trivial."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import jaccard_score

from hypercolumns.datasets.palettes import labels_from_colours, voc_palette
from hypercolumns.datasets.shapes import (
    CLASS_NAMES,
    DEPTH_PER_METRE,
    FIGURE_CLASSES,
    PART_NAMES,
    Scene,
    figure_crops,
    render_scene,
)
from hypercolumns.datasets.shapes.rasters import cover
from hypercolumns.errors import DatasetError, SpecError

DIGEST_SCRIPT = """
import hashlib
from hypercolumns.datasets.shapes import render_scene
scene = render_scene(5, 3, (64, 64))
print(hashlib.sha256(scene.image.tobytes() + scene.part_mask.tobytes() + scene.depth.tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(1, index, (128, 128)) for index in range(32)]


def digest(scene: Scene) -> str:
    return hashlib.sha256(scene.image.tobytes() + scene.part_mask.tobytes() + scene.depth.tobytes()).hexdigest()


def test_another_process_with_another_hash_seed_draws_the_same_scene():
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", DIGEST_SCRIPT]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()
    assert printed == digest(render_scene(5, 3, (64, 64)))


def test_a_scene_does_not_depend_on_what_was_drawn_before_it():
    np.random.default_rng(0).random(3)
    render_scene(9, 0, (64, 64))
    after = render_scene(9, 1, (64, 64))
    assert digest(after) == digest(render_scene(9, 1, (64, 64)))
    assert digest(after) != digest(render_scene(10, 1, (64, 64)))
    assert digest(after) != digest(render_scene(9, 2, (64, 64)))


def test_the_same_scene_at_twice_the_size_has_the_same_composition():
    small, large = render_scene(2, 4, (128, 128)), render_scene(2, 4, (256, 256))
    assert [figure.label for figure in small.figures] == [figure.label for figure in large.figures]
    reduced = large.class_mask[1::2, 1::2]
    assert (reduced == small.class_mask).mean() > 0.96


@pytest.mark.parametrize("image_hw", [(64, 64), (96, 160), (160, 96), (512, 512)])
def test_every_size_in_range_has_arrays_of_that_size(image_hw):
    scene = render_scene(0, 1, image_hw)
    assert scene.image.shape == (*image_hw, 3)
    for labels in (scene.class_mask, scene.object_mask, scene.part_mask, scene.layout_mask, scene.void_mask, scene.depth):
        assert labels.shape == image_hw
    assert 1 <= len(scene.figures) <= 4


@pytest.mark.parametrize(
    ("seed", "index", "image_hw"), [(-1, 0, (64, 64)), (0, -1, (64, 64)), (0, 0, (63, 64)), (0, 0, (64, 513))]
)
def test_an_argument_out_of_range_is_refused_with_the_range(seed, index, image_hw):
    with pytest.raises(SpecError, match=r"64 to 512|0 or more"):
        render_scene(seed, index, image_hw)


def test_object_class_and_part_masks_agree_on_every_pixel(scenes):
    for scene in scenes:
        assert [figure.instance for figure in scene.figures] == list(range(1, len(scene.figures) + 1))
        assert set(np.unique(scene.object_mask)) - {0} == {figure.instance for figure in scene.figures}
        for figure in scene.figures:
            mask = scene.object_mask == figure.instance
            assert (scene.class_mask[mask] == figure.label).all()
            own = {PART_NAMES.index(part) for part in FIGURE_CLASSES[figure.label - 1].parts}
            assert set(np.unique(scene.part_mask[mask])) <= own
            assert (scene.layout_mask[mask] == 1).all()
        assert not scene.class_mask[scene.object_mask == 0].any()
        assert not scene.part_mask[scene.object_mask == 0].any()


def test_depth_is_zero_exactly_in_the_sky_and_grows_towards_the_horizon(scenes):
    for scene in scenes:
        assert ((scene.depth == 0) == (scene.layout_mask == 0)).all()
        ground = np.where(scene.layout_mask == 2, scene.depth.astype(float), np.nan)
        steps = np.diff(ground, axis=0)
        assert (steps[np.isfinite(steps)] <= 0).all()


def test_nearer_figures_stand_lower_and_hide_farther_ones(scenes):
    for scene in scenes:
        distances = [figure.distance_m for figure in scene.figures]
        assert distances == sorted(distances, reverse=True)
        for figure in scene.figures:
            at = scene.depth[scene.object_mask == figure.instance] / DEPTH_PER_METRE
            np.testing.assert_allclose(at, figure.distance_m, atol=1 / DEPTH_PER_METRE)


def test_the_void_band_hugs_borders_and_spares_thin_places(scenes):
    for scene in scenes:
        window = dict(size=3, mode="nearest")
        border = ndimage.maximum_filter(scene.object_mask, **window) != ndimage.minimum_filter(scene.object_mask, **window)
        assert not (scene.void_mask & ~border).any()
        assert (scene.void_mask | ~border)[scene.object_mask == 0].all()
        for figure in scene.figures:
            mask = scene.object_mask == figure.instance
            eroded = ndimage.minimum_filter(mask, size=5, mode="nearest")
            thick = ndimage.maximum_filter(eroded, size=5, mode="nearest")
            np.testing.assert_array_equal(scene.void_mask & mask, border & thick & mask)


def test_visible_keypoints_lie_on_their_figure_and_hidden_ones_do_not_count_as_seen(scenes):
    states = np.zeros(3, dtype=int)
    for scene in scenes:
        for figure in scene.figures:
            assert len(figure.keypoints) == len(FIGURE_CLASSES[figure.label - 1].keypoints)
            near = ndimage.binary_dilation(scene.object_mask == figure.instance, np.ones((3, 3)))
            for x, y, seen in figure.keypoints:
                states[int(seen)] += 1
                if seen == 0:
                    assert (x, y) == (0, 0)
                if seen == 2:
                    assert near[int(y), int(x)]
    assert (states > 10).all()


def test_eight_scenes_in_a_row_hold_every_class():
    for start in (0, 8):
        labels = {figure.label for index in range(start, start + 8) for figure in render_scene(3, index, (64, 64)).figures}
        assert len(labels) >= len(CLASS_NAMES) - 2, "a lead figure may be hidden altogether, but rarely is"


def test_a_patch_of_nine_pixels_does_not_tell_the_class(scenes):
    rng = np.random.default_rng(0)
    features, labels = [], []
    for scene in scenes:
        windows = np.lib.stride_tricks.sliding_window_view(scene.image, (9, 9), axis=(0, 1))
        truth = np.where(scene.void_mask, 255, scene.class_mask)[4:-4, 4:-4]
        rows, columns = np.nonzero(truth != 255)
        chosen = rng.choice(len(rows), 150, replace=False)
        features.append(windows[rows[chosen], columns[chosen]].reshape(150, -1))
        labels.append(truth[rows[chosen], columns[chosen]])
    train, val = slice(0, 24), slice(24, None)
    forest = RandomForestClassifier(20, class_weight="balanced_subsample", min_samples_leaf=2, random_state=0)
    forest.fit(np.concatenate(features[train]), np.concatenate(labels[train]))
    guess, truth = forest.predict(np.concatenate(features[val])), np.concatenate(labels[val])
    assert jaccard_score(truth, guess, average="macro") < 0.3


def test_a_map_of_one_cell_per_sixteen_pixels_does_not_tell_the_outlines(scenes):
    truth, coarse = [], []
    for scene in scenes:
        seen = ~scene.void_mask
        truth.append(scene.class_mask[seen])
        coarse.append(np.kron(scene.class_mask[8::16, 8::16], np.ones((16, 16), np.uint8))[seen])
    assert jaccard_score(np.concatenate(truth), np.concatenate(coarse), average="macro") < 0.75


def test_classes_are_about_as_frequent_in_pixels(scenes):
    pixels = np.sum([np.bincount(scene.class_mask.ravel(), minlength=len(CLASS_NAMES)) for scene in scenes], axis=0)
    assert pixels[1:].max() < 4 * pixels[1:].min()


def test_nothing_is_covered_by_polygons_outside_the_picture():
    beyond = np.array([[70.0, 70.0], [80.0, 70.0], [80.0, 80.0]])
    assert cover([beyond], [0], (64, 64)) is None
    between_samples = np.array([[3.01, 3.01], [3.02, 3.01], [3.02, 3.02]])
    coverage = cover([between_samples, between_samples + 1], [0, 1], (64, 64))
    assert coverage is None or coverage.total.max() < 0.5


def test_coverage_is_the_area_of_the_polygon_in_each_pixel():
    square = np.array([[2.5, 1.0], [5.0, 1.0], [5.0, 3.0], [2.5, 3.0]])
    coverage = cover([square], [0], (64, 64))
    assert coverage is not None
    whole = np.zeros((64, 64))
    y0, x0, y1, x1 = coverage.box
    whole[y0:y1, x0:x1] = coverage.total
    assert whole.sum() == pytest.approx(5.0, abs=1.2)
    assert (whole[1:3, 3:5] == 1).all()


def test_crops_have_the_classes_in_turn_and_can_be_drawn_in_pieces():
    pictures, labels = figure_crops(10, 64, 4)
    assert pictures.shape == (10, 64, 64, 3)
    assert labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]
    piece, piece_labels = figure_crops(3, 64, 4, first=7)
    np.testing.assert_array_equal(piece, pictures[7:])
    np.testing.assert_array_equal(piece_labels, labels[7:])


def test_crops_of_another_seed_differ_and_bad_counts_are_refused():
    assert (figure_crops(2, 64, 4)[0] != figure_crops(2, 64, 5)[0]).any()
    with pytest.raises(SpecError, match="1 or more"):
        figure_crops(0, 64, 4)
    with pytest.raises(SpecError, match="64 to 512"):
        figure_crops(1, 32, 4)
    with pytest.raises(SpecError, match="0 or more"):
        figure_crops(1, 64, -4)


def test_the_palette_has_the_published_colours():
    palette = voc_palette()
    published = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        5: (128, 0, 128),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    for label, colour in published.items():
        assert tuple(palette[label]) == colour


def test_the_palettes_inverse_gives_every_label_back_and_refuses_strangers():
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(labels_from_colours(voc_palette()[labels]), labels)
    with pytest.raises(DatasetError, match=r"\(1, 2, 3\) at \(1,\)"):
        labels_from_colours(np.array([[128, 0, 0], [1, 2, 3]], dtype=np.uint8))
    with pytest.raises(DatasetError, match="uint8"):
        labels_from_colours(np.zeros((2, 2, 4), dtype=np.uint8))
