"""Automations on a real server: arrived data starts a night, its end starts an evaluation or a message, dead runs are ended.

The night and the evaluation are stand-ins of one line: what is tried here is who starts them, and who is told.
"""

import json
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cli.service.registration import register_automations
from cli.service.settings import ServiceSettings
from flows.automations import automations
from tests.pipeline_factory import REPOSITORY, python_environment, write_config
from tests.test_operations.conftest import long_shapes, running_up

_FLOWS = """
import time

from prefect import flow
from prefect.events import emit_event

RESOURCE = {"prefect.resource.id": "hypercolumns.line.weeds", "prefect.resource.name": "weeds"}

@flow(persist_result=False, result_serializer="json")
def nightly_retrain(fail: bool = False, seconds: float = 0, line: str = "weeds", arrived: str = ""):
    if arrived and arrived != line:
        return
    time.sleep(seconds)
    if fail:
        raise ValueError('no "labels" to learn from')
    emit_event(event="hypercolumns.champion.kept", resource=RESOURCE)

@flow(persist_result=False, result_serializer="json")
def evaluate_champion(line: str = "experiment"):
    pass
"""
_POOL = {"work_pool": {"name": "hypercolumns"}}
_ONE = {"limit": 1, "collision_strategy": "CANCEL_NEW"}
_PROJECT = {
    "name": "stand-in",
    "deployments": [
        {"name": "nightly-retrain", "entrypoint": "night_watch.nightly_retrain", "concurrency_limit": _ONE, **_POOL},
        {"name": "nightly-oats", "entrypoint": "night_watch.nightly_retrain", "parameters": {"line": "oats"}, **_POOL},
        {"name": "evaluate-champion", "entrypoint": "night_watch.evaluate_champion", **_POOL},
    ],
}
TOKEN = "T0KEN-of-the-webhook"
ALWAYS = {
    "hypercolumns: end runs without a heartbeat",
    "hypercolumns: end cancelled runs without a heartbeat",
    "hypercolumns: cancel runs that take too long",
}
TOLD = {"hypercolumns: tell of a failed night", "hypercolumns: tell of a failed night: nightly-oats"}
ARRIVED = {"hypercolumns: retrain when data arrives", "hypercolumns: retrain when data arrives: nightly-oats"}
ALL = ALWAYS | TOLD | ARRIVED | {"hypercolumns: evaluate what was trained"}


