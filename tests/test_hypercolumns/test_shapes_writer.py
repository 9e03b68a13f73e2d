"""The written set: standard files that independent readers understand, the same bytes each time, never half a set."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from hypercolumns.datasets.palettes import labels_from_colours
from hypercolumns.datasets.shapes import (
    CLASS_NAMES,
    FIGURE_CLASSES,
    GENERATOR_VERSION,
    PART_NAMES,
    ShapesSummary,
    manifest,
    render_scene,
    write_shapes,
)
from hypercolumns.errors import DatasetError, SpecError

IMAGES, SIZE, SEED = 8, 64, 11


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> ShapesSummary:
    return write_shapes(tmp_path_factory.mktemp("shapes") / "set", images=IMAGES, size=SIZE, seed=SEED)


def contents(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def make(root: Path, **changes) -> ShapesSummary:
    return write_shapes(root, **{"images": 2, "size": SIZE, "seed": SEED, **changes})


def test_the_same_arguments_write_the_same_bytes(written, tmp_path):
    again = write_shapes(tmp_path / "elsewhere", images=IMAGES, size=SIZE, seed=SEED)
    assert again.created
    assert again.digest == written.digest
    assert contents(again.root) == contents(written.root)


def test_a_larger_set_repeats_the_smaller_ones_images_and_splits(written, tmp_path):
    larger = write_shapes(tmp_path / "larger", images=IMAGES + 3, size=SIZE, seed=SEED)
    assert set(written.train_ids) <= set(larger.train_ids)
    assert set(written.val_ids) <= set(larger.val_ids)
    small, large = contents(written.root), contents(larger.root)
    per_image = [name for name in small if name.endswith((".png", ".jpg"))]
    assert len(per_image) == 6 * IMAGES
    assert all(large[name] == small[name] for name in per_image)


def test_lists_name_every_image_once(written):
    lists = {path.stem: path.read_text().split() for path in (written.root / "ImageSets" / "Segmentation").iterdir()}
    assert lists["trainval"] == sorted(lists["train"] + lists["val"]) == [f"{i:06d}" for i in range(IMAGES)]
    assert (tuple(lists["train"]), tuple(lists["val"])) == (written.train_ids, written.val_ids)
    assert len(lists["val"]) == IMAGES // 4


@pytest.mark.parametrize(("images", "val_fraction", "val"), [(2, 0.01, 1), (2, 0.99, 1), (5, 0.4, 2)])
def test_each_split_gets_its_share_and_at_least_one_image(tmp_path, images, val_fraction, val):
    summary = make(tmp_path / "set", images=images, val_fraction=val_fraction)
    assert (len(summary.train_ids), len(summary.val_ids)) == (images - val, val)


def test_palette_masks_show_their_labels_in_voc_colours(written):
    for index in range(IMAGES):
        scene = render_scene(SEED, index, (SIZE, SIZE))
        banded = {"SegmentationClass": scene.class_mask, "SegmentationObject": scene.object_mask}
        whole = {"SegmentationPart": scene.part_mask, "Layout": scene.layout_mask}
        for folder, labels in {**banded, **whole}.items():
            with Image.open(written.root / folder / f"{index:06d}.png") as mask:
                assert mask.mode == "P"
                values, colours = np.asarray(mask), np.asarray(mask.convert("RGB"))
            np.testing.assert_array_equal(labels_from_colours(colours), values)
            if folder in banded:
                assert ((values == 255) == scene.void_mask).all()
                values = np.where(scene.void_mask, labels, values)
            np.testing.assert_array_equal(values, labels)


def test_depth_is_a_sixteen_bit_picture(written):
    with Image.open(written.root / "Depth" / "000002.png") as depth:
        assert depth.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(depth), render_scene(SEED, 2, (SIZE, SIZE)).depth)


def test_the_jpeg_is_close_to_the_scene_and_keeps_full_colour_resolution(written):
    with Image.open(written.root / "JPEGImages" / "000001.jpg") as picture:
        assert {layer[1:3] for layer in picture.layer} == {(1, 1)}
        pixels = np.asarray(picture).astype(float)
    assert np.abs(pixels - render_scene(SEED, 1, (SIZE, SIZE)).image).mean() < 5


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
@pytest.mark.parametrize("split", ["train", "val"])
def test_pycocotools_decodes_boxes_masks_and_keypoints(written, split):
    coco = COCO(str(written.root / "annotations" / f"instances_{split}.json"))
    ids = written.train_ids if split == "train" else written.val_ids
    assert sorted(image["file_name"] for image in coco.imgs.values()) == [f"{image_id}.jpg" for image_id in ids]
    assert [category["name"] for category in coco.cats.values()] == list(CLASS_NAMES[1:])
    for image_id in coco.imgs:
        scene = render_scene(SEED, image_id - 1, (SIZE, SIZE))
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        assert len(annotations) == len(scene.figures)
        for annotation, figure in zip(annotations, scene.figures, strict=True):
            mask = coco.annToMask(annotation).astype(bool)
            np.testing.assert_array_equal(mask, scene.object_mask == annotation["id"] % 10)
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation["bbox"]
            assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert annotation["area"] == mask.sum()
            keypoints = np.array(annotation["keypoints"]).reshape(-1, 3)
            np.testing.assert_allclose(keypoints, figure.keypoints)
            assert annotation["num_keypoints"] == (keypoints[:, 2] > 0).sum()


def test_categories_name_keypoints_and_join_them_counting_from_one(written):
    loaded = json.loads((written.root / "annotations" / "instances_val.json").read_text())
    for category, figure in zip(loaded["categories"], FIGURE_CLASSES, strict=True):
        assert tuple(category["keypoints"]) == figure.keypoints
        bones = [tuple(category["keypoints"][end - 1] for end in bone) for bone in category["skeleton"]]
        assert tuple(bones) == figure.skeleton


def test_name_lists_and_readme_say_what_the_labels_mean(written):
    assert tuple((written.root / "classes.txt").read_text().split()) == CLASS_NAMES
    parts = json.loads((written.root / "parts.json").read_text())
    assert tuple(parts["parts"]) == PART_NAMES
    assert parts["layout"] == ["sky", "upright", "ground"]
    text = (written.root / "README.md").read_text()
    assert f"version: {GENERATOR_VERSION}" in text
    assert f"seed: {SEED}" in text


def test_a_folder_that_holds_this_very_set_is_left_alone(tmp_path):
    first = make(tmp_path / "set")
    stamps = {path: path.stat().st_mtime_ns for path in first.root.rglob("*")}
    (first.root / "notes.txt").write_text("somebody's own")
    second = make(tmp_path / "set")
    assert (first.created, second.created) == (True, False)
    assert second.digest == first.digest
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items() if path != first.root)


def test_an_empty_folder_is_filled_and_every_image_is_announced(tmp_path):
    (tmp_path / "set").mkdir()
    done: list[int] = []
    assert make(tmp_path / "set", images=3, on_image=done.append).created
    assert done == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_with_other_arguments_is_refused_with_both_named(tmp_path):
    make(tmp_path / "set")
    with pytest.raises(DatasetError, match=r"'seed': 12.*'seed': 11.*Remedy: delete the folder"):
        make(tmp_path / "set", seed=12)


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(DatasetError, match="without a manifest"):
        make(tmp_path)
    assert (tmp_path / "diary.txt").read_text() == "mine"
    with pytest.raises(DatasetError, match="without a manifest"):
        make(tmp_path / "diary.txt")


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_set_with_a_damaged_file_is_refused_by_the_files_name(tmp_path, damage):
    make(tmp_path / "set")
    victim = tmp_path / "set" / "Layout" / "000001.png"
    victim.unlink() if damage == "missing" else victim.write_bytes(b"\0")
    with pytest.raises(DatasetError, match=rf"Layout/000001\.png is {damage}"):
        make(tmp_path / "set")


@pytest.mark.parametrize(
    "text", ["{", "{}", "[1]", '{"generator_version": "1", "arguments": {}, "files": {"a": "b"}, "digest": "c"}']
)
def test_a_damaged_manifest_is_refused(tmp_path, text):
    make(tmp_path / "set")
    (tmp_path / "set" / "manifest.json").write_text(text)
    with pytest.raises(DatasetError, match=r"manifest\.json is damaged"):
        make(tmp_path / "set")


def test_a_failure_midway_leaves_nothing_behind(tmp_path):
    def fail(done: int) -> None:
        raise RuntimeError("the plug was pulled")

    with pytest.raises(RuntimeError, match="plug"):
        make(tmp_path / "set", on_image=fail)
    assert list(tmp_path.iterdir()) == []


def test_a_set_that_another_process_finishes_first_is_taken_over(tmp_path):
    root = tmp_path / "set"

    def overtake(done: int) -> None:
        if done == 2:
            make(root)

    summary = make(root, on_image=overtake)
    assert not summary.created
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_a_set_that_cannot_be_moved_into_place_says_so(tmp_path, monkeypatch):
    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError("read-only")

    monkeypatch.setattr(manifest.Path, "rename", refuse)
    with pytest.raises(DatasetError, match=r"could not be moved.*read-only"):
        make(tmp_path / "set")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"images": 1}, "images: expected 2 or more"),
        ({"size": 63}, "64 to 512"),
        ({"size": (64, 1024)}, "64 to 512"),
        ({"seed": -1}, "seed: expected a whole number of 0 or more"),
        ({"val_fraction": 0.0}, "val_fraction: expected a number between 0 and 1"),
        ({"val_fraction": float("nan")}, "val_fraction"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_written(tmp_path, changes, expected):
    with pytest.raises(SpecError, match=expected):
        make(tmp_path / "set", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_square_given_by_its_side_or_as_height_and_width_is_the_same_set(tmp_path):
    by_side = make(tmp_path / "set")
    assert not make(tmp_path / "set", size=(SIZE, SIZE)).created
    assert by_side.digest == make(tmp_path / "other", size=(SIZE, SIZE)).digest
