"""COCO's JSON as instances: what is read, what is chosen, and what every wrong record is told."""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from hypercolumns.box_specs import InstancesSpec
from hypercolumns.datasets.instances import InstanceDataset, check_instances, open_instances
from hypercolumns.errors import DatasetError, MaskError
from tests.factories import save_image
from tests.instances_factory import IMAGE_HW, coco_data, coco_spec, noise, rectangle, write_coco

# What pycocotools itself does when it decodes, in the truth of these tests alone.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def opened(root: Path, **settings: Any) -> InstanceDataset:
    return open_instances(coco_spec(root, **settings))


@pytest.fixture
def dataset(tmp_path: Path) -> InstanceDataset:
    return opened(write_coco(tmp_path))


def test_classes_images_boxes_and_crowds_are_read(dataset: InstanceDataset) -> None:
    assert dataset.class_names == ("cat", "person")
    assert [each.category_id for each in dataset.classes] == [17, 1]
    assert dataset.splits == ("train", "val")
    first, second = dataset.split("train")
    assert (first.key, first.number, first.image_hw) == ("train_a", 7, IMAGE_HW)
    assert second.instances == ()
    cat, crowd, person = first.instances
    assert [each.identifier for each in first.instances] == ["100", "101", "102"]
    assert cat.box_xyxy.tolist() == [2, 3, 10.5, 9]
    assert (cat.area, cat.crowd, crowd.crowd, crowd.class_index, person.class_index) == (40.25, False, True, 0, 1)
    assert [path.name for path in dataset.label_files["val"]] == ["instances_val.json"]


def test_keypoints_are_positions_of_pixels_centres_and_absent_ones_are_zero(dataset: InstanceDataset) -> None:
    cat, _, person = dataset.split("train")[0].instances
    assert cat.keypoints_xyv is None
    assert person.keypoints_xyv is not None
    assert person.keypoints_xyv.tolist() == [[6.5, 7.5, 2], [0, 0, 0], [9.5, 8.5, 1]]
    scheme = dataset.classes[1].keypoints
    assert scheme is not None
    assert (scheme.flips, scheme.sigmas, scheme.skeleton) == ((0, 2, 1), None, ((0, 1), (0, 2)))


def test_keypoints_that_are_positions_already_stay(tmp_path: Path) -> None:
    dataset = opened(write_coco(tmp_path), keypoint_origin="continuous")
    person = dataset.split("train")[0].instances[2]
    assert person.keypoints_xyv is not None
    assert person.keypoints_xyv[0].tolist() == [6, 7, 2]


def test_masks_of_polygons_and_both_kinds_of_run_lengths_are_pycocotools_own(tmp_path: Path) -> None:
    data = coco_data()
    packed = coco_mask.encode(np.asfortranarray(rectangle(3, 1, 9, 20).astype(np.uint8)))
    packed["counts"] = packed["counts"].decode()
    data["annotations"].append({**data["annotations"][0], "id": 103, "segmentation": packed})
    dataset = opened(write_coco(tmp_path, train=data))
    truth = COCO(tmp_path / "annotations" / "instances_train.json")
    instances = dataset.split("train")[0].instances
    assert len(instances) == 4
    for instance in instances:
        assert instance.mask is not None
        expected = truth.annToMask(truth.anns[int(instance.identifier)]).astype(bool)
        np.testing.assert_array_equal(instance.mask(IMAGE_HW), expected)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(instance.mask))(IMAGE_HW), expected)
        with pytest.raises(MaskError, match=f"annotation {instance.identifier}: the mask is"):
            instance.mask((5, 5))


def test_an_instance_may_have_no_mask(tmp_path: Path) -> None:
    data = coco_data()
    del data["annotations"][0]["segmentation"]
    assert opened(write_coco(tmp_path, train=data)).split("train")[0].instances[0].mask is None


