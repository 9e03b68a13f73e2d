"""Masks found and missing, the check before anything is computed, and loading in batches."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hypercolumns.datasets import (
    VOID,
    Dataset,
    TorchSegmentation,
    check_dataset,
    open_dataset,
)
from hypercolumns.errors import ImageError, MaskError
from hypercolumns.specs import CanvasSpec, DatasetSpec
from tests.factories import make_image, make_mask, make_scribbles, save_mask, write_folder, write_voc


def voc(root: Path, **fields: object) -> Dataset:
    return open_dataset(DatasetSpec.model_validate({"kind": "voc", "root": str(root), **fields}))


def folder(root: Path, **fields: object) -> Dataset:
    return open_dataset(DatasetSpec.model_validate({"kind": "folder", "root": str(root), **fields}))


def test_a_missing_mask_is_an_error_only_where_masks_are_needed(tmp_path: Path) -> None:
    write_voc(tmp_path)
    missing = tmp_path / "SegmentationClass" / "train_001.png"
    missing.unlink()
    dataset = voc(tmp_path)
    record = dataset.records("train")[1]
    assert record.mask_path is None
    assert dataset.image(record).shape == (24, 32, 3)
    with pytest.raises(MaskError, match=r"train_001\.png: image 'train_001' has no mask"):
        dataset.mask(record)
    assert [rejection.path for rejection in check_dataset(dataset, ["train"])] == [missing]
    assert check_dataset(dataset, ["train"], need_masks=False) == []


@pytest.mark.parametrize("kind", ["voc", "folder"])
def test_a_set_without_any_masks_can_be_read(tmp_path: Path, kind: str) -> None:
    (write_voc if kind == "voc" else write_folder)(tmp_path)
    shutil.rmtree(tmp_path / ("SegmentationClass" if kind == "voc" else "masks"))
    dataset = open_dataset(DatasetSpec.model_validate({"kind": kind, "root": str(tmp_path)}))
    assert check_dataset(dataset, ["train", "val"], need_masks=False) == []
    rejections = check_dataset(dataset, ["train"])
    assert len(rejections) == 3
    assert all("has no mask" in rejection.reason for rejection in rejections)


def test_the_check_names_every_bad_file_in_order_and_no_good_one(tmp_path: Path) -> None:
    write_voc(tmp_path, splits={"train": 6, "val": 2})
    images, masks = tmp_path / "JPEGImages", tmp_path / "SegmentationClass"
    (images / "train_000.jpg").write_bytes((images / "train_000.jpg").read_bytes()[:-200])
    (images / "train_002.jpg").unlink()
    save_mask(masks / "train_003.png", make_mask((24, 31)))
    save_mask(masks / "train_005.png", np.full((24, 32), 9, dtype=np.uint8))
    (images / "val_001.jpg").write_bytes(b"")
    rejections = check_dataset(voc(tmp_path), ["train", "val"])
    assert [(item.split, item.image_id, item.path) for item in rejections] == [
        ("train", "train_000", images / "train_000.jpg"),
        ("train", "train_002", images / "train_002.jpg"),
        ("train", "train_003", masks / "train_003.png"),
        ("train", "train_005", masks / "train_005.png"),
        ("val", "val_001", images / "val_001.jpg"),
    ]
    assert [item.reason.split(":")[0] for item in rejections] == [
        "cannot be read",
        "the file does not exist",
        "the mask is 24 high and 31 wide, its image 24 high and 32 wide",
        "unknown label 9 (768 pixels); expected 0 to 3, or 255 for void",
        "the file is empty (0 bytes)",
    ]
    assert all(item.remedy for item in rejections)


def test_masks_belong_to_the_upright_image(tmp_path: Path) -> None:
    write_folder(tmp_path)
    mask = make_mask((24, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = np.rot90(make_image(mask), k=1)
    Image.fromarray(np.ascontiguousarray(sideways)).save(tmp_path / "images" / "train" / "000.png", exif=exif)
    save_mask(tmp_path / "masks" / "train" / "000.png", mask)
    dataset = folder(tmp_path)
    record = dataset.records("train")[0]
    np.testing.assert_array_equal(dataset.image(record), make_image(mask))
    np.testing.assert_array_equal(dataset.mask(record), mask)
    save_mask(tmp_path / "masks" / "train" / "000.png", np.ascontiguousarray(np.rot90(mask)))
    with pytest.raises(MaskError, match=r"once its EXIF orientation is applied.*turn the mask"):
        dataset.mask(record)


def test_the_limit_on_megapixels_is_the_specs(tmp_path: Path) -> None:
    write_folder(tmp_path)
    dataset = folder(tmp_path, max_megapixels=0.0005)
    with pytest.raises(ImageError, match=r"more than the limit of 0\.0005"):
        dataset.image(dataset.records("train")[0])


def test_a_data_loader_gets_batches_from_several_workers(tmp_path: Path) -> None:
    write_voc(tmp_path, splits={"train": 4})
    spec = DatasetSpec(kind="voc", root=str(tmp_path))
    items = TorchSegmentation(spec, "train", canvas=CanvasSpec(size_hw=(32, 32)))
    assert len(items) == 4
    # Spawned: a fork of this process would inherit the threads of whatever tests ran before.
    loader = torch.utils.data.DataLoader(items, batch_size=2, num_workers=2, multiprocessing_context="spawn")
    images, labels, indices = next(iter(loader))
    for worker_made, own in zip((images[1], labels[1], indices[1]), items[1], strict=True):
        assert torch.equal(worker_made, torch.as_tensor(own))
    assert images.shape == (2, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert labels.shape == (2, 32, 32)
    assert labels.dtype == torch.int64
    assert indices.tolist() == [0, 1]
    assert (labels[:, :4] == VOID).all()
    np.testing.assert_array_equal(labels[1, 4:28].numpy(), items.dataset.mask(items.records[1]))


def test_items_keep_their_own_size_without_a_canvas_and_travel_to_workers(tmp_path: Path) -> None:
    write_folder(tmp_path)
    scribbles = make_scribbles(make_mask())
    save_mask(tmp_path / "masks" / "train" / "001.png", scribbles)
    (tmp_path / "masks" / "train" / "002.png").unlink()
    items = TorchSegmentation(DatasetSpec(kind="folder", root=str(tmp_path)), "train")
    travelled = pickle.loads(pickle.dumps(items))
    for index in range(3):
        for ours, theirs in zip(items[index], travelled[index], strict=True):
            assert torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs))
    image, labels, _ = travelled[1]
    assert image.shape == (3, 24, 32)
    np.testing.assert_array_equal(labels.numpy(), scribbles)
    assert (travelled[2][1] == VOID).all()
    assert travelled.records == items.records
