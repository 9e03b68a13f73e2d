"""What bad input gets: a message that names file, value and remedy, before anything is computed."""

import json
import shutil
from collections import namedtuple

import numpy as np
import pytest
from PIL import Image

from hypercolumns.errors import DatasetError, LayerNotFoundError, SamplingError, WeightsError
from storage.errors import DiskSpaceError
from tasks.jobs import Job
from tasks.manifests import load_manifest
from tasks.plan import check_plan, plan_extraction
from tasks.prepare import prepare_dataset
from tasks.record import begin_run
from tests.factories import make_image, make_mask, make_scribbles, save_image, save_mask
from tests.pipeline_factory import LAYERS, extract_only, run_tasks, tiny_spec


def nothing_was_computed(workspace):
    return not any(workspace.rglob("c.*")) and not any(workspace.glob("samples/*")) and not any(workspace.glob("models/*"))


def spoil(data, *names):
    """Cut some training images short."""
    for name in names:
        path = data / "images" / "train" / f"{name}.png"
        path.write_bytes(path.read_bytes()[:200])


def test_a_truncated_image_stops_the_run_before_anything_is_computed_and_is_listed(data, workspace):
    spoil(data, "001", "004")
    job = begin_run(tiny_spec(data), workspace)
    with pytest.raises(DatasetError, match=r"2 files cannot be used: .*001\.png.*004\.png.*on_bad_image=skip"):
        prepare_dataset(job)
    listed = json.loads((job.run_dir / "rejected.json").read_text(encoding="utf-8"))
    assert [(entry["split"], entry["image_id"]) for entry in listed] == [("train", "train/001"), ("train", "train/004")]
    assert all(entry["reason"] for entry in listed)
    assert nothing_was_computed(workspace)
    assert not list(workspace.glob("datasets/*[0-9a-f].json")), "no manifest of a refused data set may be found later"


def test_more_bad_files_than_fit_a_message_are_counted_in_it_and_all_listed(data, workspace):
    spoil(data, *(f"{number:03d}" for number in range(6)))
    with pytest.raises(DatasetError, match=r"6 files cannot be used: .* and 1 more"):
        extract_only(tiny_spec(data), workspace)
    assert len(json.loads((workspace / "datasets" / "rejected.json").read_text(encoding="utf-8"))) == 6


def test_skipping_bad_images_goes_on_without_them_lists_them_and_the_report_says_so(data, workspace):
    spoil(data, "001")
    (data / "images" / "val" / "002.png").write_bytes(b"")
    outcome = run_tasks(tiny_spec(data, dataset__on_bad_image="skip"), workspace)
    assert outcome.prepared.images == {"train": 5, "val": 2}
    assert outcome.prepared.rejected == 2
    assert outcome.misses == dict.fromkeys(LAYERS, 7)
    listed = json.loads((workspace / "datasets" / "rejected.json").read_text(encoding="utf-8"))
    assert {entry["image_id"] for entry in listed} == {"train/001", "val/002"}
    assert "2 files were left out (see rejected.json)" in outcome.report().path.read_text(encoding="utf-8")


def test_an_image_that_was_repaired_is_extracted_then_and_nothing_else(data, workspace):
    whole = (data / "images" / "train" / "001.png").read_bytes()
    spoil(data, "001")
    spec = tiny_spec(data, dataset__on_bad_image="skip")
    assert extract_only(spec, workspace).images_computed == 8
    (data / "images" / "train" / "001.png").write_bytes(whole)
    assert extract_only(spec, workspace).images_computed == 1


def test_a_split_without_one_usable_image_is_an_error_even_when_bad_images_are_skipped(data, workspace):
    for path in (data / "images" / "val").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DatasetError, match="split 'val': expected at least one usable image, got none out of 3"):
        extract_only(tiny_spec(data, dataset__on_bad_image="skip"), workspace)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (make_mask((48, 63)), r"000\.png: the mask is 48 high and 63 wide, its image 48 high and 64 wide.*Remedy"),
        (np.full((48, 64), 9, np.uint8), r"000\.png: unknown label 9 \(3072 pixels\); expected 0 to 3.*Remedy"),
        (np.zeros((48, 64, 3), np.uint8), r"000\.png: mode RGB: the pixels are colours.*Remedy"),
        (None, r"000\.png: image 'train/000' has no mask.*Remedy"),
    ],
)
def test_a_bad_mask_is_named_with_its_value_and_the_remedy_before_extraction(data, workspace, mask, message):
    path = data / "masks" / "train" / "000.png"
    path.unlink()
    if mask is not None:
        Image.fromarray(mask).save(path)
    with pytest.raises(DatasetError, match=message):
        run_tasks(tiny_spec(data), workspace)
    assert nothing_was_computed(workspace)


def test_an_unknown_layer_is_refused_with_the_nearest_names(data, workspace):
    with pytest.raises(LayerNotFoundError, match=r"features\.12\.cat"):
        extract_only(tiny_spec(data, backbone__layers=["features.12.act"]), workspace)
    assert nothing_was_computed(workspace)


def test_a_head_that_reads_a_layer_the_backbone_does_not_give_is_refused(data, workspace):
    with pytest.raises(LayerNotFoundError, match=r"features\.12\.cat"):
        run_tasks(tiny_spec(data, head__layers=["features.12.cat"]), workspace)