def test_classes_are_chosen_and_ordered_by_name(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    dataset = opened(root, class_names=("person", "cat"))
    assert [each.class_index for each in dataset.split("train")[0].instances] == [1, 1, 0]
    alone = opened(root, class_names=("person",))
    assert [each.identifier for each in alone.split("val")[0].instances] == ["102"]
    assert alone.other_categories == {17}
    with pytest.raises(DatasetError, match=r"no class 'persons'. Remedy: use class_names such as person"):
        opened(root, class_names=("persons",))


def test_rare_classes_small_boxes_and_empty_images_are_left_out_on_demand(tmp_path: Path) -> None:
    data = coco_data()
    data["annotations"].append({**data["annotations"][2], "id": 103, "bbox": [4, 5, 2, 12]})
    root = write_coco(tmp_path, train=data)
    assert opened(root, min_train_instances=2).class_names == ("person",)
    assert opened(root, min_train_instances=1).class_names == ("cat", "person")
    assert [each.identifier for each in opened(root, min_side=3).split("train")[0].instances] == ["100", "101", "102"]
    dataset = opened(root, images_without_instances=False)
    assert [image.key for image in dataset.split("train")] == ["train_a"]
    assert dataset.other_images == {"train": {9}, "val": {9}}
    with pytest.raises(DatasetError, match="a class of at least 3 train instances, got 2 at most"):
        opened(root, min_train_instances=3)


def test_a_limit_keeps_the_first_images(tmp_path: Path) -> None:
    dataset = opened(write_coco(tmp_path), limit_train=1)
    assert [image.number for image in dataset.split("train")] == [7]
    assert len(dataset.split("val")) == 2
    with pytest.raises(DatasetError, match=r"no split 'test'. Remedy: use one of train, val"):
        dataset.split("test")


def test_keypoints_outside_the_box_are_kept_dropped_or_refused(tmp_path: Path) -> None:
    data = coco_data()
    data["annotations"][2]["keypoints"][:3] = [20, 7, 2]
    root = write_coco(tmp_path, train=data)

    def nose(mode: str) -> list[float]:
        found = opened(root, keypoints_outside_box=mode).split("train")[0].instances[2].keypoints_xyv
        assert found is not None
        return found[0].tolist()

    assert nose("keep") == [20.5, 7.5, 2]
    assert nose("drop") == [0, 0, 0]
    with pytest.raises(DatasetError, match="annotation 102: keypoint nose: expected a position inside the box"):
        nose("fail")


NAN = float("nan")
WRONG_ANNOTATIONS = {
    "a box outside the image": ({"bbox": [30, 3, 9, 6]}, "box: expected one inside the image of 32 x 24 pixels"),
    "a box without area": ({"bbox": [2, 3, 0, 6]}, "box: expected finite x0 < x1 and y0 < y1"),
    "a box of three numbers": ({"bbox": [2, 3, 6]}, "bbox: expected 4 numbers, got 3"),
    "a box of text": ({"bbox": [2, 3, "6", 6]}, "bbox: expected finite numbers, got 6"),
    "a box of truth values": ({"bbox": [2, 3, True, 6]}, "bbox: expected finite numbers, got True"),
    "a box of huge numbers": ({"bbox": [2, 3, 10**400, 6]}, "bbox: expected finite numbers"),
    "no box": ({"bbox": None}, "bbox: expected 4 numbers, got None"),
    "an unknown category": ({"category_id": 3}, "category_id: expected one of the file's 2 categories, got 3"),
    "an unknown image": ({"image_id": 8}, "image_id: expected an image of the file, got 8"),
    "an image named by text": ({"image_id": "7"}, "image_id: expected a whole number, got 7"),
    "a crowd of two": ({"iscrowd": 2}, "iscrowd: expected 0 or 1, got 2"),
    "an area of text": ({"area": "large"}, "area: expected finite numbers, got large"),
    "an odd count of keypoints": ({"keypoints": [6, 7, 2, 0, 0, 0, 9, 8]}, "keypoints: expected 9 numbers, got 8"),
    "an unknown visibility": (
        {"keypoints": [6, 7, 3, 0, 0, 0, 9, 8, 1]},
        "keypoint nose: expected visibility 0, 1 or 2, got 3",
    ),
    "a keypoint outside the image": (
        {"keypoints": [6, 7, 2, 0, 0, 0, 40, 8, 1]},
        "keypoint right_eye: expected a position inside the image",
    ),
    "no polygon": ({"segmentation": []}, "mask: expected at least one polygon"),
    "half a corner": ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "polygons of an even count of at least 6 numbers, got 7"),
    "a polygon that is a number": ({"segmentation": [3]}, "polygons of an even count of at least 6 numbers, got 3"),
    "a corner of text": ({"segmentation": [[1, 2, 3, 4, 5, "6"]]}, "mask: expected polygons of finite numbers"),
    "a corner far away": ({"segmentation": [[1, 2, 3, 4, 5, 1e9]]}, "corners far outside"),
    "a mask of another size": (
        {"segmentation": {"size": [10, 10], "counts": [100]}},
        r"mask: expected the image's size \[24, 32\]",
    ),
    "run lengths that do not fill": (
        {"segmentation": {"size": [24, 32], "counts": [10]}},
        "fill 24 x 32 pixels, got a sum of 10",
    ),
    "a negative run length": ({"segmentation": {"size": [24, 32], "counts": [-1, 769]}}, "run lengths: expected whole numbers"),
    "damaged run lengths": ({"segmentation": {"size": [24, 32], "counts": "P"}}, "damaged or truncated"),
    "run lengths in other letters": ({"segmentation": {"size": [24, 32], "counts": "ä"}}, "ASCII"),
    "run lengths of a huge image": ({"segmentation": {"size": [24, 32], "counts": "ooooooooo0"}}, "of a possible image"),
    "a mask of text": ({"segmentation": "cat.png"}, "segmentation: expected polygons or run lengths, got cat.png"),
}


