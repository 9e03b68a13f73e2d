"""The weekly evaluation against a real server: a score, a history, an artifact, an event."""

from importlib import import_module

import pytest

from hypercolumns.errors import DatasetError
from hypercolumns.specs import DatasetSpec
from storage.champions import read_line
from storage.runs import read_run
from storage.workspace import Workspace
from tests.factories import write_folder
from tests.pipeline_factory import tiny_spec
from tests.test_flows.test_nightly import CHECKS, PROMOTION, events_of


def flow(name):
    return getattr(import_module(f"flows.{name}"), name)


@pytest.fixture(scope="module")
def evaluated(prefect_here, tmp_path_factory):
    """A night, and two weeks of evaluation."""
    folder = tmp_path_factory.mktemp("weeks")
    data = write_folder(folder / "data", splits={"train": 5, "val": 3}, image_hw=(48, 64))
    frozen = DatasetSpec(kind="folder", root=str(write_folder(folder / "frozen", splits={"val": 3}, seed=9)))
    spec = tiny_spec(data, name="weekly")
    night = flow("nightly_retrain")(config=spec, promotion=PROMOTION, checks=CHECKS, from_scratch=False, workspace=folder / "w")
    before = flow("evaluate_champion")(line="weekly", workspace=folder / "w", return_state=True)
    # The set is named once.
    weeks = [flow("evaluate_champion")(line="weekly", frozen=named, workspace=folder / "w") for named in (frozen, None)]
    return folder, frozen, night, weeks, before


def test_each_week_appends_a_score_of_the_champion_on_the_frozen_set(evaluated):
    folder, _, night, weeks, _ = evaluated
    assert [week.model for week in weeks] == [night.challenger] * 2
    assert weeks[0].metrics == weeks[1].metrics
    assert weeks[0].message.startswith(f"champion {night.challenger} of weekly: mean IU ")
    kinds = [entry.kind for entry in read_line(Workspace(folder / "w"), "weekly").entries]
    assert kinds == ["begun", "promoted", "frozen", "evaluated", "evaluated"]
    view = read_run(weeks[1].history.parent)
    assert (view.status, set(view.timings)) == ("finished", {"prepare", "frozen set", "score", "history"})


def test_a_line_without_a_frozen_set_is_not_scored_says_so_and_pins_nothing(evaluated):
    before = evaluated[4]
    assert (before.type, before.name) == ("COMPLETED", "No frozen set")
    assert before.message.startswith("line weekly has no frozen set: nothing was scored. Name one in `frozen`")


def test_the_history_is_a_file_of_the_run_and_an_artifact_in_the_ui(evaluated, prefect_here):
    _, _, night, weeks, _ = evaluated
    page = weeks[1].history.read_text(encoding="utf-8")
    assert page.count(f'mono">{night.challenger}') >= 3
    assert night.run_id in page
    artifacts = prefect_here.post("artifacts/filter", artifacts={"key": {"any_": ["history-weekly"]}})
    assert len(artifacts) == 2
    texts = [artifact["data"] for artifact in artifacts]
    assert weeks[1].history.with_name("history.md").read_text(encoding="utf-8") in texts
    run = [
        run
        for run in prefect_here.post("flow_runs/filter", flow_runs={"name": {"any_": ["weekly"]}})
        if run["state"]["message"]
    ]
    assert weeks[0].message in {each["state"]["message"] for each in run}


def test_the_server_hears_of_it(evaluated, prefect_here):
    (*_, event) = events_of(prefect_here, "hypercolumns.champion.evaluated", "weekly")
    assert event["payload"]["mean_iu"] == evaluated[3][0].metrics["mean_iu"]


def test_another_set_is_refused_and_the_run_fails_with_the_reason(evaluated, tmp_path):
    folder, frozen, *_ = evaluated
    other = frozen.model_copy(update={"root": str(write_folder(tmp_path / "other", splits={"val": 2}, seed=10))})
    with pytest.raises(DatasetError, match="got another: 3 images gone, 2 new images"):
        flow("evaluate_champion")(line="weekly", frozen=other, workspace=folder / "w")
