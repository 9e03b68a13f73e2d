"""What the checks find in data that changed since the champion was trained, and what they do about it."""

import shutil

import numpy as np
import pytest
from PIL import Image

from hypercolumns.errors import DatasetError
from hypercolumns.nights import ChecksSpec
from tasks.data_checks import check_data
from tasks.jobs import Job
from tasks.prepare import prepare_dataset
from tests.factories import save_image, save_mask
from tests.pipeline_factory import read_picture, tiny_spec

QUIET = ChecksSpec(class_vanished="off", new_class="off", label_drift="off", duplicates="off", near_duplicates="off")


@pytest.fixture
def before(data, workspace):
    """The manifest of the champion: the data as they were."""
    return prepare_dataset(Job(spec=tiny_spec(data), workspace=workspace)).path


def findings(data, workspace, former, spec):
    job = Job(spec=tiny_spec(data), workspace=workspace)
    return {found.check: found for found in check_data(job, prepare_dataset(job), former, spec).findings}


def relabel(data, change):
    for path in (data / "masks" / "train").iterdir():
        save_mask(path, change(read_picture(path)))


def test_data_as_they_were_are_found_in_order(data, workspace, before):
    assert findings(data, workspace, before, ChecksSpec()) == {}
    assert findings(data, workspace, None, ChecksSpec()) == {}


def test_a_class_that_vanished_stops_by_default_and_warns_if_asked(data, workspace, before, caplog):
    relabel(data, lambda mask: np.where(mask == 2, 255, mask).astype(np.uint8))
    with pytest.raises(DatasetError, match=r"no labelled train pixel any more of disc \(had \d+ pixels\).*Nothing was trained"):
        findings(data, workspace, before, ChecksSpec())
    found = findings(data, workspace, before, ChecksSpec(class_vanished="warn"))
    assert found["class_vanished"].reaction == "warn"
    assert "data check class_vanished" in caplog.text
    assert findings(data, workspace, before, QUIET) == {}


def test_a_class_that_is_taken_off_the_list_vanished_too_and_a_renamed_one_is_new(data, workspace, before):
    (data / "classes.txt").write_text("ground\nbox\ndisc\nweed\n", encoding="utf-8")
    found = findings(data, workspace, before, ChecksSpec(class_vanished="warn"))
    assert "stripe (had " in found["class_vanished"].message
    assert "weed (" in found["new_class"].message


def test_labels_that_drift_are_measured_by_the_share_that_moved(data, workspace, before):
    relabel(data, lambda mask: np.where(mask == 0, 1, mask).astype(np.uint8))
    found = findings(data, workspace, before, ChecksSpec(class_vanished="warn", label_drift="warn"))
    message = found["label_drift"].message
    assert message.count("points") == 3
    assert "ground -" in message
    assert "box +" in message
    assert "label_drift" not in findings(data, workspace, before, ChecksSpec(class_vanished="warn", max_label_drift=1.0))


def test_data_without_any_labelled_pixel_drift_nowhere(data, workspace, before):
    relabel(data, lambda mask: np.full_like(mask, 255))
    assert set(findings(data, workspace, before, ChecksSpec(class_vanished="warn"))) == {"class_vanished"}


def test_an_image_in_both_splits_is_a_leak_whatever_it_is_called(data, workspace, before):
    shutil.copy(data / "images" / "train" / "002.png", data / "images" / "val" / "other-name.png")
    shutil.copy(data / "masks" / "train" / "002.png", data / "masks" / "val" / "other-name.png")
    with pytest.raises(DatasetError, match=r"1 images are in train and in val: train/002 = val/other-name"):
        findings(data, workspace, before, ChecksSpec())
    found = findings(data, workspace, before, ChecksSpec(duplicates="warn"))
    assert set(found) == {"duplicates"}, "the same bytes are no look-alike as well"


def test_a_val_image_that_the_champion_learned_from_is_a_leak_too(data, workspace, before):
    for kind in ("images", "masks"):
        (data / kind / "train" / "004.png").rename(data / kind / "val" / "moved.png")
    found = findings(data, workspace, before, ChecksSpec(duplicates="warn"))
    assert "1 val images are among those that the champion learned from" in found["duplicates"].message
    assert findings(data, workspace, None, ChecksSpec()) == {}


def test_a_val_image_that_looks_like_a_train_image_is_named(data, workspace, before):
    picture = read_picture(data / "images" / "train" / "003.png")
    save_image(data / "images" / "val" / "again.jpg", picture)
    shutil.copy(data / "masks" / "train" / "003.png", data / "masks" / "val" / "again.png")
    found = findings(data, workspace, before, ChecksSpec())
    assert found["near_duplicates"].message == "1 pairs of a train and a val image look alike: train/003 ~ val/again"


def test_hashes_are_reckoned_once_an_image_and_a_spoilt_cache_is_reckoned_anew(data, workspace, before, monkeypatch):
    findings(data, workspace, before, ChecksSpec())
    cache = workspace / "datasets" / "lookalikes.json"
    kept = cache.read_bytes()
    with Image.open(data / "images" / "train" / "000.png") as image:
        assert image.size == (64, 48)

    def never(image):
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr("tasks.data_checks.difference_hash", never)
        findings(data, workspace, before, ChecksSpec())
    for spoilt in (b"{", b'{"' + b"0" * 64 + b'": "x"}'):
        cache.write_bytes(spoilt)
        findings(data, workspace, before, ChecksSpec())
        assert cache.read_bytes() == kept
