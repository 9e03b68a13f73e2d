"""The frozen set: pinned once, refused when it changes; scores of the champion on it, and the history they make."""

import pytest

from hypercolumns.errors import DatasetError, SpecError
from hypercolumns.specs import DatasetSpec
from storage.champions import Champion, note, promote, read_line, rollback
from tasks.frozen import champion_experiment, note_score, pin_frozen_set, pinned_dataset, score_champion
from tasks.history import gather_history, write_history, write_history_files
from tasks.jobs import Job
from tasks.prepare import prepare_dataset
from tests.factories import save_mask, write_folder
from tests.pipeline_factory import read_picture, run_tasks, tiny_spec

LINE = "tiny"


@pytest.fixture
def line(data, workspace, tmp_path):
    """A line with two champions, and a frozen set beside its data."""
    frozen = write_folder(tmp_path / "frozen", splits={"test": 4}, image_hw=(40, 56), seed=5)
    first, second = run_tasks(tiny_spec(data), workspace), run_tasks(tiny_spec(data, train__epochs=2), workspace)
    for ran in (first, second):
        before = read_line(ran.job.places, LINE).model
        promote(ran.job.places, LINE, Champion("run", ran.trained.key), {"reasons": ["x"]}, who="night", expected=before)
    return first.job.places, DatasetSpec(kind="folder", root=str(frozen), val_split="test"), frozen, first, second


def evaluate(line, refreeze=False):
    places, spec, *_ = line
    job = Job(spec=champion_experiment(places, LINE, spec), workspace=places.root)
    prepared = prepare_dataset(job)
    pinned = pin_frozen_set(job, prepared, LINE, refreeze)
    scored = score_champion(job, prepared, LINE)
    note_score(job, LINE, pinned, scored)
    return pinned, scored


def test_the_set_is_pinned_when_it_is_first_used_and_the_same_one_is_taken_again(line):
    places, *_, second = line
    pinned, scored = evaluate(line)
    assert (pinned.pinned_now, pinned.images, scored.model) == (True, 4, second.trained.key)
    again, found = evaluate(line)
    assert (again.pinned_now, again.key) == (False, pinned.key)
    assert (found.cached, found.metrics) == (True, scored.metrics)
    kinds = [entry.kind for entry in read_line(places, LINE).entries[3:]]
    assert kinds == ["frozen", "evaluated", "evaluated"]
    assert scored.metrics["images"] == 4
    assert not (places.root / "stores" / "none").exists()


def test_the_champion_is_scored_as_an_experiment_on_that_set_would_score_it(line, workspace):
    _, spec, frozen, _, second = line
    _, scored = evaluate(line)
    whole = tiny_spec(frozen, train__epochs=2, dataset__train_split="test", dataset__val_split="test")
    job = Job(spec=whole, workspace=workspace)
    from tasks.extract import extract_features
    from tasks.rescore import score_model

    prepared = prepare_dataset(job)
    extract_features(job, prepared)
    stored = score_model(job, prepared, second.trained.key)
    assert stored.metrics["mean_iu"] == pytest.approx(scored.metrics["mean_iu"], abs=0.002)
    assert stored.metrics["per_class_pixels"] == scored.metrics["per_class_pixels"]
    assert spec.val_split == "test"


def test_a_set_that_changed_is_refused_with_what_changed_until_it_is_restored_or_pinned_anew(line):
    places, _, frozen, *_ = line
    first, _ = evaluate(line)
    path = frozen / "masks" / "test" / "001.png"
    before = read_picture(path)
    changed = before.copy()
    changed[0, 0] = 3
    save_mask(path, changed)
    with pytest.raises(DatasetError, match=r"pinned on \d{4}-\d\d-\d\d, got another: 1 images with changed labels"):
        evaluate(line)
    save_mask(path, before)
    assert evaluate(line)[0].key == first.key
    (frozen / "images" / "test" / "003.png").unlink()
    with pytest.raises(DatasetError, match="got another: 1 images gone"):
        evaluate(line)
    anew, scored = evaluate(line, refreeze=True)
    assert (anew.pinned_now, anew.images, scored.metrics["images"]) == (True, 3, 3)
    assert evaluate(line)[0].key == anew.key
    (frozen / "classes.txt").write_text("earth\nbox\ndisc\nstripe\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="other class names"):
        evaluate(line)
    assert len([entry for entry in read_line(places, LINE).entries if entry.kind == "frozen"]) == 2


def test_the_set_that_was_pinned_is_known_by_itself_and_where_it_was_moved_to(line, tmp_path):
    places, spec, frozen, *_ = line
    assert champion_experiment(places, LINE, None) is None, "none was pinned"
    evaluate(line)
    assert champion_experiment(places, LINE, None) == champion_experiment(places, LINE, spec)
    moved = spec.model_copy(update={"root": str(frozen.rename(tmp_path / "moved"))})
    again, _ = evaluate((places, moved))
    assert not again.pinned_now
    assert pinned_dataset(places, LINE).root == str(tmp_path / "moved")
    note(places, LINE, "frozen", {"digest": again.key, "keys": {"manifest": "m" * 64}, "images": 4})
    with pytest.raises(SpecError, match=r"it was pinned without\. Remedy: name it once more in `frozen`"):
        champion_experiment(places, LINE, None)


def test_a_line_without_a_champion_cannot_be_scored(line):
    places, spec, *_ = line
    with pytest.raises(SpecError, match="it has none yet"):
        champion_experiment(places, "other", spec)
    job = Job(spec=champion_experiment(places, LINE, spec), workspace=places.root)
    with pytest.raises(SpecError, match="it has none"):
        score_champion(job, prepare_dataset(job), "other")


def test_the_history_tells_scores_changes_and_files(line, tmp_path):
    places, _, _, first, second = line
    evaluate(line)
    rollback(places, LINE, who="ada", why="it calls sky road", expected=second.trained.key)
    _, scored = evaluate(line)
    data = gather_history(read_line(places, LINE))
    assert [score.model for score in data.scores] == [second.trained.key, first.trained.key]
    assert data.scores[1].mean_iu == scored.metrics["mean_iu"]
    assert data.scores[1].interval == tuple(scored.metrics["intervals"]["mean_iu"])
    assert [change.what for change in data.changes] == ["promoted", "promoted", "rolled back"]
    assert (data.changes[2].who, data.changes[2].model) == ("ada", first.trained.key)
    assert data.champion == first.trained.key
    html, markdown = write_history_files(places, LINE, tmp_path / "out")
    assert "it calls sky road" in html.read_text(encoding="utf-8")
    assert first.trained.key in markdown.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="expected a job with a run's folder"):
        write_history(first.job, LINE)
