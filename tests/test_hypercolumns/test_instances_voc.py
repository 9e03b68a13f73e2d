"""VOC's objects and Berkeley's keypoints, on small files made in code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hypercolumns.datasets.instances import check_instances
from hypercolumns.datasets.instances.xml_files import read_xml_file
from hypercolumns.errors import DatasetError
from tests.factories import save_mask
from tests.instances_factory import (
    DOG,
    IMAGE_HW,
    PERSON,
    objects_png,
    open_voc,
    read_mask,
    rectangle,
    train_instances,
    voc_images,
)


def write_xml(root: Path, name: str, objects: list[tuple[str, tuple[float, ...], int]]) -> Path:
    path = root / "Annotations" / f"{name}.xml"
    path.parent.mkdir(exist_ok=True)
    lines = [
        f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for label, box, difficult in objects
    ]
    path.write_text(f"<annotation><filename>{name}.jpg</filename>{''.join(lines)}</annotation>")
    return path


def write_voc_objects(root: Path, *, xml: bool = True, masks: bool = True) -> Path:
    voc_images(root)
    for split in ("train", "val"):
        name = f"2007_{split}"
        if xml:
            write_xml(root, name, [("dog", (4, 3, 12, 10), 0), ("person", (16, 9, 25, 20), 1), ("cat", (1, 1, 32, 24), 0)])
        if masks:
            objects = objects_png()
            save_mask(root / "SegmentationObject" / f"{name}.png", objects)
            classes = np.select([objects == 1, objects == 2, objects == 255], [DOG, PERSON, 255], 0).astype(np.uint8)
            save_mask(root / "SegmentationClass" / f"{name}.png", classes)
    return root


def test_voc_boxes_come_from_xml_and_masks_from_object_numbers(tmp_path: Path) -> None:
    dataset = open_voc(write_voc_objects(tmp_path))
    assert len(dataset.class_names) == 20
    dog, person, cat = train_instances(dataset)
    assert [dataset.class_names[each.class_index] for each in (dog, person, cat)] == ["dog", "person", "cat"]
    # Pixels 4 to 12, counted from 1 with both ends, are [3, 12).
    assert dog.box_xyxy.tolist() == [3, 2, 12, 10]
    np.testing.assert_array_equal(read_mask(dog), rectangle(3, 2, 12, 10))
    np.testing.assert_array_equal(read_mask(person), rectangle(15, 8, 25, 20))
    assert (dog.area, person.difficult, dog.difficult, cat.mask, cat.area) == (72, True, False, None, 32 * 24)
    assert dog.identifier == "2007_train#1"
    assert {path.suffix for path in dataset.label_files["train"]} == {".xml", ".png"}
    assert check_instances(dataset, ("train", "val")) == []


def test_without_xml_boxes_and_classes_come_from_the_masks(tmp_path: Path) -> None:
    dataset = open_voc(write_voc_objects(tmp_path, xml=False))
    dog, person = train_instances(dataset)
    assert [dataset.class_names[each.class_index] for each in (dog, person)] == ["dog", "person"]
    assert dog.box_xyxy.tolist() == [3, 2, 12, 10]


def test_without_masks_there_are_boxes_and_the_main_list_is_used(tmp_path: Path) -> None:
    root = write_voc_objects(tmp_path, masks=False)
    (root / "ImageSets" / "Segmentation").rename(root / "ImageSets" / "Main")
    assert [each.mask for each in train_instances(open_voc(root))] == [None, None, None]


def test_a_class_list_of_its_own_is_used(tmp_path: Path) -> None:
    root = write_voc_objects(tmp_path)
    (root / "classes.txt").write_text("background\ncat\ndog\nperson\n")
    for split in ("train", "val"):
        objects = objects_png()
        save_mask(root / "SegmentationClass" / f"2007_{split}.png", np.where(objects == 255, 255, objects + (objects > 0)))
    assert open_voc(root).class_names == ("cat", "dog", "person")


FIRST = ("dog", (4, 3, 12, 10), 0)


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ([("unicorn", (4, 3, 12, 10), 0)] * 2, r"object 1: class: expected one of aeroplane, .*, got 'unicorn'"),
        ([FIRST, ("dog", (4, 3, 40, 10), 0)], "object 2: box: expected one inside the image"),
        ([FIRST, ("dog", (9, 3, 5, 10), 0)], "object 2: box: expected finite x0 < x1"),
        ([FIRST, ("dog", ("a", 3, 40, 10), 0)], "object 2: xmin: expected a finite number, got 'a'"),
        ([FIRST], r"image 2007_train: expected at most 1 objects in .*2007_train.png, as in the XML, got number 2"),
    ],
)
def test_wrong_xml_records_are_named(tmp_path: Path, objects: list[Any], reason: str) -> None:
    root = write_voc_objects(tmp_path)
    write_xml(root, "2007_train", objects)
    with pytest.raises(DatasetError, match=rf"2007_train.xml: {reason}"):
        open_voc(root)


def test_masks_of_another_size_without_a_class_or_missing_are_named(tmp_path: Path) -> None:
    root, name = write_voc_objects(tmp_path, xml=False), "2007_train.png"
    save_mask(root / "SegmentationClass" / name, np.zeros(IMAGE_HW, np.uint8))
    with pytest.raises(DatasetError, match=r"2007_train.png: object 1: expected a class under the object in SegmentationClass"):
        open_voc(root)
    save_mask(root / "SegmentationObject" / name, objects_png()[:10])
    with pytest.raises(DatasetError, match=r"image 2007_train: the mask is 10 high and 32 wide"):
        open_voc(root)
    (root / "SegmentationObject" / name).unlink()
    with pytest.raises(DatasetError, match=r"expected Annotations, or SegmentationObject and SegmentationClass, found neither"):
        open_voc(root)


def test_a_missing_image_list_or_image_is_named(tmp_path: Path) -> None:
    root = write_voc_objects(tmp_path)
    (root / "JPEGImages" / "2007_val.jpg").unlink()
    with pytest.raises(DatasetError, match=r"val.txt: image 2007_val: expected the file .*2007_val, found none"):
        open_voc(root)
    (root / "JPEGImages" / "2007_val.jpg").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"val.txt: image 2007_val: .*the file is empty"):
        open_voc(root)
    with pytest.raises(DatasetError, match="expected a list of split 'other', found none of"):
        open_voc(root, val_split="other")


BOMB = '<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><annotation><object><name>&b;</name></object></annotation>'
FOREIGN = '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/hostname">]><annotation><object><name>&f;</name></object></annotation>'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "expected an annotation without a document type"),
        (FOREIGN, "expected an annotation without a document type"),
        ("<annotation><object>", "a damaged or truncated file"),
        ("", "a damaged or truncated file"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', "a damaged or truncated file"),
        ("<a>" * 60 + "</a>" * 60, "elements at most 50 deep"),
        ("<annotation><object><name> </name></object></annotation>", "object 1: expected an element name with text in object"),
    ],
)
def test_hostile_and_damaged_xml_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    root = write_voc_objects(tmp_path, masks=False)
    (root / "Annotations" / "2007_train.xml").write_text(text)
    with pytest.raises(DatasetError, match=f"2007_train.xml.*{reason}"):
        open_voc(root)


def test_missing_large_and_special_xml_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a.xml: expected an XML file, got No such file"):
        read_xml_file(tmp_path / "a.xml")
    with pytest.raises(DatasetError, match="expected an XML file, got no regular file"):
        read_xml_file(tmp_path)
    with (tmp_path / "b.xml").open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(DatasetError, match=r"b.xml: expected an XML file of at most"):
        read_xml_file(tmp_path / "b.xml")


def write_keypoints(
    root: Path, name: str, keypoints: str, *, extra: str = "", bounds: str | None = None, number: int = 1
) -> Path:
    path = root / "person" / f"2007_{name}_{number}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    box = '<visible_bounds height="12" width="10" xmin="15" ymin="8"/>' if bounds is None else bounds
    path.write_text(
        f"<annotation><image>2007_{name}</image><voc_id>2</voc_id><category>person</category>{box}"
        f"<keypoints>{keypoints}</keypoints>{extra}</annotation>"
    )
    return path


def test_berkeley_keypoints_are_read_with_the_mask_of_their_object(tmp_path: Path) -> None:
    voc, marks = write_voc_objects(tmp_path / "voc"), tmp_path / "marks"
    wrists = (
        '<keypoint name="L_Wrist" visible="1" x="16.5" y="9.25" z="0"/><keypoint name="R_Wrist" visible="0" x="20" y="12"/>'
    )
    for split in ("train", "val"):
        write_keypoints(marks, split, wrists)
        write_keypoints(marks, split, '<keypoint name="Nose" visible="1" x="17" y="10"/>', number=2)
    dataset = open_voc(voc, "berkeley", annotation_root=str(marks))
    scheme = dataset.classes[dataset.class_names.index("person")].keypoints
    assert scheme is not None
    assert (scheme.names, scheme.flips) == (("L_Wrist", "Nose", "R_Wrist"), (2, 1, 0))
    first, second = train_instances(dataset)
    assert first.keypoints_xyv is not None
    assert second.keypoints_xyv is not None
    assert first.keypoints_xyv.tolist() == [[16.5, 9.25, 2], [0, 0, 0], [20, 12, 1]]
    assert second.keypoints_xyv[:, 2].tolist() == [0, 2, 0]
    assert first.box_xyxy.tolist() == [15, 8, 25, 20]
    assert first.identifier == "person/2007_train_1"
    np.testing.assert_array_equal(read_mask(first), rectangle(15, 8, 25, 20))
    assert first.area == 120


def test_berkeley_objects_without_a_voc_mask_keep_box_and_keypoints(tmp_path: Path) -> None:
    voc, marks = voc_images(tmp_path / "voc"), tmp_path / "marks"
    for split in ("train", "val"):
        write_keypoints(marks, split, '<keypoint name="Nose" x="17" y="10"/>')
    (one,) = train_instances(open_voc(voc, "berkeley", annotation_root=str(marks)))
    assert (one.mask, one.area) == (None, 120)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"keypoints": '<keypoint name="Nose" x="nan" y="1"/>'}, "keypoint Nose: x: expected a finite number, got 'nan'"),
        ({"keypoints": '<keypoint name="Nose" y="1"/>'}, "keypoint Nose: x: expected a finite number, got 'None'"),
        ({"keypoints": '<keypoint name="Nose" x="90" y="1"/>'}, "keypoint Nose: expected a position inside the image"),
        ({"keypoints": '<keypoint name="Nose" visible="2" x="9" y="1"/>'}, "keypoint Nose: expected visible 0 or 1, got '2'"),
        ({"keypoints": '<keypoint name="Nose" x="9" y="1"/>' * 2}, "keypoint: expected a name of its own, got 'Nose'"),
        ({"keypoints": '<keypoint x="9" y="1"/>'}, "keypoint: expected a name of its own, got ''"),
        ({"keypoints": "", "bounds": ""}, "expected an element visible_bounds, found none"),
        ({"keypoints": "", "bounds": '<visible_bounds height="0" width="9" xmin="1" ymin="1"/>'}, "box: expected finite"),
    ],
)
def test_wrong_berkeley_files_are_named(tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    voc, marks = voc_images(tmp_path / "voc"), tmp_path / "marks"
    write_keypoints(marks, "val", "")
    write_keypoints(marks, "train", **settings)
    with pytest.raises(DatasetError, match=f"2007_train_1.xml: .*{reason}"):
        open_voc(voc, "berkeley", annotation_root=str(marks))


def test_a_voc_id_that_is_no_number_and_a_folder_without_classes_are_refused(tmp_path: Path) -> None:
    voc, marks = voc_images(tmp_path / "voc"), tmp_path / "marks"
    path = write_keypoints(marks, "train", "")
    path.write_text(path.read_text().replace("<voc_id>2<", "<voc_id>1.5<"))
    with pytest.raises(DatasetError, match=r"voc_id: expected a whole number of at least 0, got 1.5"):
        open_voc(voc, "berkeley", annotation_root=str(marks))
    with pytest.raises(DatasetError, match="expected a folder a class, such as aeroplane, bicycle, bird, found none"):
        open_voc(voc, "berkeley")
