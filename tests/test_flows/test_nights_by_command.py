"""`hypercolumns nightly` and `notify` as processes of their own against a real server."""

import json
import subprocess
import sys
import time

import pytest

from storage.champions import read_line
from storage.runs import list_runs
from storage.workspace import Workspace
from tests.factories import write_folder
from tests.pipeline_factory import python_environment, tiny_values, write_config
from tests.test_flows.test_command_line import hypercolumns


@pytest.fixture
def config(tmp_path):
    data = write_folder(tmp_path / "data", splits={"train": 6, "val": 3}, image_hw=(48, 64))
    night = {"checks": {"near_duplicates": "off"}, "from_scratch": False}
    return write_config(tmp_path / "tiny.yaml", tiny_values(data, name="by-night") | {"nightly": night})


def test_a_night_by_hand_promotes_says_so_and_finds_nothing_new_when_asked_again(server, config, tmp_path):
    arguments = ("nightly", config, "nightly.promotion.min_images=2", "--workspace", tmp_path / "w")
    first = hypercolumns(*arguments, env=server.environment)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("promoted: model ")
    assert "new: the first night of this line: 9 images; 9 images extracted" in first.stdout
    again = hypercolumns(*arguments, "--json", env=server.environment)
    assert again.returncode == 0, again.stderr
    value = json.loads(again.stdout)
    assert (value["status"], value["line"]) == ("nothing new", "by-night")
    assert value["champion"]
    shown = hypercolumns("champion", "show", "by-night", "--workspace", tmp_path / "w", "--json", env=server.environment)
    assert json.loads(shown.stdout)[0]["champion"]["model"] == value["champion"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["extract", "pretrain", "train", "evaluate", "decide"])
def test_a_night_whose_process_is_killed_is_made_up_for_by_the_next_one(server, config, tmp_path, stage):
    places = Workspace(tmp_path / "w")
    arguments = ("nightly", config, "nightly.promotion.min_images=2", "--workspace", places.root, "--json")
    command = [sys.executable, "-c", "from cli.main import run; run()", *map(str, arguments)]
    with subprocess.Popen(command, env=server.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while stage not in stages_of_the_newest(places):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    done = stages_of_the_newest(places)
    decided = read_line(places, "by-night").model is not None
    ran = hypercolumns(*arguments, env=server.environment)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["status"] == ("nothing new" if decided else "promoted")
    assert decided or stage != "decide"
    assert [entry.kind for entry in read_line(places, "by-night").entries] == ["begun", "promoted"]
    if not decided:
        found = stages_of_the_newest(places)
        assert [name for name in done if not found[name]] == ["news", "data checks"], "what is committed is found"


def stages_of_the_newest(places):
    """Tell which stages the newest run has done, and whether it found each of them done."""
    views = list_runs(places.runs) if places.runs.exists() else []
    entries = views[0].entries if views else []
    return {entry.data["name"]: entry.data["cached"] for entry in entries if entry.kind == "stage"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nightly.promotion.min_gain=2", "promotion.min_gain"),
        ("nightly.promotoin.min_gain=0.1", "promotoin"),
        ("nightly.checks.duplicates=perhaps", "checks.duplicates"),
        ("nightly.from_scratch=maybe", "from_scratch"),
        ("nightly.warm_start=false", "got neither"),
    ],
)
def test_what_a_night_cannot_be_told_is_refused_with_the_field_s_path(config, tmp_path, override, message):
    from cli.config import load_experiment, load_night
    from hypercolumns.errors import SpecError

    with pytest.raises(SpecError, match=message):
        load_night(config, [override])
    assert load_experiment(config, []).name == "by-night", "other commands pass the section over"
    assert load_night(config, [])[1].from_scratch is False


def test_that_data_arrived_is_an_event_on_the_configured_server(server):
    told = hypercolumns(
        "notify", "data-arrived", "weeds-told", "--images", 12, "--note", "field 7", "--json", env=server.environment
    )
    assert told.returncode == 0, told.stderr
    value = json.loads(told.stdout)
    assert value["server"] == server.url
    deadline = time.monotonic() + 20
    query = {"filter": {"event": {"name": ["hypercolumns.data.arrived"]}, "resource": {"id": ["hypercolumns.line.weeds-told"]}}}
    while not (events := server.post("events/filter", **query)["events"]):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert [(event["id"], event["payload"]) for event in events] == [(value["id"], {"note": "field 7", "images": 12})]


def test_without_a_server_or_with_one_that_does_not_answer_nobody_is_told_and_the_error_says_so(server, tmp_path):
    nobody = hypercolumns("notify", "data-arrived", "weeds", env=python_environment(HOME=str(tmp_path)))
    assert nobody.returncode == 2
    assert "none is configured; set PREFECT_API_URL" in nobody.stderr
    gone = server.environment | {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    silent = hypercolumns("notify", "data-arrived", "weeds", env=gone)
    assert silent.returncode == 1, silent.stderr
    assert silent.stderr.splitlines()[-1].startswith("error: expected a Prefect server to tell of hypercolumns.data.arrived")
