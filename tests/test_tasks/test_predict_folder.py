"""A watched folder: every content once, with the champion; nothing half, nothing twice, bad files named."""

import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from hypercolumns.errors import DatasetError, SpecError
from storage.champions import Champion, promote, read_line
from storage.ledger import LEDGER_NAME
from storage.record_log import read_entries
from tasks.predict import predict_images
from tasks.predict_folder import predict_watched_folder
from tests.factories import make_image, make_mask, save_image, write_folder
from tests.pipeline_factory import python, python_environment, read_picture, run_tasks, tiny_spec

LINE = "tiny"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A workspace with two models; tests may promote in copies of it."""
    folder = tmp_path_factory.mktemp("models")
    data = write_folder(folder / "data", splits={"train": 4, "val": 2}, image_hw=(48, 64))
    return [run_tasks(tiny_spec(data, train__epochs=epochs), folder / "workspace") for epochs in (1, 2)]


@pytest.fixture
def places(models, tmp_path):
    shutil.copytree(models[0].job.workspace / "models", tmp_path / "w" / "models")
    place = type(models[0].job.places)(tmp_path / "w")
    promote(place, LINE, Champion("run", models[0].trained.key), {}, who="night", expected=None)
    return place


def put(folder, name, seed):
    path = save_image(folder / name, make_image(make_mask((40, 56), seed=seed), seed=seed))
    return settle(path)


def settle(path, seconds=60):
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


@pytest.fixture
def inbox(tmp_path):
    for number in range(3):
        put(tmp_path / "inbox", f"{number}.png", number)
    return tmp_path / "inbox"


def predict(places, inbox, **options):
    return predict_watched_folder(places, LINE, inbox, inbox.parent / "masks", **options)


def masks_in(inbox):
    return sorted(path.name for path in (inbox.parent / "masks").glob("*.png"))


def test_masks_are_those_of_the_predict_command_and_are_made_once(places, inbox, models, monkeypatch):
    first = predict(places, inbox)
    assert (len(first.masks), first.known, first.rejected, first.waiting) == (3, 0, {}, 0)
    expected = predict_images(models[0].trained.path, sorted(inbox.glob("*.png")), inbox.parent / "plain")
    for mask, plain in zip(first.masks, expected.masks, strict=True):
        np.testing.assert_array_equal(read_picture(mask), read_picture(plain))
        assert mask.read_bytes() == plain.read_bytes()

    def never(path):
        raise AssertionError("the model was loaded for nothing")

    monkeypatch.setattr("tasks.predict_folder.Predictor", never)
    again = predict(places, inbox)
    assert (again.masks, again.known) == ((), 3)


def test_a_content_is_labelled_once_whatever_it_is_called_and_a_name_may_get_a_new_content(places, inbox):
    shutil.copy2(inbox / "1.png", inbox / "copy of 1.png")
    first = predict(places, inbox)
    assert (len(first.masks), first.known) == (3, 1)
    (inbox / "2.png").rename(inbox / "renamed.png")
    (inbox / "deep").mkdir()
    put(inbox / "deep", "2.png", 77)
    put(inbox, "0.png", 78)
    second = predict(places, inbox)
    assert (len(second.masks), second.known) == (2, 3)
    names = masks_in(inbox)
    assert len(names) == 5
    assert sorted(name.split(".")[0] for name in names) == ["0", "0", "1", "2", "2"]


def test_another_champion_labels_again_only_when_asked(places, inbox, models):
    before = predict(places, inbox).masks
    old = {mask.name: mask.read_bytes() for mask in before}
    promote(places, LINE, Champion("run", models[1].trained.key), {}, who="night", expected=models[0].trained.key)
    assert predict(places, inbox).masks == ()
    anew = predict(places, inbox, again=True)
    assert [mask.name for mask in anew.masks] == [mask.name for mask in before], "replaced, not doubled"
    assert any(old[mask.name] != mask.read_bytes() for mask in anew.masks)
    assert predict(places, inbox, again=True).masks == (), "by this champion they are labelled now"
    assert anew.model == read_line(places, LINE).model


def test_a_mask_that_was_taken_away_is_not_made_again(places, inbox):
    for mask in predict(places, inbox).masks:
        mask.unlink()
    assert predict(places, inbox).masks == ()


def test_files_that_are_still_being_written_wait_and_hidden_ones_are_left_alone(places, inbox):
    settle(inbox / "1.png", seconds=1)
    put(inbox, ".upload.png", 9)
    put(inbox / ".cache", "x.png", 9)
    (inbox / "notes.txt").write_text("not an image")
    found = predict(places, inbox)
    assert (len(found.masks), found.waiting) == (2, 1)
    assert len(predict(places, inbox, settle_seconds=0.0).masks) == 1


def test_a_file_that_is_no_image_is_named_once_and_not_looked_at_again(places, inbox):
    (inbox / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    settle(inbox / "bad.png")
    found = predict(places, inbox)
    assert len(found.masks) == 3
    assert list(found.rejected) == [str(inbox / "bad.png")]
    again = predict(places, inbox)
    assert (again.rejected, again.known) == ({}, 4)
    put(inbox, "bad.png", 5)
    assert len(predict(places, inbox).masks) == 1, "repaired, it has another content"


def test_a_file_that_changes_while_it_is_read_is_left_for_the_next_time(places, inbox, monkeypatch):
    from tasks import predict_folder

    digest = predict_folder.image_sha256
    seen = []

    def changing(path):
        value = digest(path)
        if path.name == "1.png" and not seen:
            seen.append(value)
            put(inbox, "1.png", 50)
        return value

    monkeypatch.setattr(predict_folder, "image_sha256", changing)
    found = predict(places, inbox)
    assert (len(found.masks), found.waiting, found.rejected) == (2, 1, {})
    assert len(predict(places, inbox).masks) == 1


def test_a_file_that_is_gone_before_it_is_read_is_named(places, inbox, monkeypatch):
    from tasks import predict_folder

    digest = predict_folder.image_sha256

    def gone(path):
        if path.name == "1.png":
            path.unlink(missing_ok=True)
        return digest(path)

    monkeypatch.setattr(predict_folder, "image_sha256", gone)
    assert list(predict(places, inbox).rejected) == [str(inbox / "1.png")]


def test_masks_inside_the_watched_folder_are_not_taken_for_images(places, inbox):
    for expected in (3, 0):
        found = predict_watched_folder(places, LINE, inbox, inbox / "masks")
        assert len(found.masks) == expected


def test_names_that_are_long_or_no_utf_8_get_masks(places, tmp_path):
    folder = tmp_path / "odd"
    put(folder, "ü" * 120 + ".png", 1)
    put(folder, os.fsdecode(b"caf\xe9.png"), 2)
    put(folder, "<script>.png", 3)
    found = predict_watched_folder(places, LINE, folder, tmp_path / "masks")
    assert len(found.masks) == 3
    assert all(mask.is_file() for mask in found.masks)
    assert predict_watched_folder(places, LINE, folder, tmp_path / "masks").known == 3


def test_without_a_champion_a_folder_or_a_place_for_masks_nothing_is_written(places, inbox):
    with pytest.raises(SpecError, match="line 'other': expected a champion"):
        predict_watched_folder(places, "other", inbox, inbox.parent / "masks")
    with pytest.raises(DatasetError, match="expected a folder of images, found none"):
        predict_watched_folder(places, LINE, inbox / "0.png", inbox.parent / "masks")
    for out in (inbox, inbox.parent):
        with pytest.raises(DatasetError, match="that the images are not in"):
            predict_watched_folder(places, LINE, inbox, out)
    assert not (inbox.parent / "masks").exists()


def test_killed_at_any_moment_and_started_again_it_labels_every_content_exactly_once(places, inbox):
    for number in range(3, 12):
        put(inbox, f"{number}.png", number)
    out = inbox.parent / "masks"
    code = """
import sys
from pathlib import Path
import torch
from storage.workspace import Workspace
from tasks.predict_folder import predict_watched_folder
torch.set_num_threads(1)
predict_watched_folder(Workspace(Path(sys.argv[1])), "tiny", Path(sys.argv[2]), Path(sys.argv[3]))
"""
    command = python(code, str(places.root), str(inbox), str(out))
    for wanted in (1, 4, 7):
        child = subprocess.Popen(command, env=python_environment(), stderr=subprocess.DEVNULL)
        while len(list(out.glob("*.png"))) < wanted and child.poll() is None:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
        for mask in out.glob("*.png"):
            assert read_picture(mask).shape == (40, 56), "whole, or not there"
    done = predict(places, inbox)
    assert len(done.masks) + done.known == 12
    entries = [entry for entry in read_entries(out / LEDGER_NAME)[0] if entry.kind == "predicted"]
    assert len({entry.data["sha256"] for entry in entries}) == len(entries) == 12
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == sorted(
        e.data["mask"] for e in entries
    )
