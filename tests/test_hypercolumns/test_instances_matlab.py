"""SBD and PASCAL-Part: MATLAB files, made in code and damaged in many ways."""

from __future__ import annotations

import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from hypercolumns.datasets.instances import check_instances
from hypercolumns.errors import DatasetError, MaskError
from tests.factories import save_image
from tests.instances_factory import (
    DOG,
    IMAGE_HW,
    PERSON,
    noise,
    objects_png,
    open_voc,
    read_mask,
    rectangle,
    train_instances,
    voc_images,
)


def write_sbd(root: Path, **changed: Any) -> Path:
    """Write the set's own layout: img, inst and lists in one folder."""
    (root / "inst").mkdir(parents=True)
    for split in ("train", "val"):
        save_image(root / "img" / f"2008_{split}.jpg", noise())
        (root / f"{split}.txt").write_text(f"2008_{split}\n")
        objects = objects_png()
        objects[objects == 255] = 0
        fields = {"Segmentation": objects, "Boundaries": np.zeros((2, 1)), "Categories": np.array([[DOG], [PERSON]])}
        scipy.io.savemat(root / "inst" / f"2008_{split}.mat", {"GTinst": {**fields, **changed}}, do_compression=True)
    return root


def test_sbd_instances_are_read_from_matlab_files(tmp_path: Path) -> None:
    dataset = open_voc(write_sbd(tmp_path), "sbd", image_folder="img")
    dog, person = train_instances(dataset)
    assert [dataset.class_names[each.class_index] for each in (dog, person)] == ["dog", "person"]
    np.testing.assert_array_equal(read_mask(person), rectangle(15, 8, 25, 20))
    assert person.box_xyxy.tolist() == [15, 8, 25, 20]
    assert person.mask is not None
    with pytest.raises(MaskError, match="Segmentation: expected labels of the image's size"):
        person.mask((4, 4))


