"""Generated figures as instances: boxes, masks, keypoints and parts are those the scenes were drawn with."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from hypercolumns.box_specs import InstancesSpec
from hypercolumns.datasets.instances import InstanceDataset, check_instances, open_instances
from hypercolumns.datasets.shapes import TWIN_CLASSES, Scene, render_crowd, render_scene, write_shapes
from hypercolumns.errors import DatasetError

SIZE_HW = (96, 96)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    for scenery in ("varied", "crowded"):
        write_shapes(root / scenery, images=6, size=SIZE_HW[0], seed=2, scenery=scenery)
    return root


def opened(folder: Path, scenery: str) -> InstanceDataset:
    return open_instances(InstancesSpec(scenery=scenery), shapes_root=folder / scenery)


@pytest.mark.parametrize("scenery", ["varied", "crowded"])
def test_everything_known_of_a_scene_is_read_back(folder: Path, scenery: str) -> None:
    dataset = opened(folder, scenery)
    seen = 0
    for image in (image for split in dataset.splits for image in dataset.split(split)):
        scene: Scene = (render_scene if scenery == "varied" else render_crowd)(2, image.number - 1, SIZE_HW)
        assert len(image.instances) == len(scene.figures)
        for instance, figure in zip(image.instances, scene.figures, strict=True):
            mask = scene.object_mask == figure.instance
            assert instance.class_index == figure.label - 1
            assert instance.mask is not None
            np.testing.assert_array_equal(instance.mask(SIZE_HW), mask)
            rows, columns = np.nonzero(mask)
            assert instance.box_xyxy.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert instance.area == mask.sum()
            if instance.keypoints_xyv is not None:
                np.testing.assert_array_equal(instance.keypoints_xyv, figure.keypoints)
            assert instance.parts is not None
            parts = pickle.loads(pickle.dumps(instance.parts))(SIZE_HW)
            # Parts are numbered over all classes in a scene, over its own class in an instance.
            offset = scene.part_mask[mask].astype(int) - parts[mask]
            assert len(set(offset.tolist())) == 1
            assert (parts[~mask] == 0).all()
            seen += 1
    assert seen > 10
    assert check_instances(dataset, dataset.splits) == []


def test_crowds_have_twin_classes_with_their_mirror_images(folder: Path) -> None:
    dataset = opened(folder, "crowded")
    assert dataset.class_names == tuple(figure.name for figure in TWIN_CLASSES)
    doll = dataset.classes[0]
    assert doll.keypoints is not None
    assert doll.parts is not None
    assert doll.parts.names == ("head", "torso", "left_arm", "right_arm", "left_leg", "right_leg")
    assert doll.parts.flips == (0, 1, 3, 2, 5, 4)
    assert doll.keypoints.flips == (0, 1, 3, 2, 5, 4)
    assert doll.keypoints.skeleton[0] == (0, 1)


def test_labels_are_keyed_by_all_their_files(folder: Path) -> None:
    dataset = opened(folder, "crowded")
    names = {path.name for path in dataset.label_files["train"]}
    assert {"instances_train.json", "parts.json"} < names
    assert len(names) == 2 + len(dataset.split("train"))


def test_a_damaged_table_of_parts_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    write_shapes(tmp_path / "set", images=2, size=64, seed=0, scenery="crowded")
    path = tmp_path / "set" / "parts.json"
    table = json.loads(path.read_text())
    del table["parts_of_class"]["doll"]
    path.write_text(json.dumps(table))
    with pytest.raises(DatasetError, match=r"parts.json: expected the parts of every class, got a damaged file: KeyError"):
        open_instances(InstancesSpec(), shapes_root=tmp_path / "set")
    with pytest.raises(DatasetError, match="kind shapes: expected the data set's folder, got none"):
        open_instances(InstancesSpec())


def test_an_instance_without_a_mask_has_no_parts(tmp_path: Path) -> None:
    write_shapes(tmp_path / "set", images=2, size=64, seed=0, scenery="crowded")
    path = tmp_path / "set" / "annotations" / "instances_train.json"
    data = json.loads(path.read_text())
    del data["annotations"][0]["segmentation"]
    path.write_text(json.dumps(data))
    instance = open_instances(InstancesSpec(), shapes_root=tmp_path / "set").split("train")[0].instances[0]
    assert (instance.mask, instance.parts) == (None, None)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"kind": "coco"}, "expected `root`, the folder of the images, for kind 'coco'"),
        ({"class_names": ("a", "a")}, "class_names: expected distinct names"),
    ],
)
def test_specs_that_cannot_be_are_refused(settings: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        InstancesSpec(**settings)
