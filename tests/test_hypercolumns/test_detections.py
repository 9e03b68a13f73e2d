"""Detections: read from results, made of true boxes, given by torchvision; and results written as COCO reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torchvision.models import get_model

from hypercolumns.box_specs import DetectionsSpec
from hypercolumns.boxes import box_iou
from hypercolumns.datasets.instances import (
    Detections,
    InstanceDataset,
    box_result,
    jittered_detections,
    keypoints_result,
    mask_result,
    open_detections,
    open_instances,
    read_detections,
    results_path,
    suppressed,
    write_object_png,
)
from hypercolumns.datasets.instances.detectors import TorchvisionDetector
from hypercolumns.errors import BackboneError, DatasetError, GeometryError, SpecError, WeightsError
from tests.instances_factory import IMAGE_HW, coco_spec, noise, rectangle, write_coco

GOOD = {"image_id": 7, "category_id": 17, "bbox": [2, 3, 8, 6], "score": 0.5}


@pytest.fixture
def dataset(tmp_path: Path) -> InstanceDataset:
    return open_instances(coco_spec(write_coco(tmp_path / "set")))


def write_results(path: Path, records: Any) -> Path:
    path.write_text(records if isinstance(records, str) else json.dumps(records))
    return path


def test_results_are_read_best_first_for_every_image(dataset: InstanceDataset, tmp_path: Path) -> None:
    records = [GOOD, {**GOOD, "score": 0.9, "category_id": 1}, {**GOOD, "image_id": 9, "bbox": [0, 0, 32.5, 24]}]
    found = read_detections(write_results(tmp_path / "r.json", records), dataset, "train")
    assert list(found) == ["train_a", "train_b"]
    assert found["train_a"].scores.tolist() == [0.9, 0.5]
    assert found["train_a"].labels.tolist() == [1, 0]
    assert found["train_a"].sources.tolist() == [-1, -1]
    assert found["train_b"].boxes_xyxy.tolist() == [[0, 0, 32, 24]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"score": float("nan")}, "plain JSON of finite numbers, got the value NaN"),
        ({"score": None}, "result 2: score: expected a finite number, got None"),
        ({"score": True}, "result 2: score: expected a finite number, got True"),
        ({"image_id": 70}, "result 2: image_id: expected an image of split 'train', got 70"),
        ({"image_id": [7]}, r"result 2: image_id: expected a whole number, got \[7\]"),
        ({"category_id": 99}, "result 2: category_id: expected one of 2 categories of the data set, got 99"),
        ({"bbox": [2, 3, 0, 6]}, "result 2: box: expected finite x0 < x1"),
        ({"bbox": [2, 3, 80, 6]}, "result 2: box: expected one inside the image"),
        ({"bbox": [2, 3, 80]}, "result 2: bbox: expected 4 numbers, got 3"),
    ],
)
def test_wrong_results_are_named_by_file_and_record(
    dataset: InstanceDataset, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    path = write_results(tmp_path / "r.json", [GOOD, {**GOOD, **change}])
    with pytest.raises(DatasetError, match=rf"r.json: {reason}|r.json: expected {reason}"):
        read_detections(path, dataset, "train", all_images=False)
    if "NaN" not in reason:
        assert len(read_detections(path, dataset, "train", all_images=False, skip=True)["train_a"]) == 1


def test_missing_images_truncated_files_and_other_things_are_refused(dataset: InstanceDataset, tmp_path: Path) -> None:
    path = write_results(tmp_path / "r.json", [GOOD])
    with pytest.raises(DatasetError, match=r"results for all 2 images of split 'train', got none for 1: train_b"):
        read_detections(path, dataset, "train")
    assert len(read_detections(path, dataset, "train", all_images=False)["train_b"]) == 0
    with pytest.raises(DatasetError, match="expected a list of results, got something else"):
        read_detections(write_results(path, {"results": []}), dataset, "train")
    with pytest.raises(DatasetError, match="it ends too early"):
        read_detections(write_results(path, json.dumps([GOOD])[:-5]), dataset, "train")


def test_results_of_classes_and_images_that_were_not_chosen_are_passed_over(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "set")
    dataset = open_instances(coco_spec(root, class_names=("person",), limit_train=1))
    records = [GOOD, {**GOOD, "category_id": 1}, {**GOOD, "category_id": 1, "image_id": 9}]
    found = read_detections(write_results(tmp_path / "r.json", records), dataset, "train")
    assert {key: each.labels.tolist() for key, each in found.items()} == {"train_a": [0]}


# --- moved true boxes


def test_moved_boxes_overlap_their_instances_and_name_them(dataset: InstanceDataset) -> None:
    images = dataset.split("train")
    found = jittered_detections(images, copies=20, seed=3)
    own = found["train_a"]
    assert own.sources.tolist() == [0] * 20 + [2] * 20  # the crowd has none
    assert own.labels.tolist() == [0] * 20 + [1] * 20
    for box, source in zip(own.boxes_xyxy, own.sources, strict=True):
        assert 0.7 <= box_iou(box[None], images[0].instances[source].box_xyxy[None])[0, 0] < 1
    assert len(found["train_b"]) == 0
    assert len(np.unique(own.scores)) == 40


def test_moved_boxes_depend_on_seed_and_image_alone(dataset: InstanceDataset) -> None:
    images = dataset.split("train")
    one = jittered_detections(images, seed=3)["train_a"]
    other = jittered_detections(reversed(images[:1]), seed=3)["train_a"]
    np.testing.assert_array_equal(one.boxes_xyxy, other.boxes_xyxy)
    np.testing.assert_array_equal(one.scores, other.scores)
    assert not np.array_equal(one.boxes_xyxy, jittered_detections(images, seed=4)["train_a"].boxes_xyxy)


def test_boxes_that_are_not_moved_are_the_true_ones(dataset: InstanceDataset) -> None:
    found = open_detections(DetectionsSpec(spread=0), dataset, "train")["train_a"]
    assert found.boxes_xyxy.tolist() == [[2, 3, 10.5, 9], [4, 5, 14, 17]]
    with pytest.raises(SpecError, match="at least one copy"):
        jittered_detections(dataset.split("train"), copies=0)


# --- suppression


def random_detections(count: int, seed: int = 0) -> Detections:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 20, (count, 2))
    boxes = np.concatenate([corners, corners + random.uniform(3, 12, (count, 2))], axis=1)
    return Detections(boxes, random.random(count), random.integers(0, 3, count), np.full(count, -1, np.int64))


def test_suppression_goes_class_by_class_best_first() -> None:
    given = random_detections(60)
    kept: list[int] = []
    for number in sorted(range(60), key=lambda place: -given.scores[place]):
        clashes = [
            box_iou(given.boxes_xyxy[[number]], given.boxes_xyxy[[other]])[0, 0] > 0.3
            for other in kept
            if given.labels[other] == given.labels[number]
        ]
        if not any(clashes):
            kept.append(number)
    assert 10 < len(kept) < 60
    np.testing.assert_array_equal(suppressed(given, most_iou=0.3).boxes_xyxy, given.boxes_xyxy[kept])
    assert len(suppressed(given, most_iou=0.3, most_boxes=5)) == 5
    assert suppressed(given, min_score=0.6).scores.min() >= 0.6
    assert len(suppressed(Detections.none())) == 0


def test_detections_of_unequal_lengths_or_without_a_number_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"expected boxes \(n, 4\), scores, labels and sources"):
        Detections(np.zeros((2, 4)), np.zeros(1), np.zeros(2, np.int64), np.zeros(2, np.int64))
    with pytest.raises(GeometryError, match="detection 1: expected a finite score, got nan"):
        Detections(np.zeros((2, 4)), np.array([0, np.nan]), np.zeros(2, np.int64), np.zeros(2, np.int64))


def test_results_opened_by_spec_are_suppressed(
    dataset: InstanceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_results(tmp_path / "boxes_train.json", [GOOD, {**GOOD, "score": 0.4}, {**GOOD, "bbox": [20, 3, 8, 6], "score": 0.01}])
    monkeypatch.setenv("FOLDER", str(tmp_path))
    spec = DetectionsSpec(kind="coco_results", results="$FOLDER/boxes_{split}.json", on_missing_image="empty", min_score=0.1)
    assert results_path(spec, "val") == tmp_path / "boxes_val.json"
    assert open_detections(spec, dataset, "train")["train_a"].scores.tolist() == [0.5]


@pytest.mark.parametrize("kind", ["coco_results", "torchvision"])
def test_a_spec_without_what_its_kind_needs_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"expected `(results|detector)` for kind"):
        DetectionsSpec(kind=kind)


# --- torchvision

NAME = "ssdlite320_mobilenet_v3_large"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "detector.pth"
    torch.manual_seed(0)
    torch.save(get_model(NAME, weights=None, weights_backbone=None, num_classes=4).state_dict(), path)
    return path


def detector_spec(weights: Path, **settings: Any) -> DetectionsSpec:
    given = {"detector": NAME, "weights": str(weights), "detector_classes": ("dog", "person", "cat"), **settings}
    return DetectionsSpec(kind="torchvision", **given)


def test_a_detector_is_loaded_from_a_file_and_gives_the_data_set_s_classes(weights: Path, dataset: InstanceDataset) -> None:
    found = open_detections(detector_spec(weights, most_boxes=7), dataset, "train")["train_a"]
    assert 0 < len(found) <= 7
    assert set(found.labels.tolist()) <= {0, 1}
    model = get_model(NAME, weights=None, weights_backbone=None, num_classes=4)
    model.load_state_dict(torch.load(weights, weights_only=True))
    picture = torch.from_numpy(np.array(Image.open(dataset.split("train")[0].path))).permute(2, 0, 1) / 255
    with torch.inference_mode():
        raw = model.eval()([picture])[0]
    # Its labels 1, 2, 3 are dog, person, cat; the set's classes are cat and person.
    best = raw["scores"][raw["labels"] != 1].max().item()
    assert found.scores[0] == pytest.approx(best)


def test_voc_s_spellings_and_torchvision_s_own_names_are_known(weights: Path, tmp_path: Path) -> None:
    names = ("couch", "tv", "dog")
    one = TorchvisionDetector(detector_spec(weights, detector_classes=names), ("tvmonitor", "sofa"))
    assert set(one(noise(0, (64, 64))).labels.tolist()) <= {0, 1}
    with pytest.raises(WeightsError, match="of another shape"):
        TorchvisionDetector(detector_spec(weights, detector_classes=None), ("person",))


def test_wrong_detectors_and_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    def build(spec: DetectionsSpec, names: tuple[str, ...] = ("cat",)) -> None:
        TorchvisionDetector(spec, names)

    with pytest.raises(BackboneError, match=r"expected a detector of torchvision, got 'yolo'; use one of"):
        build(detector_spec(weights, detector="yolo"))
    with pytest.raises(BackboneError, match="expected a detector of torchvision, got 'keypointrcnn_resnet50_fpn'"):
        build(detector_spec(weights, detector="keypointrcnn_resnet50_fpn", detector_classes=None))
    with pytest.raises(BackboneError, match="expected a class of the data set among dog, person, cat"):
        build(detector_spec(weights), ("unicorn",))
    with pytest.raises(WeightsError, match=r"which is none; correct detections.weights"):
        build(detector_spec(tmp_path / "nowhere.pth"))
    with pytest.raises(WeightsError, match="expected sha256 0000"):
        build(detector_spec(weights, weights_sha256="0" * 64))
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="a file that cannot be read as one"):
        build(detector_spec(damaged))


def test_a_detector_that_gives_no_numbers_is_refused(weights: Path) -> None:
    detector = TorchvisionDetector(detector_spec(weights), ("cat",))
    broken = {"boxes": torch.full((1, 4), torch.nan), "scores": torch.ones(1), "labels": torch.ones(1, dtype=torch.int64)}
    detector._model = lambda pictures: [broken]
    with pytest.raises(BackboneError, match="expected finite boxes and scores from the detector, got others"):
        detector(noise())


# --- written results


def test_written_results_are_read_by_pycocotools(dataset: InstanceDataset, tmp_path: Path) -> None:
    image = dataset.split("train")[0]
    mask = rectangle(3, 4, 12, 20)
    points = np.array([[6.5, 7.5], [np.nan, np.nan], [9.5, 8.5]])
    results = [
        box_result(dataset, image, 0, 0.5, np.array([2, 3, 10, 9])),
        mask_result(dataset, image, 1, 0.25, mask),
        keypoints_result(dataset, image, 1, 0.75, points),
    ]
    for number, result in enumerate(json.loads(json.dumps(results))):
        path = write_results(tmp_path / f"{number}.json", [result])
        loaded = COCO(tmp_path / "set" / "annotations" / "instances_train.json").loadRes(str(path))
        assert loaded.anns[1]["image_id"] == 7
    assert results[0]["bbox"] == [2, 3, 8, 6]
    np.testing.assert_array_equal(coco_mask.area(results[1]["segmentation"]), mask.sum())
    assert [result["category_id"] for result in results] == [17, 1, 1]
    assert results[2]["keypoints"] == [6, 7, 1, 0, 0, 0, 9, 8, 1]


def test_boxes_that_are_written_are_read_again(dataset: InstanceDataset, tmp_path: Path) -> None:
    image = dataset.split("train")[0]
    path = write_results(tmp_path / "r.json", [box_result(dataset, image, 1, 0.5, np.array([2.25, 3, 10, 9]))])
    again = read_detections(path, dataset, "train", all_images=False)["train_a"]
    assert (again.boxes_xyxy.tolist(), again.labels.tolist()) == ([[2.25, 3, 10, 9]], [1])


def test_results_that_do_not_fit_are_not_written(dataset: InstanceDataset, tmp_path: Path) -> None:
    image = dataset.split("train")[0]
    with pytest.raises(DatasetError, match=r"expected a boolean mask of \(24, 32\)"):
        mask_result(dataset, image, 0, 0.5, np.zeros((3, 3), np.bool_))
    with pytest.raises(DatasetError, match="class cat: expected keypoints None, got"):
        keypoints_result(dataset, image, 0, 0.5, np.zeros((3, 2)))
    with pytest.raises(DatasetError, match="image train_a: expected a finite score, got nan"):
        box_result(dataset, image, 0, float("nan"), np.array([2, 3, 10, 9]))
    with pytest.raises(DatasetError, match=r"expected masks of \(24, 32\), got \(3, 3\)"):
        write_object_png(tmp_path / "o.png", [np.zeros((3, 3), np.bool_)], IMAGE_HW)
    with pytest.raises(DatasetError, match="at most 254 masks in one file, got 255"):
        write_object_png(tmp_path / "o.png", [np.zeros(IMAGE_HW, np.bool_)] * 255, IMAGE_HW)
    assert not (tmp_path / "o.png").exists()


def test_object_pngs_number_masks_and_the_best_one_wins(tmp_path: Path) -> None:
    write_object_png(tmp_path / "o.png", [rectangle(3, 4, 12, 20), rectangle(8, 8, 20, 22)], IMAGE_HW)
    with Image.open(tmp_path / "o.png") as picture:
        assert picture.mode == "P"
        values = np.array(picture)
    expected = np.zeros(IMAGE_HW, np.uint8)
    expected[8:22, 8:20] = 2
    expected[4:20, 3:12] = 1
    np.testing.assert_array_equal(values, expected)