def test_sbd_beside_voc_uses_its_own_lists(tmp_path: Path) -> None:
    voc = voc_images(tmp_path / "voc")
    sbd = write_sbd(tmp_path / "sbd")
    for split in ("train", "val"):
        save_image(voc / "JPEGImages" / f"2008_{split}.jpg", noise())
    dataset = open_voc(voc, "sbd", annotation_root=str(sbd))
    assert [image.key for image in dataset.split("train")] == ["2008_train"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"Categories": np.array([[DOG]])}, "Categories: expected a class for each of 2 objects, got 1"),
        ({"Categories": np.array([[DOG], [21]])}, "object 2: expected a class in 1 … 20, got 21"),
        ({"Categories": np.array([[DOG], [1.5]])}, "Categories: expected whole labels in 0 … 255, got others"),
        ({"Segmentation": np.zeros((3, 3))}, "Segmentation: expected labels of the image's size"),
        ({"Segmentation": np.ones(IMAGE_HW)}, "mask: expected at least one pixel, got none"),
        ({"Segmentation": "text"}, "Segmentation: expected labels"),
    ],
)
def test_wrong_matlab_fields_are_named(tmp_path: Path, changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(DatasetError, match=f"2008_train.mat: image 2008_train: {reason}"):
        open_voc(write_sbd(tmp_path, **changed), "sbd", image_folder="img")


def damaged_matlab() -> dict[str, bytes]:
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<HH", 0x0100, 0x4D49)
    bomb = zlib.compress(b"\0" * 10_000_000)
    return {
        "nothing": b"",
        "text": b"no matlab file",
        "a pickle": pickle.dumps({"GTinst": 1}),
        "version 7.3": b"MATLAB 7.3 MAT-file".ljust(124) + struct.pack("<HH", 0x0200, 0x4D49) + b"\x89HDF\r\n\x1a\n",
        "a truncated one": header + struct.pack("<II", 14, 1000) + b"\0" * 8,
        "compressed zeros": header + struct.pack("<II", 15, len(bomb)) + bomb,
        "random bytes behind a header": header + np.random.default_rng(0).bytes(400),
    }


@pytest.mark.parametrize("case", damaged_matlab())
def test_damaged_matlab_files_are_named(tmp_path: Path, case: str) -> None:
    root = write_sbd(tmp_path)
    (root / "inst" / "2008_train.mat").write_bytes(damaged_matlab()[case])
    with pytest.raises(
        DatasetError, match=r"2008_train.mat: image 2008_train: (expected a MATLAB file of version 5 to 7|expected one struct)"
    ):
        open_voc(root, "sbd", image_folder="img")


def test_other_variables_missing_files_and_missing_scipy_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_sbd(tmp_path)
    path = root / "inst" / "2008_train.mat"
    scipy.io.savemat(path, {"GTinst": np.ones(3)})
    with pytest.raises(DatasetError, match="expected one struct 'GTinst', got another value"):
        open_voc(root, "sbd", image_folder="img")
    scipy.io.savemat(path, {"GTinst": {"Other": 1}})
    with pytest.raises(DatasetError, match="expected a field 'Segmentation', got Other"):
        open_voc(root, "sbd", image_folder="img")
    path.unlink()
    with pytest.raises(DatasetError, match="expected a MATLAB file, got No such file"):
        open_voc(root, "sbd", image_folder="img")
    path.mkdir()
    with pytest.raises(DatasetError, match="expected a MATLAB file, got no regular file"):
        open_voc(root, "sbd", image_folder="img")

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("hypercolumns.datasets.instances.mat_files.importlib.import_module", missing)
    with pytest.raises(DatasetError, match="scipy is needed to read it"):
        open_voc(root, "sbd", image_folder="img")


def part(name: str, *box: int) -> tuple[str, np.ndarray]:
    return name, rectangle(*box).astype(np.uint8)


def structs(rows: list[tuple[Any, ...]], *fields: str) -> np.ndarray:
    array = np.zeros((1, len(rows)), [(field, object) for field in fields])
    for number, row in enumerate(rows):
        array[0, number] = row
    return array


def write_parts(root: Path, objects: list[tuple[Any, ...]] | None = None, *, annotations: Path | None = None) -> Path:
    voc_images(root)
    folder = (annotations or root) / "Annotations_Part"
    folder.mkdir(parents=True)
    boxes = {
        "torso": (3, 5, 12, 10),
        "head": (3, 2, 12, 6),
        "leye": (4, 3, 5, 4),
        "reye": (7, 3, 8, 4),
        "lleg_1": (1, 9, 4, 11),
    }
    parts = structs([part(name, *box) for name, box in boxes.items()], "part_name", "mask")
    mask = rectangle(3, 2, 12, 12).astype(np.uint8)
    rows = objects or [("dog", DOG, mask, parts), ("car", 7, rectangle(15, 8, 25, 20).astype(np.uint8), np.zeros((0, 0)))]
    for split in ("train", "val"):
        anno = {"imname": f"2007_{split}", "objects": structs(rows, "class", "class_ind", "mask", "parts")}
        scipy.io.savemat(folder / f"2007_{split}.mat", {"anno": anno}, do_compression=True)
    return root


def test_parts_are_read_with_small_ones_on_large_ones(tmp_path: Path) -> None:
    dataset = open_voc(write_parts(tmp_path), "pascal_part")
    dog, car = train_instances(dataset)
    scheme = dataset.classes[dog.class_index].parts
    assert scheme is not None
    assert scheme.names == ("head", "leye", "lleg", "reye", "torso")
    assert scheme.flips == (0, 3, 2, 1, 4)
    assert (car.parts, dataset.classes[car.class_index].parts) == (None, None)
    assert dog.parts is not None
    labels = pickle.loads(pickle.dumps(dog.parts))(IMAGE_HW)
    expected = np.zeros(IMAGE_HW, np.uint8)
    expected[2:12, 3:12] = 255
    expected[5:10, 3:12] = 5
    expected[2:6, 3:12] = 1
    expected[3, 4], expected[3, 7] = 2, 4
    expected[9:11, 3] = 3
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(read_mask(car), rectangle(15, 8, 25, 20))
    assert check_instances(dataset, ("train", "val")) == []


def test_parts_are_grouped_as_the_spec_says(tmp_path: Path) -> None:
    root = write_parts(tmp_path / "voc", annotations=tmp_path / "parts")
    groups = {"dog": {"head": ("head", "leye", "reye"), "body": ("torso",)}}
    dataset = open_voc(root, "pascal_part", annotation_root=str(tmp_path / "parts"), part_groups=groups)
    dog = train_instances(dataset)[0]
    scheme = dataset.classes[dog.class_index].parts
    assert scheme is not None
    assert dog.parts is not None
    assert scheme.names == ("head", "body")
    labels = dog.parts(IMAGE_HW)
    assert (labels[3, 4], labels[8, 5], labels[9, 3], labels[11, 5], labels[0, 0]) == (1, 2, 255, 255, 0)
    with pytest.raises(DatasetError, match="part_groups: expected classes of the data set, got unicorn"):
        open_voc(root, "pascal_part", annotation_root=str(tmp_path / "parts"), part_groups={"unicorn": {}})
    none = open_voc(root, "pascal_part", annotation_root=str(tmp_path / "parts"), part_groups={"cat": {"head": ("head",)}})
    assert [each.parts for each in train_instances(none)] == [None, None]


def test_more_parts_than_labels_can_tell_are_refused(tmp_path: Path) -> None:
    groups = {"dog": {f"part {number}": ("head",) for number in range(255)}}
    with pytest.raises(DatasetError, match="class dog: expected at most 254 parts, got 255"):
        open_voc(write_parts(tmp_path), "pascal_part", part_groups=groups)


def test_wrong_parts_are_named(tmp_path: Path) -> None:
    mask, no_parts = rectangle(3, 2, 12, 10).astype(np.uint8), np.zeros((0, 0))
    cases = [
        ([("unicorn", 1, mask, no_parts)], "object 1: class: expected one of"),
        ([("dog", 1, mask[:5], no_parts)], "object 1: mask: expected labels of the image's size"),
        ([("dog", 1, mask * 0, no_parts)], "object 1: mask: expected at least one pixel"),
        ([(5, 1, mask, no_parts)], "object 1: class: expected text"),
        (
            [("dog", 1, mask, structs([("head", mask[:3])], "part_name", "mask"))],
            "object 1: mask: expected labels of the image",
        ),
        ([("dog", 1, mask, np.ones(3))], "object 1: parts: expected structs"),
    ]
    for number, (objects, reason) in enumerate(cases):
        root = write_parts(tmp_path / str(number), objects)
        with pytest.raises(DatasetError, match=f"2007_train.mat: {reason}"):
            open_voc(root, "pascal_part")


def test_a_part_file_that_changes_after_opening_is_an_error_of_its_mask(tmp_path: Path) -> None:
    root = write_parts(tmp_path)
    dataset = open_voc(root, "pascal_part")
    first, second = train_instances(dataset)
    assert first.parts is not None
    assert second.mask is not None
    with pytest.raises(MaskError, match="mask: expected labels of the image's size"):
        first.parts((3, 3))
    (root / "Annotations_Part" / "2007_train.mat").write_bytes(b"")
    with pytest.raises(MaskError, match="expected object 2 in it"):
        second.mask(IMAGE_HW)
    assert len(check_instances(dataset, ("train", "val"))) == 1