def test_only_what_fits_the_deployments_is_described():
    def names(nights, evaluate=None, block=None):
        described = automations(nights, evaluate, zombie_seconds=120, timeout_hours=1, webhook_block=block)
        return {automation["name"] for automation in described}

    two = {"nightly-retrain": "1", "nightly-oats": "3"}
    assert names({}, None, "block") == ALWAYS
    assert names({}, "2") == ALWAYS
    assert names({"nightly-retrain": "1"}) == ALWAYS | {"hypercolumns: retrain when data arrives"}
    assert names(two) == ALWAYS | ARRIVED
    assert names(two, "2", "block") == ALL


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.received.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def receiver():
    """A webhook on the loopback address that keeps what it is told."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Receiver)
    server.received = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def up(tmp_path_factory, receiver):
    folder = tmp_path_factory.mktemp("night")
    project = folder / "project"
    write_config(project / "prefect.yaml", _PROJECT)
    (project / "night_watch.py").write_text(_FLOWS, encoding="utf-8")
    environment = {
        "HYPERCOLUMNS_WEBHOOK": f"http://127.0.0.1:{receiver.server_port}/hooks/{TOKEN}",
        "PYTHONPATH": f"{REPOSITORY}:{project}",
    }
    options = ("--zombie-seconds", "45", "--timeout-hours", "0.02")
    with running_up(folder / "workspace", *options, project=project, environment=environment) as found:
        yield found


def runs_of(up, deployment):
    filters = {"deployments": {"name": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_DESC"}
    return up.api.post("flow_runs/filter", **filters)


def told_runs(receiver):
    return {json.loads(body)["flow_run_id"] for _, body in receiver.received}


def wait_for(condition, up, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, (up.text, up.worker_log)
        time.sleep(0.2)
    return found


@pytest.mark.slow
def test_all_are_registered_and_registering_again_changes_nothing_but_what_differs(up, receiver):
    before = {one["name"]: one for one in up.api.post("automations/filter")}
    assert set(before) == ALL
    url = f"http://127.0.0.1:{receiver.server_port}/hooks/{TOKEN}"
    settings = ServiceSettings(
        up.workspace, up.workspace / "prefect", up.url, True, webhook=url, zombie_seconds=45, timeout_hours=0.02
    )
    silent = before["hypercolumns: evaluate what was trained"]["id"]
    up.api.request("PATCH", f"automations/{silent}", {"enabled": False})
    assert set(register_automations(up.api, settings)) == ALL
    again = {one["name"]: one for one in up.api.post("automations/filter")}
    assert {name: one["trigger"]["id"] for name, one in again.items()} == {
        name: one["trigger"]["id"] for name, one in before.items()
    }
    assert again["hypercolumns: evaluate what was trained"]["enabled"] is False, "a user's switch is respected"
    up.api.request("PATCH", f"automations/{silent}", {"enabled": True})


@pytest.mark.slow
def test_a_night_that_fails_is_told_to_the_webhook_and_evaluates_nothing(up, receiver):
    evaluations = len(runs_of(up, "evaluate-champion"))
    run = up.trigger("nightly-retrain", fail=True)
    wait_for(lambda: receiver.received, up)
    # A busy server may send a message again: it forgets none, but does not promise to send it once.
    assert told_runs(receiver) == {run}
    path, body = receiver.received[0]
    assert path == f"/hooks/{TOKEN}"
    told = json.loads(body)
    assert told["flow_run_id"] == run
    assert told["deployment"] == "nightly-retrain"
    assert told["state"] == "Failed"
    assert 'no "labels" to learn from' in told["message"]
    assert "nightly-retrain" in told["text"]
    assert len(runs_of(up, "evaluate-champion")) == evaluations


@pytest.mark.slow
def test_an_event_of_arrived_data_starts_a_night_whose_end_starts_an_evaluation(up, receiver):
    nights, others = ({run["id"] for run in runs_of(up, name)} for name in ("nightly-retrain", "nightly-oats"))
    evaluations = {run["id"] for run in runs_of(up, "evaluate-champion")}
    command = ["event", "emit", "hypercolumns.data.arrived", "--resource-id", "hypercolumns.line.weeds"]
    environment = python_environment(PREFECT_API_URL=up.url, PREFECT_HOME=str(up.workspace / "client"))
    emitted = subprocess.run(
        [sys.executable, "-m", "prefect", *command], env=environment, capture_output=True, text=True, check=False
    )
    assert emitted.returncode == 0, emitted.stdout + emitted.stderr
    (night,) = wait_for(lambda: {run["id"] for run in runs_of(up, "nightly-retrain")} - nights, up)
    up.wait(night, {"COMPLETED"})
    (other,) = wait_for(lambda: {run["id"] for run in runs_of(up, "nightly-oats")} - others, up)
    parameters = [up.api.get(f"flow_runs/{run}")["parameters"] for run in (night, other)]
    assert parameters == [{"arrived": "weeds"}, {"arrived": "weeds", "line": "oats"}], "each sees whether it is meant"
    (evaluation,) = wait_for(lambda: {run["id"] for run in runs_of(up, "evaluate-champion")} - evaluations, up)
    up.wait(evaluation, {"COMPLETED"})
    assert up.api.get(f"flow_runs/{evaluation}")["parameters"] == {"line": "weeds"}
    assert not told_runs(receiver) & {night, evaluation}, "who succeeds is not told of"


@pytest.mark.slow
def test_a_night_keeps_the_next_one_away_and_is_cancelled_when_it_takes_too_long_and_its_process_ends(up, receiver):
    long = up.trigger("nightly-retrain", seconds=900)
    up.wait(long, {"RUNNING"})
    process = wait_for(lambda: up.flow_process(long), up)
    second = up.trigger("nightly-retrain")
    up.wait(second, {"CANCELLED"})
    assert up.api.get(f"flow_runs/{second}")["run_count"] == 0, "it never began"
    assert up.state(long)["type"] == "RUNNING"
    up.wait(long, {"CANCELLED"}, 72 + 90)
    assert not process.is_running()
    assert not told_runs(receiver) & {long, second}, "who is cancelled did not fail"
    third = up.trigger("nightly-retrain")
    assert up.wait(third, {"COMPLETED"}), "the place is free again"


@pytest.mark.slow
def test_a_run_whose_process_was_killed_is_ended_for_want_of_a_heartbeat_and_one_that_takes_too_long_is_cancelled(up, tmp_path):
    processes = []
    for name in ("zombie", "endless"):
        config = write_config(tmp_path / f"{name}.yaml", long_shapes(name))
        arguments = ["run", str(config), "--workspace", str(up.workspace)]
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", "from cli.main import run; run()", *arguments],
                env=python_environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    def run_named(name):
        found = up.api.post("flow_runs/filter", flow_runs={"name": {"any_": [name]}})
        return found[0] if found and found[0]["start_time"] else None

    try:
        zombie, endless = (wait_for(lambda name=name: run_named(name), up) for name in ("zombie", "endless"))
        processes[0].send_signal(signal.SIGKILL)
        processes[0].wait()
        state = up.wait(zombie["id"], {"CRASHED"}, 100)
        assert state["message"].startswith("No heartbeat for 45 s")
        assert up.state(endless["id"])["type"] == "RUNNING", "who sends heartbeats is left alone"
        up.wait(endless["id"], {"CANCELLING", "CANCELLED"}, 100)
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_run_that_dies_before_its_first_heartbeat_is_ended_and_one_that_was_to_be_cancelled_is_cancelled(up):
    flow = up.deployment("nightly-retrain")["flow_id"]

    def begin():
        """Make a run that begins, as its process would tell the server, and is never heard of again."""
        run = up.api.post("flow_runs/", flow_id=flow, state={"type": "PENDING"})["id"]
        assert up.api.post(f"flow_runs/{run}/set_state", state={"type": "RUNNING"})["status"] == "ACCEPT"
        return run

    silent, unheard = begin(), begin()
    assert up.api.post(f"flow_runs/{unheard}/set_state", state={"type": "CANCELLING"})["status"] == "ACCEPT"
    assert up.wait(silent, {"CRASHED"}, 100)["message"].startswith("No heartbeat for 45 s")
    assert up.wait(unheard, {"CANCELLED"}, 100)["message"].startswith("No heartbeat for 45 s after it was to be cancelled")


@pytest.mark.slow
def test_without_a_webhook_its_automation_and_its_block_are_removed(up):
    settings = ServiceSettings(up.workspace, up.workspace / "prefect", up.url, True, zombie_seconds=45, timeout_hours=0.02)
    assert set(register_automations(up.api, settings)) == ALL - TOLD
    assert {one["name"] for one in up.api.post("automations/filter")} == ALL - TOLD
    assert up.api.post("block_documents/filter") == []
