"""Folders, splits, class lists and palettes, and what is said when they are missing or cannot be."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from hypercolumns.datasets import (
    VOC_CLASS_NAMES,
    Dataset,
    check_dataset,
    open_dataset,
)
from hypercolumns.datasets.palettes import voc_palette
from hypercolumns.errors import DatasetError
from hypercolumns.specs import DatasetSpec
from tests.factories import make_mask, save_mask, write_folder, write_list, write_voc


def voc(root: Path, **fields: object) -> Dataset:
    return open_dataset(DatasetSpec.model_validate({"kind": "voc", "root": str(root), **fields}))


def folder(root: Path, **fields: object) -> Dataset:
    return open_dataset(DatasetSpec.model_validate({"kind": "folder", "root": str(root), **fields}))


def test_a_missing_root_is_named_and_variables_in_it_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match="nowhere: expected the data set's folder"):
        voc(tmp_path / "nowhere")
    write_voc(tmp_path / "set")
    monkeypatch.setenv("SETS_FOLDER", str(tmp_path))
    assert open_dataset(DatasetSpec(kind="voc", root="$SETS_FOLDER/set")).root == tmp_path / "set"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_dataset(DatasetSpec(kind="voc", root="~/set")).root == tmp_path / "set"
    monkeypatch.delenv("SETS_FOLDER")
    with pytest.raises(DatasetError, match=r"a variable in it is not set"):
        open_dataset(DatasetSpec(kind="voc", root="$SETS_FOLDER/set"))


@pytest.mark.parametrize(("kind", "part"), [("voc", "JPEGImages"), ("voc", "ImageSets"), ("folder", "images")])
def test_a_missing_folder_of_the_layout_is_named(tmp_path: Path, kind: str, part: str) -> None:
    (write_voc if kind == "voc" else write_folder)(tmp_path)
    shutil.rmtree(tmp_path / part)
    with pytest.raises(DatasetError, match=part):
        open_dataset(DatasetSpec.model_validate({"kind": kind, "root": str(tmp_path)}))


@pytest.mark.parametrize("split", ["test", "../train", ""])
def test_a_missing_split_is_an_error_that_lists_those_there(tmp_path: Path, split: str) -> None:
    write_voc(tmp_path / "voc")
    write_folder(tmp_path / "folder")
    for dataset in (voc(tmp_path / "voc"), folder(tmp_path / "folder")):
        with pytest.raises(DatasetError, match=r"no split .* found: train, val"):
            dataset.records(split)


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc")
    write_list(tmp_path / "voc", "train", [])
    with pytest.raises(DatasetError, match="empty list"):
        voc(tmp_path / "voc").records("train")
    write_folder(tmp_path / "folder")
    (tmp_path / "folder" / "images" / "test").mkdir()
    with pytest.raises(DatasetError, match="expected images"):
        folder(tmp_path / "folder").records("test")


def test_a_name_listed_twice_is_refused(tmp_path: Path) -> None:
    write_voc(tmp_path)
    write_list(tmp_path, "train", ["train_000", "train_001", "train_000"])
    with pytest.raises(DatasetError, match="'train_000' is listed twice"):
        voc(tmp_path).records("train")


def test_class_names_come_from_the_spec_the_file_or_voc(tmp_path: Path) -> None:
    write_voc(tmp_path)
    assert voc(tmp_path).class_names == ("ground", "box", "disc", "stripe")
    assert voc(tmp_path, class_names=("a", "b", "c", "d")).class_names == ("a", "b", "c", "d")
    (tmp_path / "classes.txt").unlink()
    assert voc(tmp_path).class_names == VOC_CLASS_NAMES
    assert len(VOC_CLASS_NAMES) == 21
    write_folder(tmp_path / "folder")
    (tmp_path / "folder" / "classes.txt").unlink()
    with pytest.raises(DatasetError, match=r"classes\.txt: expected a class list, found none"):
        folder(tmp_path / "folder")


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("a\nb\nc\n", ("a", "b"), r"class_names has 2 names, .*classes\.txt has 3"),
        ("a\n\nb\n", None, "line 2 is blank"),
        ("", None, "line 1 is blank"),
        ("a\n", None, "expected 2 to 255 classes, got 1"),
        ("\n".join(map(str, range(256))), None, "expected 2 to 255 classes, got 256"),
        ("a\nb\na\n", None, "names a more than once"),
    ],
)
def test_a_class_list_that_cannot_be_is_refused(tmp_path: Path, text: str, names: tuple[str, ...] | None, message: str) -> None:
    write_folder(tmp_path)
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DatasetError, match=message):
        folder(tmp_path, class_names=names)


def test_labels_beyond_a_class_list_that_is_too_short_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("ground\nbox\n")
    rejections = check_dataset(folder(tmp_path), ["train"])
    assert [rejection.image_id for rejection in rejections] == ["train/000", "train/001", "train/002"]
    assert all("unknown label" in rejection.reason and "class list" in rejection.remedy for rejection in rejections)


def test_a_folder_or_list_that_went_away_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder")
    dataset = folder(tmp_path / "folder")
    assert dataset.splits == ("train", "val")
    shutil.rmtree(tmp_path / "folder" / "images" / "val")
    with pytest.raises(DatasetError, match="val: expected a folder, found none"):
        dataset.records("val")
    write_voc(tmp_path / "voc")
    dataset = voc(tmp_path / "voc")
    assert dataset.splits == ("train", "val")
    (tmp_path / "voc" / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(DatasetError, match=r"val\.txt: expected a text file, found none"):
        dataset.records("val")


def test_the_palette_is_that_of_the_masks_when_they_have_one(tmp_path: Path) -> None:
    write_voc(tmp_path)
    np.testing.assert_array_equal(voc(tmp_path).palette, voc_palette())


def test_the_palette_does_not_hang_on_one_damaged_mask_or_on_an_unused_list(tmp_path: Path) -> None:
    write_voc(tmp_path)
    (tmp_path / "SegmentationClass" / "train_000.png").write_bytes(b"")
    (tmp_path / "SegmentationClass" / "train_001.png").unlink()
    (tmp_path / "ImageSets" / "Segmentation" / "aside.txt").write_text("")
    np.testing.assert_array_equal(voc(tmp_path).palette, voc_palette())


def test_void_has_the_colour_of_the_files_void_label(tmp_path: Path) -> None:
    write_voc(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    palette = voc(tmp_path, void_label=3).palette
    np.testing.assert_array_equal(palette[255], voc_palette()[3])


def test_without_a_palette_that_tells_classes_apart_colours_are_generated(tmp_path: Path) -> None:
    write_folder(tmp_path)
    palette = folder(tmp_path).palette
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    assert len(np.unique(palette, axis=0)) == 256
    for path in (tmp_path / "masks" / "train").iterdir():
        save_mask(path, make_mask(), palette=np.zeros((256, 3)))
    np.testing.assert_array_equal(folder(tmp_path).palette, palette)
    shutil.rmtree(tmp_path / "masks")
    np.testing.assert_array_equal(folder(tmp_path).palette, palette)
