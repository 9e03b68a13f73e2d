"""Prediction: masks and overlays for files, folders and globs, at each image's own size, with the model of a run."""

import json

import numpy as np
import pytest
from PIL import Image

from hypercolumns.errors import DatasetError, ImageError, SpecError
from tasks.evaluate import load_evaluation
from tasks.predict import find_images, find_model, predict_images
from tasks.record import begin_run, fail_run, finish_run, note_stage
from tests.factories import make_image, make_mask, save_image
from tests.pipeline_factory import read_picture


@pytest.fixture
def pictures(tmp_path):
    """Two folders with images of different sizes and a clashing name, and a file that is no image."""
    folder = tmp_path / "pictures"
    save_image(folder / "wide.jpg", make_image(make_mask((30, 90))))
    save_image(folder / "a" / "same.png", make_image(make_mask((80, 40)), seed=1))
    save_image(folder / "b" / "same.png", make_image(make_mask((64, 64)), seed=2))
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    return folder


def test_files_folders_and_globs_are_expanded_in_order_and_each_image_once(pictures):
    wide, first, second = pictures / "wide.jpg", pictures / "a" / "same.png", pictures / "b" / "same.png"
    assert find_images([str(pictures)]) == [first, second, wide]
    assert find_images([str(pictures / "*" / "*.png")]) == [first, second]
    assert find_images([str(pictures / "**" / "*.jpg")]) == [wide]
    assert find_images([str(wide), str(pictures), str(wide)]) == [wide, first, second]


@pytest.mark.parametrize("pattern", ["nothing/*.png", "missing.jpg", "empty"])
def test_a_pattern_that_matches_nothing_is_an_error_that_repeats_it(tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=rf"got '{pattern.replace('*', '.')}'"):
        find_images([pattern])


def test_masks_have_the_image_s_own_size_the_palette_and_only_known_labels(outcome, pictures, tmp_path):
    images = find_images([str(pictures)])
    predicted = predict_images(outcome.trained.path, images, tmp_path / "out")
    assert len(predicted.masks) == len(predicted.overlays) == 3
    assert not predicted.rejected
    card = json.loads((outcome.trained.path / "model.json").read_text(encoding="utf-8"))["description"]
    for path, mask_path, overlay_path in zip(images, predicted.masks, predicted.overlays, strict=True):
        with Image.open(mask_path) as mask:
            assert mask.mode == "P"
            assert np.array(mask.getpalette()).reshape(-1, 3)[:4].tolist() == card["palette"]
        labels = read_picture(mask_path)
        assert labels.shape == read_picture(path).shape[:2] == read_picture(overlay_path).shape[:2]
        assert set(np.unique(labels)) <= {0, 1, 2, 3}


def test_images_of_one_name_in_two_folders_get_two_masks(outcome, pictures, tmp_path):
    predicted = predict_images(outcome.trained.path, find_images([str(pictures)]), tmp_path / "out")
    assert len({path.name for path in predicted.masks}) == 3
    assert [path.name for path in predicted.masks if path.name.startswith("wide")] == ["wide.png"]
    sizes = sorted(read_picture(path).shape for path in predicted.masks if path.name.startswith("same-"))
    assert sizes == [(64, 64), (80, 40)]


@pytest.mark.parametrize("stem", ["a" * 251, "漢" * 83, "-rf", "a\x1b[2J\nb", "..a", "caf\udce9", "🐙"])
def test_an_image_of_an_odd_name_gets_a_mask_and_an_overlay(outcome, tmp_path, stem):
    image = save_image(tmp_path / "in" / f"{stem}.png", make_image(make_mask((30, 40))))
    predicted = predict_images(outcome.trained.path, find_images([str(tmp_path / "in")]), tmp_path / "out")
    assert read_picture(predicted.masks[0]).shape == (30, 40)
    assert {path.parent for path in (*predicted.masks, *predicted.overlays)} == {tmp_path / "out"}
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert predicted.masks[0].name[:20] == image.name[:20]


def test_two_long_names_that_begin_alike_get_two_masks(outcome, tmp_path):
    for end in "xy":
        save_image(tmp_path / "in" / f"{'a' * 240}{end}.png", make_image(make_mask((30, 40))))
    predicted = predict_images(outcome.trained.path, find_images([str(tmp_path / "in")]), tmp_path / "out")
    assert len(set(predicted.masks)) == 2


@pytest.mark.parametrize(("name", "other"), [("photo.png", "other.jpg"), ("photo.overlay.jpg", "photo.jpg")])
def test_a_result_never_replaces_an_image(outcome, tmp_path, name, other):
    folder = tmp_path / "photos"
    paths = [save_image(folder / each, make_image(make_mask((30, 40)))) for each in (name, other)]
    before = [path.read_bytes() for path in paths]
    with pytest.raises(DatasetError, match=rf"{name}: .*replace this image.*nothing was written"):
        predict_images(outcome.trained.path, paths[1:] + paths[:1], folder)
    assert [path.read_bytes() for path in paths] == before
    assert len(list(folder.iterdir())) == 2


def test_a_bad_image_stops_prediction_or_is_listed(outcome, pictures, tmp_path):
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    images = find_images([str(pictures)])
    with pytest.raises(ImageError, match=r"broken\.png"):
        predict_images(outcome.trained.path, images, tmp_path / "out")
    predicted = predict_images(outcome.trained.path, images, tmp_path / "out", skip_bad=True)
    assert list(predicted.rejected) == [str(pictures / "broken.png")]
    assert len(predicted.masks) == 3


def test_prediction_agrees_with_what_was_evaluated_but_for_the_store_s_rounding(outcome, tmp_path):
    root = outcome.job.spec.dataset.root
    images = find_images([f"{root}/images/val"])
    predicted = predict_images(outcome.trained.path, images, tmp_path / "out")
    _, evaluated, _ = load_evaluation(outcome.evaluated.path)
    for number, path in enumerate(predicted.masks):
        assert np.mean(read_picture(path) == evaluated[number]) > 0.99


def test_the_model_of_a_run_is_found_by_its_id_and_latest_is_the_newest_that_trained_one(outcome, tmp_path):
    workspace = tmp_path / "workspace"
    spec = outcome.job.spec
    trained, failed = begin_run(spec, workspace), begin_run(spec, workspace)
    note_stage(trained, "train", outcome.trained)
    finish_run(trained, None, None)
    broken = workspace / "runs" / "99991231-235959-broken-0000"
    broken.mkdir()
    (broken / "record.jsonl").write_text("no record", encoding="utf-8")
    fail_run(failed, ValueError("stopped early"))
    expected = workspace / "models" / outcome.trained.key
    assert find_model(workspace, trained.run_dir.name) == expected
    assert find_model(workspace, "latest") == expected
    for unknown in (failed.run_dir.name, "nonsense", "../models", broken.name):
        with pytest.raises(SpecError) as caught:
            find_model(workspace, unknown)
        assert unknown in str(caught.value)


def test_asking_for_the_latest_run_of_an_empty_workspace_is_an_error_that_says_there_is_none(tmp_path):
    with pytest.raises(SpecError, match="the last runs: none"):
        find_model(tmp_path, "latest")