@pytest.mark.parametrize("case", WRONG_ANNOTATIONS)
def test_a_wrong_annotation_is_refused_by_file_and_record_or_left_out(tmp_path: Path, case: str) -> None:
    change, reason = WRONG_ANNOTATIONS[case]
    data = coco_data()
    data["annotations"][2].update(change)
    root = write_coco(tmp_path, train=data)
    with pytest.raises(DatasetError, match=rf"1 records cannot be used: .*instances_train.json: annotation 102: .*{reason}"):
        opened(root)
    dataset = opened(root, on_bad_record="skip")
    assert [each.identifier for each in dataset.split("train")[0].instances] == ["100", "101"]
    assert [each.record for each in dataset.rejected] == ["annotation 102"]


def test_keypoints_of_a_class_without_any_are_refused(tmp_path: Path) -> None:
    data = coco_data()
    data["annotations"][0]["keypoints"] = [1, 2, 2]
    with pytest.raises(DatasetError, match="annotation 100: keypoints: expected none, since category 'cat' names none"):
        opened(write_coco(tmp_path, train=data))


def test_many_wrong_records_are_counted_and_the_first_five_named(tmp_path: Path) -> None:
    data = coco_data()
    data["annotations"] += [{**data["annotations"][0], "id": 200 + n, "category_id": 3} for n in range(8)]
    with pytest.raises(DatasetError, match=r"8 records cannot be used: .*annotation 204.*; and 3 more"):
        opened(write_coco(tmp_path, train=data))


WRONG_IMAGES = {
    "a missing file": ({"file_name": "nowhere.jpg"}, "expected the file .*nowhere.jpg, found none"),
    "another suffix": ({"file_name": "train_a.png"}, "expected the file .*train_a.png, found none"),
    "a path out of the folder": ({"file_name": "../train_a.jpg"}, "expected a relative path inside the folder"),
    "no name": ({"file_name": ""}, "expected a relative path inside the folder, got ''"),
    "a number for a name": ({"file_name": 5}, "file_name: expected the file's name, got 5"),
    "another size": ({"width": 31}, r"expected height and width as .*train_a.jpg has them, \(24, 32\), got \(24, 31\)"),
    "a file named twice": ({"file_name": "train_b.jpg"}, "file_name: expected a file of its own, got train_b.jpg again"),
}


@pytest.mark.parametrize("case", WRONG_IMAGES)
def test_a_wrong_image_record_is_refused_or_left_out_with_its_instances(tmp_path: Path, case: str) -> None:
    change, reason = WRONG_IMAGES[case]
    data = coco_data()
    data["images"][0].update(change)
    data["annotations"][2]["image_id"] = 9
    root = write_coco(tmp_path, train=data)
    with pytest.raises(DatasetError, match=rf"instances_train.json: image [79]: {reason}"):
        opened(root)
    if case != "a file named twice":
        assert [image.number for image in opened(root, on_bad_record="skip").split("train")] == [9]


