"""Warm start, from scratch, and which of the two is taken."""

import pytest
import torch

from hypercolumns.errors import SpecError, TrainingError
from hypercolumns.heads import PixelConv
from hypercolumns.nights import NightSpec
from storage.champions import Champion, promote, read_line
from tasks.challengers import holding_out, train_challenger
from tasks.champions import champion_of_run, held_out_share
from tasks.classifiers import load_classifier
from tasks.jobs import Job
from tasks.record import begin_run, finish_run, note_stage
from tasks.standings import find_news
from tests.pipeline_factory import run_tasks, tiny_spec

LINE = "tiny"
BOTH, WARM, FRESH = NightSpec(), NightSpec(from_scratch=False), NightSpec(warm_start=False)


def settings(data, **overrides):
    return tiny_spec(data, train__holdout=0.4, train__epochs=2, **overrides)


@pytest.fixture
def night(data, workspace):
    """A line with a champion, which saw no held-out image; and what is needed to challenge it."""
    spec = holding_out(settings(data), BOTH)
    ran = run_tasks(spec, workspace)
    champion = Champion("run", ran.trained.key, {}, {"held_out": held_out_share(spec.model_dump(mode="json"))})
    promote(ran.job.places, LINE, champion, {}, who="test", expected=None)
    return ran


def challenge(ran, night, spec=None):
    job = Job(spec=spec or ran.job.spec, workspace=ran.job.workspace)
    return train_challenger(job, ran.prepared, ran.pretrained, find_news(job, ran.prepared, LINE, night), night)


def weights(trained):
    return load_classifier(PixelConv, trained.path)[0].state_dict()


def distance(first, second):
    return sum(float((first[name] - second[name]).abs().sum()) for name in first)


def test_where_two_ways_are_compared_both_stages_hold_the_same_images_out(data):
    spec = holding_out(settings(data, pretrain__patience=0, pretrain__holdout=0.1), BOTH)
    assert (spec.pretrain.holdout, spec.train.holdout) == (0.4, 0.4)
    assert (spec.pretrain.patience, spec.train.patience) == (2, 2), "as many as epochs: nothing stops early"
    assert held_out_share(spec.model_dump(mode="json")) == 0.4
    for one in (WARM, FRESH):
        assert holding_out(settings(data), one) == settings(data)
    without_dense = tiny_spec(data, train__epochs=0, train__holdout=0.0)
    assert holding_out(without_dense, BOTH) == without_dense
    with pytest.raises(SpecError, match="above 0, on which warm start and from scratch are compared"):
        holding_out(tiny_spec(data, train__holdout=0.0), BOTH)


def test_a_share_that_was_never_learned_from_is_that_of_the_stage_that_holds_out_least():
    stage = {"epochs": 3, "holdout": 0.2, "patience": 1}
    assert held_out_share({"pretrain": stage, "train": stage | {"holdout": 0.1}}) == 0.1
    assert held_out_share({"pretrain": stage, "train": stage | {"patience": 0}}) == 0.0
    assert held_out_share({"pretrain": stage, "train": stage | {"patience": 0, "epochs": 0}}) == 0.2


def test_a_warm_start_goes_on_from_the_champion_s_weights(night):
    warm = challenge(night, WARM)
    assert (warm.origin, warm.why) == ("warm start", "the only way that was asked for")
    assert warm.key != night.trained.key
    champion = weights(night.trained)
    slow = night.job.spec.train.model_copy(update={"learning_rate": 1e-9})
    hardly = challenge(night, WARM, night.job.spec.model_copy(update={"train": slow}))
    assert distance(weights(hardly), champion) < 1e-3 < distance(weights(warm), champion)
    for name, value in weights(warm).items():
        if name in {"mean", "std"}:
            torch.testing.assert_close(value, champion[name])


def test_of_both_ways_the_one_that_is_better_on_held_out_train_images_is_taken(night):
    taken = challenge(night, BOTH)
    assert set(taken.held_out) == {"warm start", "from scratch"}
    assert None not in taken.held_out.values(), "the tiny set must hold an image out"
    assert taken.origin == max(("from scratch", "warm start"), key=lambda way: taken.held_out[way])
    assert taken.unseen == 0.4
    assert taken.why.startswith("held-out train images: mean IU ")
    single = challenge(night, WARM if taken.origin == "warm start" else FRESH)
    assert single.key == taken.key, "the same model as asked for alone"


def test_the_better_way_is_the_one_whose_scores_say_so(night, monkeypatch):
    for better, worse in ((0.9, 0.1), (0.1, 0.9)):
        scores = iter((better, worse))
        monkeypatch.setattr("tasks.challengers._held_out_score", lambda trained, scores=scores: next(scores))
        assert challenge(night, BOTH).origin == ("warm start" if better > worse else "from scratch")


def test_without_a_champion_dense_epochs_or_the_wish_there_is_no_warm_start(night, data):
    job = night.job
    other = train_challenger(job, night.prepared, night.pretrained, find_news(job, night.prepared, "new-line", BOTH), BOTH)
    assert (other.origin, other.why) == ("from scratch", "there is no champion to train on from")
    assert challenge(night, FRESH).why == "the only way that was asked for"
    assert "epochs=0" in challenge(night, BOTH, tiny_spec(data, train__epochs=0)).why


def test_a_champion_that_saw_the_held_out_images_cannot_be_judged_by_them(night):
    promote(night.job.places, LINE, Champion("run", night.trained.key), {}, who="test", expected=night.trained.key)
    taken = challenge(night, BOTH)
    assert (taken.origin, taken.unseen) == ("from scratch", 0.4)
    assert "the champion learned from images that are held out now" in taken.why
    assert challenge(night, WARM).unseen == 0.0, "and what is trained on from it saw them too"


def test_where_no_image_is_held_out_nothing_tells_which_is_better(night):
    spec = night.job.spec
    tiny = spec.model_copy(update={"train": spec.train.model_copy(update={"holdout": 1e-9})})
    taken = challenge(night, BOTH, tiny)
    assert taken.origin == "from scratch"
    assert taken.why.startswith("no train image is held out")


def test_a_champion_of_another_form_is_not_trained_on_from(night):
    spec = night.job.spec
    wider = spec.model_copy(update={"head": spec.head.model_copy(update={"hidden": 8})})
    ran = run_tasks(wider, night.job.workspace)
    with pytest.raises(TrainingError, match=r"expected a model of the same form to train on from, got other head\.hidden"):
        challenge(ran, WARM)
    taken = challenge(ran, BOTH)
    assert (taken.origin, taken.key) == ("from scratch", ran.trained.key)
    assert "no warm start" in taken.why


def test_the_champion_of_a_run_names_what_it_stands_on_and_what_it_never_saw(data, workspace):
    spec = holding_out(settings(data), BOTH)
    ran = run_tasks(spec, workspace)
    job = begin_run(spec, workspace)
    for name, stage in zip(("prepare", "extract", "sample", "pretrain", "train", "evaluate"), ran.stages, strict=True):
        note_stage(job, name, stage)
    finish_run(job, None, None)
    begin_run(spec, workspace)
    champion = champion_of_run(job.places, "latest")
    assert champion.run_id == job.run_dir.name
    assert champion.facts == {"held_out": 0.4}
    assert champion.keys["manifest"] == ran.prepared.key
    assert read_line(job.places, LINE).champion is None
