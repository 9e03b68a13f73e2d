"""Files that change between being listed, looked at and used: nothing is made from other bytes than those it is named by."""

from __future__ import annotations

import numpy as np
import pytest

import tasks.prepare
from hypercolumns.datasets import decode_image
from hypercolumns.datasets.masks import decode_mask
from hypercolumns.errors import DatasetError, ImageError, MaskError
from storage.features import FeatureStore
from tasks.extract import extract_features
from tasks.jobs import Job
from tasks.manifests import load_manifest
from tasks.prepare import prepare_dataset
from tests.factories import make_image, make_mask, save_image, save_mask, write_folder
from tests.pipeline_factory import LAYERS, run_tasks, tiny_spec

HW = (48, 64)


@pytest.fixture
def data(tmp_path):
    return write_folder(tmp_path / "data", splits={"train": 3, "val": 1}, image_hw=HW)


@pytest.fixture
def workspace(tmp_path):
    return tmp_path / "workspace"


def changed(data):
    """Replace an image by another sound one."""
    save_image(data / "images" / "train" / "001.png", make_image(make_mask(HW, seed=77), seed=77))


def appended(data):
    with (data / "images" / "train" / "001.png").open("ab") as stream:
        stream.write(b"more")


def truncated(data):
    path = data / "images" / "train" / "001.png"
    path.write_bytes(path.read_bytes()[:300])


def removed(data):
    (data / "images" / "train" / "001.png").unlink()


def relabelled(data):
    save_mask(data / "masks" / "train" / "001.png", make_mask(HW, seed=77))


@pytest.mark.parametrize("mode", ["fail", "skip"])
@pytest.mark.parametrize("harm", [changed, appended, truncated, removed, relabelled])
def test_a_file_that_changes_while_the_data_set_is_read_is_named_and_nothing_is_kept(data, workspace, monkeypatch, harm, mode):
    check = tasks.prepare.check_dataset

    def late(*arguments):
        harm(data)
        return check(*arguments)

    monkeypatch.setattr(tasks.prepare, "check_dataset", late)
    job = Job(spec=tiny_spec(data, dataset__on_bad_image=mode), workspace=workspace)
    with pytest.raises(DatasetError, match=r"(changed while they were read|cannot be used): .*001\.png.*Remedy"):
        prepare_dataset(job)
    assert [path.name for path in workspace.rglob("*") if path.is_file() and path.name != "rejected.json"] == []
    monkeypatch.undo()
    images = {"train": 2 if harm in (truncated, removed) and mode == "skip" else 3, "val": 1}
    if harm is truncated and mode == "fail":
        with pytest.raises(DatasetError, match="cannot be used"):
            prepare_dataset(job)
    else:
        images |= {"train": 2} if harm is removed else {}
        assert prepare_dataset(job).images == images


@pytest.mark.parametrize("harm", [changed, appended, truncated, removed])
def test_an_image_that_changes_before_it_is_extracted_is_refused_and_never_stored_under_its_old_name(data, workspace, harm):
    job = Job(spec=tiny_spec(data, store__shard_images=1), workspace=workspace)
    prepared = prepare_dataset(job)
    entry = load_manifest(prepared.path).splits["train"][1]
    harm(data)
    with pytest.raises(ImageError, match=r"001\.png: .*Remedy"):
        extract_features(job, prepared)
    for folder in (workspace / "stores").iterdir():
        store = FeatureStore.open(folder)
        assert store.missing([f"{entry.image_sha256}:identity"], LAYERS)
        assert store.verify() == []
    job_again = Job(spec=tiny_spec(data, store__shard_images=1, dataset__on_bad_image="skip"), workspace=workspace)
    again = prepare_dataset(job_again)
    extract_features(job_again, again)


def test_a_mask_that_changes_after_the_data_set_was_read_is_refused(data, workspace, monkeypatch):
    extract = tasks.extract.extract_features

    def late(job, prepared):
        extracted = extract(job, prepared)
        relabelled(data)
        return extracted

    monkeypatch.setattr("tests.pipeline_factory.extract_features", late)
    with pytest.raises(MaskError, match=r"001\.png: the file has changed since the data set was read.*run again"):
        run_tasks(tiny_spec(data), workspace)
    assert not list(workspace.glob("samples/*"))
    monkeypatch.undo()
    assert run_tasks(tiny_spec(data), workspace).evaluated.metrics["mean_iu"] >= 0


def test_the_bytes_that_a_digest_names_are_taken_and_others_are_not(data):
    image, mask = data / "images" / "train" / "000.png", data / "masks" / "train" / "000.png"
    from hypercolumns.datasets import image_sha256

    plain = decode_image(image)
    np.testing.assert_array_equal(decode_image(image, sha256=image_sha256(image)), plain)
    labels = decode_mask(mask, image_hw=HW, classes=4)
    np.testing.assert_array_equal(decode_mask(mask, image_hw=HW, classes=4, sha256=image_sha256(mask)), labels)
    with pytest.raises(ImageError, match="has changed"):
        decode_image(image, sha256="0" * 64)
    with pytest.raises(MaskError, match="has changed"):
        decode_mask(mask, image_hw=HW, classes=4, sha256="0" * 64)
