"""Nights against a real server: what is trained, what is promoted and refused, and what Prefect is told."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import import_module

import numpy as np
import pytest

from hypercolumns.errors import DatasetError, SpecError
from hypercolumns.metrics.promotion import decide
from hypercolumns.nights import ChecksSpec, PromotionSpec, RetentionSpec
from storage.champions import pin, read_line, rollback
from storage.errors import ChampionChangedError
from storage.runs import list_runs, read_run
from storage.workspace import Workspace
from tests.factories import make_image, make_mask, save_image, save_mask, write_folder
from tests.pipeline_factory import LAYERS, read_picture, tiny_spec

GROUND, BOX, DISC, STRIPE = range(4)
RIGHT = {label: label for label in range(4)}
PROMOTION = PromotionSpec(min_images=2, min_gain=0.01, min_class_pixels=100)
CHECKS = ChecksSpec(class_vanished="warn", near_duplicates="off")


def flow():
    return import_module("flows.nightly_retrain").nightly_retrain


class Team:
    """People who label images by day."""

    def __init__(self, root, workspace):
        self.root = write_folder(root, splits={"train": 6, "val": 5}, image_hw=(48, 64))
        self.places = Workspace(workspace)
        self.truths = {path.name: read_picture(path) for path in (root / "masks" / "train").iterdir()}

    def label(self, meant):
        """Label the train images, taking each class for another one."""
        table = np.array([meant.get(label, label) for label in range(256)], np.uint8)
        for name, truth in self.truths.items():
            save_mask(self.root / "masks" / "train" / name, table[truth])

    def add(self, *names):
        for seed, name in enumerate(names):
            self.truths[name] = make_mask((48, 64), seed=900 + seed)
            save_image(self.root / "images" / "train" / name, make_image(self.truths[name], seed=900 + seed))

    def spec(self, **overrides):
        settings = {"pretrain__epochs": 40, "train__epochs": 3, "train__holdout": 0.3, "evaluate__bootstrap": 50}
        return tiny_spec(self.root, name="weeds", **(settings | overrides))

    def night(self, **parameters):
        given = {"config": self.spec(), "promotion": PROMOTION, "checks": CHECKS, "workspace": self.places.root}
        return flow()(**(given | parameters))

    def models(self):
        return {path.name for path in self.places.models.iterdir()}


@pytest.fixture(scope="module")
def nights(prefect_here, tmp_path_factory):
    """Five nights, in each of which something else arrives; and what was known after each of them."""
    folder = tmp_path_factory.mktemp("nights")
    team = Team(folder / "data", folder / "workspace")
    results, models = [], []

    def sleep():
        results.append(team.night())
        models.append(team.models())

    team.label(RIGHT | {BOX: STRIPE, STRIPE: BOX})
    sleep()
    start = time.perf_counter()
    sleep()
    seconds = time.perf_counter() - start
    team.label(RIGHT | {DISC: GROUND})
    sleep()
    team.add("new-0.png", "new-1.png")
    team.label(RIGHT)
    sleep()
    team.label(RIGHT | {GROUND: BOX, BOX: GROUND})
    sleep()
    return team, results, models, seconds


def test_the_first_night_promotes_what_it_trained(nights):
    _, results, _, _ = nights
    first = results[0]
    assert (first.status, first.champion) == ("promoted", None)
    assert first.news == "the first night of this line: 11 images"
    assert first.images_extracted == 11
    assert first.report.is_file()


def test_a_night_without_news_trains_nothing_in_seconds_and_says_so(nights, prefect_here):
    _, results, models, seconds = nights
    second = results[1]
    assert second.status == "nothing new"
    assert second.message.startswith(f"nothing new in 6 train images and 5 val images since run {results[0].run_id}")
    assert models[1] == models[0]
    assert seconds < 5
    assert set(second.timings) == {"prepare", "news"}
    assert read_run(second.run_dir).status == "finished"
    runs = prefect_here.post("flow_runs/filter", flow_runs={"name": {"any_": ["weeds"]}}, sort="START_TIME_ASC")
    names = [run["state"]["name"] for run in runs]
    assert names[:5] == ["Promoted", "Nothing new", "Kept", "Promoted", "Kept"]
    assert {run["state_type"] for run in runs} == {"COMPLETED"}
    assert runs[1]["state"]["message"] == second.message
    assert {str(run["state"]["data"]) for run in runs} == {"None"}, "nothing is persisted"


def test_a_challenger_that_lost_a_class_is_refused_although_its_mean_is_better(nights):
    _, results, _, _ = nights
    third = results[2]
    assert third.status == "kept"
    assert third.news == "6 images with changed labels"
    assert third.images_extracted == 0, "labels changed, images did not"
    assert third.decision["difference"] > 0.05
    assert third.decision["interval"][0] > 0
    assert third.decision["reasons"][0].startswith("class disc fell from ")
    assert "max_class_drop" in third.message


def test_right_labels_and_new_images_are_promoted_and_only_the_new_images_extracted(nights):
    _, results, _, _ = nights
    fourth = results[3]
    assert fourth.status == "promoted", fourth.message
    assert fourth.images_extracted == 2
    assert "2 new images" in fourth.news
    assert "images with changed labels" in fourth.news
    assert fourth.champion == results[0].challenger
    assert fourth.metrics["mean_iu"] == fourth.decision["challenger_mean_iu"] > fourth.decision["champion_mean_iu"]


def test_a_challenger_that_is_worse_is_refused_with_its_interval(nights):
    _, results, _, _ = nights
    fifth = results[4]
    assert (fifth.status, fifth.champion) == ("kept", results[3].challenger)
    assert fifth.decision["interval"][1] < 0
    assert "min_gain" in fifth.decision["reasons"][0]


def test_the_history_holds_every_decision_with_what_it_stood_on_and_what_it_cost(nights):
    team, results, _, _ = nights
    view = read_line(team.places, "weeds")
    decisions = [entry for entry in view.entries if entry.kind in {"promoted", "kept"}]
    assert [entry.kind for entry in decisions] == ["promoted", "kept", "promoted", "kept"]
    assert {entry.data["who"] for entry in decisions} == {"nightly-retrain"}
    for entry, result in zip(decisions, [results[0], *results[2:]], strict=True):
        decision = entry.data["decision"]
        assert decision["reasons"] == result.decision["reasons"]
        assert decision["rule"] == PROMOTION.model_dump(mode="json")
        assert decision["protocol"].startswith("label resolution, void ignored")
        night = decision["night"]
        assert night["run_id"] == result.run_id
        assert night["origin"] in {"warm start", "from scratch"}
        assert sum(night["seconds"].values()) > 0
        assert night["images_extracted"] == result.images_extracted
        assert night["bytes_extracted"] == (0 if not result.images_extracted else night["bytes_extracted"]) >= 0
    assert decisions[2].data["decision"]["night"]["images"] == {"train": 8, "val": 5}
    assert decisions[1].data["decision"]["night"]["findings"][0]["check"] == "class_vanished"


def test_a_rollback_brings_the_first_champion_back_and_the_next_night_without_news_leaves_it(nights, prefect_here):
    team, results, _, _ = nights
    view = rollback(team.places, "weeds", who="me", why="it calls sky road", expected=results[3].challenger)
    assert view.model == results[0].challenger
    assert team.night().status == "nothing new"
    team.label(RIGHT)
    again = team.night()
    assert again.champion == results[0].challenger
    if again.challenger == results[3].challenger:
        assert "this model was rolled back" in again.message
        assert again.status == "kept"
    assert results[3].challenger in read_line(team.places, "weeds").withdrawn


def events_of(server, name, line):
    """Wait for the server to have events of a name about a line: they are told in the background."""
    deadline = time.monotonic() + 20
    query = {"filter": {"event": {"name": [name]}, "resource": {"id": [f"hypercolumns.line.{line}"]}}}
    while not (found := server.post("events/filter", **query)["events"]):
        assert time.monotonic() < deadline, name
        time.sleep(0.2)
    return found


def test_the_server_hears_of_trainings_promotions_and_refusals(nights, prefect_here):
    _, results, _, _ = nights
    promoted = events_of(prefect_here, "hypercolumns.champion.promoted", "weeds")
    assert {event["payload"]["challenger"] for event in promoted} >= {results[0].challenger, results[3].challenger}
    assert events_of(prefect_here, "hypercolumns.champion.kept", "weeds")[0]["payload"]["reasons"]
    trained = events_of(prefect_here, "hypercolumns.training.completed", "weeds")
    assert trained[0]["payload"]["origin"] in {"warm start", "from scratch"}
    related = {resource["prefect.resource.id"].rsplit(".", 1)[0] for resource in trained[0]["related"]}
    assert {"prefect.flow-run", "prefect.flow"} <= related, "an automation can find the run"


@pytest.fixture
def team(prefect_here, tmp_path):
    return Team(tmp_path / "data", tmp_path / "workspace")


def quick(team, **parameters):
    config = team.spec(pretrain__epochs=1, train__epochs=1)
    return team.night(**({"config": config} | parameters))


def test_other_thresholds_are_decided_by_anew_without_training_again(team):
    first = quick(team, warm_start=False)
    before = team.models()
    again = quick(team, warm_start=False, promotion=PROMOTION.model_copy(update={"min_gain": 0.5}))
    assert again.message.startswith("kept: the champion of weeds stays: it is the champion's own model; ")
    assert (again.champion, again.challenger) == (first.challenger, first.challenger)
    assert team.models() == before


def test_data_that_a_check_stops_train_nothing_and_the_run_says_why(team):
    quick(team)
    before = team.models()
    team.label(RIGHT | {DISC: GROUND})
    with pytest.raises(DatasetError, match="no labelled train pixel any more of disc"):
        quick(team, checks=ChecksSpec(near_duplicates="off"))
    assert team.models() == before
    newest = list_runs(team.places.runs)[0]
    assert (newest.status, "checks.class_vanished" in newest.reason) == ("failed", True)
    assert [entry.kind for entry in read_line(team.places, "weeds").entries] == ["begun", "promoted"]


def test_a_night_that_ended_before_its_decision_is_made_up_for_by_the_next_one(team, monkeypatch):
    def killed(*arguments, **options):
        raise RuntimeError("power went")

    with monkeypatch.context() as patch:
        patch.setattr("tasks.decide.record_decision", killed)
        with pytest.raises(RuntimeError, match="power went"):
            quick(team)
    before = team.models()
    assert read_line(team.places, "weeds").model is None
    made_up = quick(team)
    assert (made_up.status, made_up.images_extracted) == ("promoted", 0)
    assert team.models() == before
    assert made_up.challenger in before


def test_a_champion_that_changed_meanwhile_is_not_replaced_and_the_next_night_decides_anew(team, monkeypatch):
    from tasks import promote as promoting

    first = quick(team, warm_start=False)
    team.label(RIGHT | {DISC: BOX})
    meanwhile = promoting.promote

    def somebody_pinned_it(places, line, champion, decision, **options):
        pin(places, line, None, who="ada", why="the fair", expected=first.challenger)
        return meanwhile(places, line, champion, decision, **options)

    eager = PromotionSpec(min_images=2, min_gain=0.0, max_class_drop=1.0, resamples=100)
    with monkeypatch.context() as patch:
        patch.setattr(promoting, "decide", lambda *arguments: replace(decide(*arguments), promote=True))
        patch.setattr(promoting, "promote", somebody_pinned_it)
        with pytest.raises(ChampionChangedError, match="pinned"):
            quick(team, warm_start=False, promotion=eager)
    assert read_line(team.places, "weeds").model == first.challenger
    again = quick(team, warm_start=False, promotion=eager)
    assert again.status == "kept"
    assert "the champion is pinned" in again.message


def test_a_line_may_have_another_name_than_the_experiment(team):
    assert quick(team, line="meadow").line == "meadow"
    assert read_line(team.places, "meadow").model
    assert read_line(team.places, "weeds").model is None


def test_two_ways_cannot_be_compared_without_held_out_images_nor_none_be_trained(team):
    with pytest.raises(SpecError, match=r"train\.holdout"):
        team.night(config=team.spec(train__holdout=0.0))
    with pytest.raises(ValueError, match="got neither"):
        team.night(warm_start=False, from_scratch=False)
    assert not (team.places.root / "runs").exists()


def test_old_nights_are_forgotten_but_never_that_of_a_champion(team):
    keep_one = RetentionSpec(nights=1, champions=1)
    first = quick(team, retention=keep_one)
    results = []
    for seed in range(3):
        team.add(*(f"night-{seed}-{number}.png" for number in range(seed + 1)))
        team.label(RIGHT)
        results.append(quick(team, retention=keep_one, promotion=PROMOTION.model_copy(update={"min_gain": 1.0})))
    assert [result.status for result in results] == ["kept"] * 3
    assert {view.run_id for view in list_runs(team.places.runs)} == {first.run_id, results[-1].run_id}
    assert len(read_line(team.places, "weeds").entries) == 5, "the history is kept"


def scheduled(server, minutes_ago):
    """Create a run of the flow whose time was some minutes ago, as a schedule does."""
    from prefect.client.orchestration import get_client
    from prefect.states import Scheduled

    with get_client(sync_client=True) as client:
        when = datetime.now(UTC) - timedelta(minutes=minutes_ago)
        return client.create_flow_run(flow(), state=Scheduled(scheduled_time=when))


@pytest.mark.parametrize(("minutes", "status"), [(200, "too late"), (100, "promoted")])
def test_a_run_that_begins_long_after_its_time_skips_itself(team, prefect_here, minutes, status):
    from prefect.flow_engine import run_flow

    run = scheduled(prefect_here, minutes)
    config = team.spec(pretrain__epochs=1, train__epochs=1)
    parameters = flow().validate_parameters({"config": config, "workspace": team.places.root, "checks": CHECKS})
    state = run_flow(flow(), flow_run=run, parameters=parameters, return_type="state")
    assert state.result().status == status
    if status == "too late":
        assert "it began 200 minutes after its scheduled time, more than the 120 allowed" in state.message
        assert not (team.places.root / "runs").exists()
    kept = prefect_here.get(f"flow_runs/{run.id}")
    assert (kept["state_type"], kept["state_name"]) == ("COMPLETED", status.capitalize())


def test_a_night_that_an_event_started_skips_itself_when_the_data_are_another_line_s(team, prefect_here):
    state = flow()(config=team.spec(), arrived="oats", workspace=team.places.root, return_state=True)
    assert (state.type, state.name) == ("COMPLETED", "Another line")
    assert state.message == "skipped: data arrived for line 'oats', and these nights are of line 'weeds'"
    assert not (team.places.root / "runs").exists()
    assert quick(team, arrived="weeds").status == "promoted"


def test_layers_are_those_of_the_experiment(nights):
    _, results, _, _ = nights
    assert set(read_run(results[0].run_dir).entries[0].data["spec"]["backbone"]["layers"]) == set(LAYERS)