def test_weights_that_are_not_what_their_digest_says_are_refused_and_nothing_is_extracted(data, workspace, tmp_path):
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"tampered with")
    with pytest.raises(WeightsError, match="0000"):
        extract_only(tiny_spec(data, backbone__weights=str(weights), backbone__weights_sha256="0" * 64), workspace)
    assert nothing_was_computed(workspace)


def test_missing_weights_are_named(data, workspace, tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere\.pth"):
        extract_only(tiny_spec(data, backbone__weights=str(tmp_path / "nowhere.pth")), workspace)


Usage = namedtuple("Usage", "total used free")


def test_a_disk_that_would_not_hold_the_maps_is_refused_before_anything_is_computed(data, workspace, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 100_000, 100_000))
    with pytest.raises(DiskSpaceError, match=r"extraction needs .* for 9 images, 0\.00 GB are free; nothing was computed"):
        run_tasks(tiny_spec(data), workspace)
    assert nothing_was_computed(workspace)


def test_a_full_disk_does_not_stop_a_run_whose_maps_are_all_there(data, workspace, monkeypatch):
    extract_only(tiny_spec(data), workspace)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 0))
    job = Job(spec=tiny_spec(data), workspace=workspace)
    planned = check_plan(job, prepare_dataset(job))
    assert (planned.missing, planned.bytes_needed, planned.fits) == (0, 0, True)


def test_the_plan_says_how_many_bytes_are_written(data, workspace):
    job = Job(spec=tiny_spec(data), workspace=workspace)
    planned = plan_extraction(job, prepare_dataset(job), seconds=0.05)
    assert (planned.images, planned.missing) == (9, 9)
    assert planned.eta_seconds > 0
    assert planned.forward_seconds_per_image > 0
    assert planned.extract_seconds_per_image > 0
    assert planned.read_seconds_per_image > 0
    assert planned.break_even_passes is None or planned.break_even_passes >= 1
    assert planned.recommends in ("store", "recompute")
    assert not list(workspace.rglob("trial-*")), "what was tried out is gone"
    extracted = extract_only(tiny_spec(data), workspace)
    # Each layer has its zarr.json beside the shards.
    assert 0 <= sum(extracted.layer_bytes.values()) - planned.bytes_needed < 2000 * len(LAYERS)
    assert plan_extraction(job, prepare_dataset(job)).advice.startswith("everything is in store")


def test_an_image_whose_mask_is_all_void_is_extracted_and_taken_along_unlabelled(data, workspace):
    save_mask(data / "masks" / "train" / "003.png", np.full((48, 64), 255, np.uint8))
    outcome = run_tasks(tiny_spec(data), workspace)
    assert outcome.misses == dict.fromkeys(LAYERS, 9)
    assert load_manifest(outcome.prepared.path).splits["train"][3].class_pixels == (0, 0, 0, 0)
    assert outcome.evaluated.metrics["mean_iu"] > 0


def test_a_training_set_that_is_void_everywhere_is_an_error_that_says_where_to_look(data, workspace):
    for path in (data / "masks" / "train").iterdir():
        save_mask(path, np.full((48, 64), 255, np.uint8))
    with pytest.raises(SamplingError, match=r"got only void; check dataset\.void_label"):
        run_tasks(tiny_spec(data), workspace)
    assert not list(workspace.glob("samples/*.h5"))


def test_scribbled_masks_train_and_score_on_their_scribbles_alone(tmp_path, workspace):
    root, kept = tmp_path / "data", 0
    for split, count in (("train", 5), ("val", 2)):
        for number in range(count):
            mask = make_mask((64, 64), seed=number + (50 if split == "val" else 0))
            scribbles = make_scribbles(mask, seed=number)
            save_image(root / "images" / split / f"{number}.png", make_image(mask, seed=number))
            save_mask(root / "masks" / split / f"{number}.png", scribbles)
            kept += int((scribbles != 255).sum()) if split == "val" else 0
    (root / "classes.txt").write_text("ground\nbox\ndisc\nstripe\n", encoding="utf-8")
    outcome = run_tasks(tiny_spec(root, sample__pixels_per_class=50), workspace)
    assert sum(outcome.evaluated.metrics["per_class_pixels"].values()) == kept
    assert outcome.evaluated.metrics["mean_iu"] > 0


def test_odd_unicode_names_and_spaces_are_just_names(data, workspace):
    for kind in ("images", "masks"):
        (data / kind / "train" / "000.png").rename(data / kind / "train" / "ångström 漢字 'x' & y.png")
    outcome = run_tasks(tiny_spec(data), workspace)
    assert outcome.prepared.images["train"] == 6


def test_a_link_that_leads_out_of_the_data_set_is_refused(data, workspace, tmp_path):
    outside = save_image(tmp_path / "outside.png", make_image(make_mask((48, 64))))
    link = data / "images" / "train" / "000.png"
    link.unlink()
    link.symlink_to(outside)
    with pytest.raises(DatasetError, match="outside the data set's folder"):
        extract_only(tiny_spec(data), workspace)


def test_a_link_to_nothing_is_listed_as_a_bad_image(data, workspace):
    link = data / "images" / "train" / "000.png"
    link.unlink()
    link.symlink_to(data / "images" / "train" / "gone.dat")
    with pytest.raises(DatasetError, match=r"1 files cannot be used: .*000\.png"):
        extract_only(tiny_spec(data), workspace)
    assert extract_only(tiny_spec(data, dataset__on_bad_image="skip"), workspace).images_computed == 8