def test_an_image_folder_that_leads_out_of_the_root_is_refused_once(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "set")
    (root / "JPEGImages").rename(tmp_path / "elsewhere")
    (root / "JPEGImages").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"^[^;]*JPEGImages: leads to .*elsewhere, outside the data set's folder"):
        opened(root, on_bad_record="skip")


def test_images_in_inner_folders_are_found_and_named_by_them(tmp_path: Path) -> None:
    data = coco_data()
    data["images"][0]["file_name"] = "inner/train_a.jpg"
    root = write_coco(tmp_path, train=data)
    save_image(root / "JPEGImages" / "inner" / "train_a.jpg", noise())
    assert [image.key for image in opened(root).split("train")] == ["inner/train_a", "train_b"]


def test_an_image_that_is_none_is_named(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    (root / "JPEGImages" / "train_a.jpg").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"image 7: .*train_a.jpg: not an image of a known format"):
        opened(root)


def changed(**parts: Any) -> dict[str, Any]:
    return {**coco_data(), **parts}


WRONG_FILES: dict[str, tuple[Any, str]] = {
    "a list": ([1], "expected an object with images, annotations, categories, got list"),
    "no annotations": ({"images": [], "categories": []}, "a list of objects named 'annotations', got no one"),
    "annotations that are numbers": (changed(annotations=[3]), "a list of objects named 'annotations', got another one"),
    "no images": (changed(images=[]), "expected at least one image, got none"),
    "no categories": (changed(categories=[]), "expected at least one category, got none"),
    "an image twice": (changed(images=[coco_data()["images"][0]] * 2), "images: the id 7 occurs twice"),
    "an annotation twice": (changed(annotations=[coco_data()["annotations"][0]] * 2), "annotations: the id 100 occurs twice"),
    "a record without id": (
        changed(annotations=[{"image_id": 7}]),
        "annotations: number 1 of the list: id: expected a whole number",
    ),
    "two categories of one name": (
        changed(categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]),
        "a name of its own, got 'a'",
    ),
    "a category without name": (changed(categories=[{"id": 1}]), "category 1: expected a name of its own, got 'None'"),
    "keypoints that are numbers": (
        changed(categories=[{"id": 1, "name": "a", "keypoints": [1]}]),
        "keypoints: expected a list of names",
    ),
    "a skeleton out of range": (
        changed(categories=[{"id": 1, "name": "a", "keypoints": ["k"], "skeleton": [[1, 2]]}]),
        "distinct keypoints and a skeleton of pairs of 1 to 1",
    ),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_file_that_is_wrong_as_a_whole_is_refused_whatever_may_be_skipped(tmp_path: Path, case: str) -> None:
    data, reason = WRONG_FILES[case]
    root = write_coco(tmp_path, train=data)
    with pytest.raises(DatasetError, match=f"instances_train.json: .*{reason}"):
        opened(root, on_bad_record="skip")


def test_other_categories_in_the_other_split_are_refused(tmp_path: Path) -> None:
    data = copy.deepcopy(coco_data("val"))
    data["categories"][0]["name"] = "dog"
    with pytest.raises(DatasetError, match=r"instances_val.json: expected the categories .* cat, person, got dog, person"):
        opened(write_coco(tmp_path, val=data))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (json.dumps(coco_data())[:-40], "it ends too early. Remedy: copy the file again"),
        ('{"images": [}, "annotations": []}', "it is damaged there"),
        ('{"images": [], "score": NaN}', "plain JSON of finite numbers, got the value NaN"),
        ("[" * 200_000, "expected"),
    ],
)
def test_a_truncated_or_damaged_json_file_is_named(tmp_path: Path, text: str, reason: str) -> None:
    root = write_coco(tmp_path)
    (root / "annotations" / "instances_train.json").write_text(text)
    with pytest.raises(DatasetError, match=f"instances_train.json: .*{reason}"):
        opened(root)


