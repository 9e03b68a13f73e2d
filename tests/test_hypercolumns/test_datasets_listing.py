"""What a data set lists, in which order and under which names, and which paths it refuses."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hypercolumns.datasets import (
    Dataset,
    check_dataset,
    open_dataset,
)
from hypercolumns.datasets.listing import read_class_names, subfolders
from hypercolumns.errors import DatasetError, ImageError
from hypercolumns.specs import DatasetSpec
from tests.factories import make_image, make_mask, save_image, save_mask, write_folder, write_list, write_voc


def voc(root: Path, **fields: object) -> Dataset:
    return open_dataset(DatasetSpec.model_validate({"kind": "voc", "root": str(root), **fields}))


def folder(root: Path, **fields: object) -> Dataset:
    return open_dataset(DatasetSpec.model_validate({"kind": "folder", "root": str(root), **fields}))


def ids(dataset: Dataset, split: str) -> list[str]:
    return [record.image_id for record in dataset.records(split)]


def test_voc_images_are_listed_in_the_order_of_the_list(tmp_path: Path) -> None:
    write_voc(tmp_path / "set")
    write_list(tmp_path / "set", "train", ["train_002", "train_000"])
    dataset = voc(tmp_path / "set")
    assert isinstance(dataset, Dataset)
    assert dataset.name == "set"
    assert dataset.splits == ("train", "val")
    assert ids(dataset, "train") == ["train_002", "train_000"]
    record = dataset.records("train")[0]
    assert record.image_path == tmp_path / "set" / "JPEGImages" / "train_002.jpg"
    assert record.mask_path == tmp_path / "set" / "SegmentationClass" / "train_002.png"
    assert record.group is None


def test_folder_images_are_listed_by_name_and_paired_with_masks_by_stem(tmp_path: Path) -> None:
    write_folder(tmp_path)
    dataset = folder(tmp_path)
    assert dataset.splits == ("train", "val")
    assert ids(dataset, "train") == ["train/000", "train/001", "train/002"]
    assert dataset.records("val")[1].mask_path == tmp_path / "masks" / "val" / "001.png"


@pytest.mark.parametrize("kind", ["voc", "folder"])
def test_pixels_and_labels_are_those_of_the_files(tmp_path: Path, kind: str) -> None:
    (write_voc if kind == "voc" else write_folder)(tmp_path)
    dataset = open_dataset(DatasetSpec.model_validate({"kind": kind, "root": str(tmp_path)}))
    record = dataset.records("train")[1]
    with Image.open(record.image_path) as image:
        np.testing.assert_array_equal(dataset.image(record), np.asarray(image))
    assert record.mask_path is not None
    with Image.open(record.mask_path) as mask:
        np.testing.assert_array_equal(dataset.mask(record), np.asarray(mask))


def test_nothing_is_decoded_and_no_list_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    write_voc(tmp_path)
    for path in (tmp_path / "JPEGImages").iterdir():
        path.write_bytes(b"")
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_bytes(b"\xff\xfe")
    dataset = voc(tmp_path)
    assert len(dataset.records("train")) == 3
    assert dataset.records("train") is dataset.records("train")
    with pytest.raises(DatasetError, match="expected UTF-8 text, got byte 0xff"):
        dataset.records("val")
    with pytest.raises(ImageError, match="empty"):
        dataset.image(dataset.records("train")[0])


@pytest.mark.parametrize("kind", ["voc", "folder"])
def test_limits_take_the_first_images_of_their_own_split(tmp_path: Path, kind: str) -> None:
    (write_voc if kind == "voc" else write_folder)(tmp_path, splits={"train": 4, "val": 3, "test": 3})
    spec = {"kind": kind, "root": str(tmp_path), "limit_train": 3, "limit_val": 1}
    dataset = open_dataset(DatasetSpec.model_validate(spec))
    unlimited = open_dataset(DatasetSpec.model_validate({"kind": kind, "root": str(tmp_path)}))
    assert dataset.records("train") == unlimited.records("train")[:3]
    assert [len(dataset.records(split)) for split in ("val", "test")] == [1, 3]


def test_groups_come_from_the_first_group_of_the_pattern(tmp_path: Path) -> None:
    write_voc(tmp_path)
    dataset = voc(tmp_path, group_pattern=r"_(\d\d)\d$")
    assert [record.group for record in dataset.records("train")] == ["00", "00", "00"]


@pytest.mark.parametrize("pattern", ["^(video)", "train(x)?"])
def test_an_image_without_a_group_is_an_error_that_names_it(tmp_path: Path, pattern: str) -> None:
    write_voc(tmp_path)
    with pytest.raises(DatasetError, match="image 'train_000' has no group"):
        voc(tmp_path, group_pattern=pattern).records("train")


def test_the_generated_set_is_opened_where_it_was_written(tmp_path: Path) -> None:
    write_voc(tmp_path)
    dataset = open_dataset(DatasetSpec(), shapes_root=tmp_path)
    assert dataset.class_names == ("ground", "box", "disc", "stripe")
    assert len(dataset.records("train")) == 3
    with pytest.raises(DatasetError, match="give shapes_root"):
        open_dataset(DatasetSpec())


def test_the_extra_masks_of_sbd_are_found_and_voc_s_own_win(tmp_path: Path) -> None:
    write_voc(tmp_path)
    masks = tmp_path / "SegmentationClass"
    extra = save_mask(tmp_path / "SegmentationClassAug" / "train_001.png", make_mask((24, 32), seed=9))
    save_mask(tmp_path / "SegmentationClassAug" / "train_000.png", make_mask((24, 32), seed=8))
    (masks / "train_001.png").unlink()
    found = [record.mask_path for record in voc(tmp_path).records("train")]
    assert found == [masks / "train_000.png", extra, masks / "train_002.png"]


def test_voc_names_may_hold_folders(tmp_path: Path) -> None:
    mask = make_mask()
    save_image(tmp_path / "JPEGImages" / "a" / "b.png", make_image(mask))
    save_mask(tmp_path / "SegmentationClass" / "a" / "b.png", mask)
    write_list(tmp_path, "train", ["a/b"])
    dataset = voc(tmp_path)
    assert ids(dataset, "train") == ["a/b"]
    np.testing.assert_array_equal(dataset.mask(dataset.records("train")[0]), mask)


def test_lists_may_have_blank_lines_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    write_voc(tmp_path)
    path = tmp_path / "ImageSets" / "Segmentation" / "train.txt"
    path.write_bytes("\ufefftrain_001\r\n\r\ntrain_000  \r\n".encode())
    assert ids(voc(tmp_path), "train") == ["train_001", "train_000"]


def test_odd_names_pair_up_in_a_folder(tmp_path: Path) -> None:
    mask = make_mask()
    names = ["with space", "größe 汉字 😀", "two\nlines", "dots.in.it", "line\u2028separator"]
    write_folder(tmp_path, splits={"val": 1})
    for name in names:
        save_image(tmp_path / "images" / "train" / f"{name}.jpg", make_image(mask))
        save_mask(tmp_path / "masks" / "train" / f"{name}.png", mask)
    dataset = folder(tmp_path)
    assert ids(dataset, "train") == sorted(f"train/{name}" for name in names)
    assert check_dataset(dataset, ["train"]) == []


def test_odd_names_are_found_through_a_list(tmp_path: Path) -> None:
    mask = make_mask()
    names = ["with space", "größe 汉字 😀", "line\u2028separator"]
    for name in names:
        save_image(tmp_path / "JPEGImages" / f"{name}.jpg", make_image(mask))
        save_mask(tmp_path / "SegmentationClass" / f"{name}.png", mask)
    write_list(tmp_path, "train", names)
    assert ids(voc(tmp_path), "train") == names
    assert check_dataset(voc(tmp_path), ["train"]) == []


def test_composed_and_decomposed_letters_are_the_same_name(tmp_path: Path) -> None:
    mask = make_mask()
    save_image(tmp_path / "JPEGImages" / (unicodedata.normalize("NFD", "größe") + ".jpg"), make_image(mask))
    save_mask(tmp_path / "SegmentationClass" / (unicodedata.normalize("NFC", "größe") + ".png"), mask)
    write_list(tmp_path, "train", [unicodedata.normalize("NFD", "größe")])
    dataset = voc(tmp_path)
    assert ids(dataset, "train") == [unicodedata.normalize("NFC", "größe")]
    assert check_dataset(dataset, ["train"]) == []


def test_a_name_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "images" / "train" / "bad\udcff.jpg").touch()
    with pytest.raises(DatasetError, match="not valid UTF-8"):
        folder(tmp_path).records("train")


def test_two_images_of_one_stem_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    shutil.copy(tmp_path / "images" / "train" / "001.png", tmp_path / "images" / "train" / "001.jpg")
    with pytest.raises(DatasetError, match=r"2 files are named '001': '001\.jpg', '001\.png'"):
        folder(tmp_path).records("train")


def test_hidden_and_foreign_files_are_passed_over(tmp_path: Path) -> None:
    write_folder(tmp_path)
    for name in (".DS_Store", "._000.png", "Thumbs.db", "notes.txt"):
        (tmp_path / "images" / "train" / name).touch()
    (tmp_path / "images" / ".cache").mkdir()
    assert folder(tmp_path).splits == ("train", "val")
    assert len(folder(tmp_path).records("train")) == 3


@pytest.mark.parametrize("name", ["../secret", "/etc/secret", "a/../../secret", "nul\0"])
def test_a_listed_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    write_voc(tmp_path)
    write_list(tmp_path, "train", ["train_000", name])
    with pytest.raises(DatasetError, match=r"the 2\. name, .* leads out of the image folder"):
        voc(tmp_path).records("train")


@pytest.mark.parametrize("kind", ["voc", "folder"])
def test_a_link_out_of_the_root_is_refused(tmp_path: Path, kind: str) -> None:
    root, outside = tmp_path / "set", tmp_path / "outside.png"
    (write_voc if kind == "voc" else write_folder)(root)
    save_image(outside, make_image(make_mask()))
    victim = root / ("JPEGImages/train_000.jpg" if kind == "voc" else "images/train/000.png")
    victim.unlink()
    victim.symlink_to(outside)
    with pytest.raises(DatasetError, match=r"outside\.png, outside the data set's folder .* Remedy"):
        open_dataset(DatasetSpec.model_validate({"kind": kind, "root": str(root)})).records("train")


def test_a_folder_linked_from_outside_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "set")
    shutil.move(tmp_path / "set" / "masks", tmp_path / "elsewhere")
    (tmp_path / "set" / "masks").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"elsewhere.*, outside the data set's folder"):
        folder(tmp_path / "set").records("train")


def test_links_within_the_root_and_a_linked_root_are_fine(tmp_path: Path) -> None:
    write_folder(tmp_path / "set")
    (tmp_path / "set" / "images" / "train" / "003.png").symlink_to(tmp_path / "set" / "images" / "val" / "000.png")
    (tmp_path / "set" / "masks" / "train" / "003.png").symlink_to("../val/000.png")
    (tmp_path / "alias").symlink_to(tmp_path / "set")
    dataset = folder(tmp_path / "alias")
    assert len(dataset.records("train")) == 4
    assert check_dataset(dataset, ["train"]) == []


def test_lists_that_are_no_files_or_too_large_are_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 10_000_000)
    for name, message in (
        ("pipe", "found none"),
        ("loop", "can be read"),
        ("large", "of at most 1048576 bytes"),
        ("none", "found"),
    ):
        with pytest.raises(DatasetError, match=rf"{name}: expected a text file.*{message}"):
            read_class_names(tmp_path / name)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for folder, found in (("none", "none"), ("loop", "Too many levels"), ("a" * 300, "File name too long")):
        with pytest.raises(DatasetError, match=rf"expected a folder, found {found}.*Remedy"):
            subfolders(tmp_path / folder)
