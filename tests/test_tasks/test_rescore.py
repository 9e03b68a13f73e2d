"""Scores of a model on images it was not trained for, and the decision that follows from them."""

import json

import numpy as np
import pytest

from hypercolumns.errors import MetricError
from hypercolumns.nights import PromotionSpec
from storage.champions import Champion, pin, promote, read_line, release, rollback
from tasks.evaluate import load_evaluation
from tasks.jobs import Job
from tasks.prepare import prepare_dataset
from tasks.promote import compare_with_champion, record_decision
from tasks.rescore import load_scored, score_model, with_classes
from tests.factories import write_folder
from tests.pipeline_factory import run_tasks, tiny_spec

LINE = "tiny"
EAGER = PromotionSpec(min_images=2, min_gain=0.0, resamples=200)


def test_a_model_s_scores_are_those_its_own_evaluation_found(outcome):
    scored = score_model(outcome.job, outcome.prepared, outcome.trained.key)
    expected = load_evaluation(outcome.evaluated.path)[0]["model"]
    np.testing.assert_array_equal(load_scored(scored), expected)
    assert scored.metrics["mean_iu"] == outcome.evaluated.metrics["mean_iu"]
    assert scored.metrics["intervals"] == outcome.evaluated.metrics["intervals"]
    again = score_model(outcome.job, outcome.prepared, outcome.trained.key)
    assert (again.cached, again.key) == (True, scored.key)


@pytest.mark.parametrize(
    "change",
    [
        {"store__canvas__size_hw": [32, 64]},
        {"backbone__layers": ["features.1"]},
        {"backbone__weights": "random:1"},
        {"store__precision": "bfloat16"},
    ],
)
def test_a_model_that_reads_other_maps_than_are_stored_is_scored_by_its_own_backbone(outcome, tmp_path, change):
    spec = outcome.job.spec
    other = tiny_spec(spec.dataset.root, train__epochs=0, **change)
    theirs = run_tasks(other, outcome.job.workspace)
    scored = score_model(outcome.job, outcome.prepared, theirs.trained.key)
    expected = load_evaluation(theirs.evaluated.path)[0]["model"]
    difference = np.abs(load_scored(scored) - expected).sum() / 2
    assert difference <= 0.002 * expected.sum(), "stored float16 maps differ by rounding alone"


def test_classes_are_matched_by_name(data, workspace):
    first = run_tasks(tiny_spec(data), workspace)
    (data / "classes.txt").write_text("disc\nbox\nground\nstripe\n", encoding="utf-8")
    now = Job(spec=tiny_spec(data), workspace=workspace)
    scored = score_model(now, prepare_dataset(now), first.trained.key)
    order = [2, 1, 0, 3]
    before = load_evaluation(first.evaluated.path)[0]["model"]
    np.testing.assert_array_equal(load_scored(scored), before[:, :, order])
    assert scored.class_names == ("disc", "box", "ground", "stripe")


def test_a_class_the_model_never_learned_is_never_predicted_and_one_that_is_gone_is_wrong(data, workspace):
    first = run_tasks(tiny_spec(data), workspace)
    (data / "classes.txt").write_text("ground\nbox\ndisc\nweed\n", encoding="utf-8")
    now = Job(spec=tiny_spec(data), workspace=workspace)
    scored = score_model(now, prepare_dataset(now), first.trained.key)
    assert scored.class_names == ("ground", "box", "disc", "weed", "stripe")
    matrices = load_scored(scored)
    before = load_evaluation(first.evaluated.path)[0]["model"]
    assert matrices.shape[1:] == (5, 5)
    assert not matrices[:, :, 3].any(), "never predicted"
    assert not matrices[:, 4].any(), "never labelled"
    np.testing.assert_array_equal(matrices[:, :3, 4], before[:, :3, 3])
    assert scored.metrics["per_class_iu"]["weed"] == 0.0
    assert "stripe" in scored.metrics["absent_classes"]
    assert with_classes(("a", "b"), ("b", "c")) == ("a", "b", "c")


def test_canvases_that_differ_cannot_be_scored_by_a_protocol_that_counts_canvases(outcome):
    spec = tiny_spec(outcome.job.spec.dataset.root, evaluate__protocol="notebook", store__canvas__size_hw=[32, 64])
    job = Job(spec=spec, workspace=outcome.job.workspace)
    with pytest.raises(MetricError, match="expected a model of canvas"):
        score_model(job, prepare_dataset(job), outcome.trained.key)


def test_the_notebook_protocol_scores_the_canvas(outcome):
    spec = tiny_spec(outcome.job.spec.dataset.root, evaluate__protocol="notebook", train__epochs=0, evaluate__bootstrap=0)
    ran = run_tasks(spec, outcome.job.workspace)
    scored = score_model(ran.job, ran.prepared, ran.trained.key)
    np.testing.assert_array_equal(load_scored(scored), load_evaluation(ran.evaluated.path)[0]["model"])
    assert "intervals" not in scored.metrics


@pytest.fixture
def night(tmp_path):
    """An experiment that learned nothing, one that learned, and their workspace."""
    data = write_folder(tmp_path / "data", splits={"train": 6, "val": 6}, image_hw=(48, 64))
    poor = run_tasks(tiny_spec(data, pretrain__epochs=0, train__epochs=0, head__hidden=0), tmp_path / "w")
    good = run_tasks(tiny_spec(data, pretrain__epochs=30, train__epochs=4, head__hidden=0), tmp_path / "w")
    return poor, good


def compared(ran, view, spec=EAGER):
    return compare_with_champion(ran.job, ran.prepared, ran.trained, ran.evaluated, view, spec)


def decided(ran, spec=EAGER, facts=None):
    places = ran.job.places
    found = compared(ran, read_line(places, LINE), spec)
    champion = Champion("run", ran.trained.key, {"manifest": ran.prepared.key}, facts or {})
    return record_decision(ran.job, LINE, found, champion, {"seconds": 1.0}, who="night", reach=3)


def test_the_first_is_promoted_a_better_one_follows_and_a_worse_one_is_kept_out_with_its_reasons(night):
    poor, good = night
    assert decided(poor).model == poor.trained.key
    view = decided(good)
    assert view.model == good.trained.key
    decision = view.entries[-1].data["decision"]
    assert decision["interval"][0] > 0
    assert decision["protocol"].startswith("label resolution")
    assert decision["night"] == {"seconds": 1.0}
    kept = decided(poor)
    assert kept.model == good.trained.key
    assert kept.entries[-1].kind == "kept"
    assert "min_gain" in kept.entries[-1].data["decision"]["reasons"][0]
    assert kept.entries[-1].data["challenger"]["model"] == poor.trained.key
    assert json.dumps(kept.entries[-1].data, allow_nan=False)


def test_the_champion_s_own_model_a_pinned_line_and_a_withdrawn_model_promote_nothing(night):
    poor, good = night
    places = poor.job.places
    decided(poor)
    assert compared(poor, read_line(places, LINE)).decision["reasons"][0] == "it is the champion's own model"
    pin(places, LINE, None, who="me", why="", expected=poor.trained.key)
    assert "pinned" in compared(good, read_line(places, LINE)).decision["reasons"][0]
    release(places, LINE, who="me", why="", expected=poor.trained.key)
    assert compared(good, read_line(places, LINE)).promote
    promote(places, LINE, Champion("run", good.trained.key), {}, who="night", expected=poor.trained.key)
    view = rollback(places, LINE, who="me", why="", expected=good.trained.key)
    found = compared(good, view)
    assert not found.promote
    assert "this model was rolled back" in found.decision["reasons"][0]