def test_a_missing_binary_or_special_annotation_file_is_named(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    path = root / "annotations" / "instances_train.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(DatasetError, match="expected UTF-8 text, got byte 0xff"):
        opened(root)
    path.unlink()
    with pytest.raises(DatasetError, match=r"instances_train.json: expected a JSON file, got No such file"):
        opened(root)
    os.mkfifo(path)
    with pytest.raises(DatasetError, match="expected a JSON file, got no regular file"):
        opened(root)


def test_a_split_without_instances_of_the_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"split 'val': expected at least one instance, got none"):
        opened(write_coco(tmp_path, val={**coco_data("val"), "annotations": []}))


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected the data set's folder, found none"):
        opened(tmp_path / "nowhere")


def test_the_check_reads_every_image_and_mask_and_names_what_is_wrong(tmp_path: Path) -> None:
    data = coco_data("val")
    data["annotations"][0]["segmentation"] = [[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]]
    root = write_coco(tmp_path, val=data)
    dataset = opened(root)
    assert check_instances(dataset, ("train",)) == []
    (rejection,) = check_instances(dataset, ("train", "val"))
    assert (rejection.split, rejection.image_id) == ("val", "val_a")
    assert "instance 100: expected a pixel in its mask" in rejection.reason
    path = root / "JPEGImages" / "train_b.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    assert [each.image_id for each in check_instances(dataset, ("train",))] == ["train_b"]
    save_image(path, noise(3, (10, 10)))
    assert "as when it was listed, got (10, 10)" in check_instances(dataset, ("train",))[0].reason


@pytest.mark.real
@pytest.mark.skipif("HYPERCOLUMNS_REAL_DATA" not in os.environ, reason="HYPERCOLUMNS_REAL_DATA is not set")
def test_real_masks_in_voc_s_layout_are_those_of_the_annotations_they_were_made_from() -> None:
    root = Path(os.environ["HYPERCOLUMNS_REAL_DATA"]) / "data" / "coco_mini"
    voc = open_instances(InstancesSpec(kind="voc", root=str(root)))
    assert [len(voc.split(split)) for split in ("train", "val")] == [245, 154]
    coco = {image.key: image for image in opened(root).split("val")}
    overlaps = []
    for image in voc.split("val"):
        masks = [each.mask(image.image_hw) for each in coco[image.key].instances if each.mask is not None and not each.crowd]
        for instance in image.instances:
            assert instance.mask is not None
            own = instance.mask(image.image_hw)
            overlaps.append(max((own & mask).sum() / (own | mask).sum() for mask in masks))
    # Where objects overlap, one number can only be one's.
    assert np.median(overlaps) == 1
    assert np.mean(overlaps) > 0.9


@pytest.mark.real
@pytest.mark.skipif("HYPERCOLUMNS_REAL_DATA" not in os.environ, reason="HYPERCOLUMNS_REAL_DATA is not set")
@pytest.mark.parametrize(("kind", "counts"), [("instances", (2716, 1692)), ("person_keypoints", (172, 118))])
def test_real_annotations_are_read_as_pycocotools_reads_them(kind: str, counts: tuple[int, int]) -> None:
    root = Path(os.environ["HYPERCOLUMNS_REAL_DATA"]) / "data" / "coco_mini"
    dataset = opened(root, annotations=f"annotations/{kind}_{{split}}.json")
    if kind == "instances":
        assert [len(dataset.split(split)) for split in ("train", "val")] == [310, 188]
    for split, count in zip(("train", "val"), counts, strict=True):
        truth = COCO(root / "annotations" / f"{kind}_{split}.json")
        assert sum(len(image.instances) for image in dataset.split(split)) == count == len(truth.anns)
        for image in dataset.split(split):
            for instance in image.instances:
                assert instance.mask is not None
                record = truth.anns[int(instance.identifier)]
                np.testing.assert_array_equal(instance.mask(image.image_hw), truth.annToMask(record).astype(bool))
                assert bool(record["iscrowd"]) == instance.crowd
                if kind == "person_keypoints" and record["num_keypoints"]:
                    assert instance.keypoints_xyv is not None
                    own = np.array(record["keypoints"]).reshape(-1, 3)
                    np.testing.assert_array_equal(instance.keypoints_xyv[:, 2], own[:, 2])
                    np.testing.assert_array_equal(instance.keypoints_xyv[own[:, 2] > 0, :2] - 0.5, own[own[:, 2] > 0, :2])
