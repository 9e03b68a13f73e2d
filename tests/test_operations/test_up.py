"""`hypercolumns up`, for real: from nothing to a run, its end without orphans, its next start, and deaths."""

import json
import os
import signal
import subprocess
import sys
import time

import httpx
import psutil
import pytest

from storage.runs import list_runs
from tests.pipeline_factory import REPOSITORY, python_environment
from tests.test_operations.conftest import ENDED, long_shapes, running_up, tiny_shapes

pytestmark = pytest.mark.slow


def hypercolumns(*arguments, **variables):
    command = [sys.executable, "-c", "from cli.main import run; run()", *(str(argument) for argument in arguments)]
    environment = python_environment(**variables)
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY, timeout=120, check=False)


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_from_nothing_to_a_triggered_run_that_runs_within_a_minute(tmp_path, record_property):
    begun = time.monotonic()
    with running_up(tmp_path / "workspace") as up:
        ready = time.monotonic() - begun
        run = up.trigger("run-experiment", config=tiny_shapes())
        up.wait(run, {"RUNNING"})
        running = time.monotonic() - begun
        assert up.wait(run, {"COMPLETED"})
        record_property("seconds", {"ready": round(ready, 1), "running": round(running, 1)})
        # A minute on two cores of its own; tests share theirs with others.
        assert running < 60 * max(1.0, os.getloadavg()[0] / 2)
        assert "its first start in a workspace takes about 20 s" in up.text
        (view,) = list_runs(up.workspace / "runs")
        assert view.status == "finished"


def test_every_deployment_of_the_file_is_there_and_status_tells_how_all_is(up):
    ran = hypercolumns("status", "--workspace", up.workspace, "--json")
    assert ran.returncode == 0, ran.stderr
    status = json.loads(ran.stdout)
    assert {one["name"] for one in status["deployments"]} >= {"run-experiment", "write-report"}
    assert status["server"]["healthy"] is True
    assert status["up"] == up.process.pid
    assert [worker["status"] for worker in status["workers"]] == ["ONLINE"]
    assert {one["name"] for one in status["automations"]} >= {
        "hypercolumns: end runs without a heartbeat",
        "hypercolumns: cancel runs that take too long",
    }
    assert status["problems"] == []
    assert up.api.get("v2/concurrency_limits/gpu")["limit"] == 1
    spelled = hypercolumns("status", "--workspace", up.workspace).stdout
    assert "healthy" in spelled
    assert "run-experiment" in spelled


def test_status_without_a_service_says_so_and_fails(tmp_path):
    ran = hypercolumns("status", "--workspace", tmp_path, PREFECT_API_URL="http://127.0.0.1:1/api")
    assert ran.returncode == 1
    assert "no Prefect server answers at http://127.0.0.1:1/api. Remedy: hypercolumns up" in ran.stdout


def test_a_second_one_on_the_same_workspace_is_refused(up):
    ran = hypercolumns("up", "--port", "0", "--workspace", up.workspace)
    assert ran.returncode == 2
    assert f"process {up.process.pid}" in ran.stderr
    assert httpx.get(f"{up.url}/health").is_success, "the first one is as it was"
    assert hypercolumns("status", "--workspace", up.workspace).returncode == 0


def test_a_port_that_is_taken_is_refused_before_anything_starts(up, tmp_path):
    port = up.url.rsplit(":", 1)[1].split("/")[0]
    ran = hypercolumns("up", "--port", port, "--workspace", tmp_path)
    assert ran.returncode == 2
    assert f"got {port} (Address already in use)" in ran.stderr
    assert not (tmp_path / "prefect" / "logs").exists()


def test_a_server_that_does_not_come_up_is_explained_with_what_it_printed(tmp_path):
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "prefect.db").write_bytes(b"this is no data base, and never was one\n" * 100)
    ran = hypercolumns("up", "--port", "0", "--workspace", tmp_path)
    assert ran.returncode == 1
    assert "the Prefect server: ended with exit code" in ran.stderr
    assert "file is not a database" in ran.stderr


def test_a_server_of_the_user_s_is_used_and_survives(up, tmp_path):
    with running_up(tmp_path / "other", environment={"PREFECT_API_URL": up.url, "PREFECT_HOME": str(tmp_path)}) as second:
        assert second.url == up.url
        assert not second.processes("uvicorn")
        assert second.stop() == 0
    assert httpx.get(f"{up.url}/health").is_success


def test_a_command_in_the_same_workspace_uses_the_server_that_runs(up):
    ran = hypercolumns("extract", "dataset.shapes.images=4", "dataset.shapes.size=64", "--workspace", up.workspace)
    assert ran.returncode == 0, ran.stderr
    assert f"using the Prefect server at {up.url}, which `hypercolumns up` runs" in ran.stderr
    runs = up.api.post("flow_runs/filter", flows={"name": {"any_": ["extract-features"]}})
    assert [run["state_type"] for run in runs] == ["COMPLETED"]


def _extractions(up):
    """Say of every extraction that was done in the workspace, the first one first, whether its result was there already."""
    return [
        entry.data["cached"]
        for view in reversed(list_runs(up.workspace / "runs"))
        for entry in view.entries
        if entry.kind == "stage" and entry.data["name"] == "extract"
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_a_run_trains_it_leaves_no_process_and_goes_on_with_the_run_when_started_again(tmp_path, number):
    with running_up(tmp_path / "workspace") as up:
        run = up.trigger("run-experiment", config=long_shapes())
        up.wait_until_training(run)
        tree = psutil.Process(up.process.pid).children(recursive=True)
        assert {"uvicorn", "worker", "prefect.engine"} <= {word for p in tree for word in p.cmdline()}
        assert up.stop(number) == 0
        assert "run long goes on with the next worker" in up.text
        assert not up.processes()
        # A number may be given to another process meanwhile: psutil compares the times of birth, too.
        assert [process for process in tree if process.is_running()] == []
        first = len(list_runs(up.workspace / "runs"))
    with running_up(tmp_path / "workspace", "--timeout-hours", "0.5") as up:
        up.wait(run, {"RUNNING"})
        # The first process's tasks stand in the same run: that the second has come as far, its own record says.
        wait_until(lambda: len(_extractions(up)) > 1, 120)
        assert len(list_runs(up.workspace / "runs")) == first + 1
        extractions = _extractions(up)
        assert extractions[:2] == [False, True], "what was extracted before is found"


def test_a_worker_that_is_killed_is_started_again_and_its_run_goes_on(tmp_path):
    with running_up(tmp_path / "workspace") as up:
        # The run that goes on must not be taken for a second one that its own limit keeps away.
        path = f"deployments/{up.deployment('run-experiment')['id']}"
        up.api.request("PATCH", path, {"concurrency_options": {"collision_strategy": "CANCEL_NEW"}})
        run = up.trigger("run-experiment", config=long_shapes())
        up.wait_until_training(run)
        (worker,) = up.processes("prefect", "worker")
        flow = up.flow_process(run)
        flow.kill()
        worker.kill()
        wait_until(lambda: up.state(run)["name"] == "AwaitingRetry" or up.api.get(f"flow_runs/{run}")["run_count"] > 1)
        wait_until(lambda: up.api.get(f"flow_runs/{run}")["run_count"] == 2, 120)
        assert "the worker ended with exit code -9; starting it again" in up.text
        # Alone, its process lives on without anybody who could cancel it: it is replaced.
        (worker,) = up.processes("prefect", "worker")
        up.wait(run, {"RUNNING"})
        orphan = up.flow_process(run)
        worker.kill()
        wait_until(lambda: up.api.get(f"flow_runs/{run}")["run_count"] == 3, 120)
        assert not orphan.is_running()
        up.api.post(f"flow_runs/{run}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
        assert up.wait(run, {"CANCELLED"}, 60)


def test_a_run_that_was_started_five_times_is_crashed_and_a_worker_that_dies_again_and_again_ends_all(tmp_path):
    with running_up(tmp_path / "workspace") as up:
        run = up.trigger("run-experiment", config=long_shapes())
        for start in range(1, 6):
            wait_until(lambda start=start: up.api.get(f"flow_runs/{run}")["run_count"] == start and up.flow_process(run), 120)
            (worker,) = up.processes("prefect", "worker")
            worker.kill()
        # The process that is ended says so first.
        told = "its worker died; it was started 5 times, and is not started again"
        wait_until(lambda: up.state(run)["message"] == told, 120)
        assert up.state(run)["type"] == "CRASHED"
        wait_until(lambda: up.processes("prefect", "worker"))
        (worker,) = up.processes("prefect", "worker")
        worker.kill()
        assert up.process.wait(60) == 1
        assert up.text.count("the worker ended with exit code -9; starting it again") == 5
        assert "error: the worker ended with exit code -9, once more within 10 minutes; it printed:" in up.text
        assert not up.processes()


def test_a_server_that_is_killed_is_started_again_and_the_run_of_that_time_ends_well(tmp_path):
    with running_up(tmp_path / "workspace") as up:
        run = up.trigger("run-experiment", config=tiny_shapes(train={"epochs": 40}))
        up.wait_until_training(run)
        (server,) = up.processes("uvicorn")
        server.kill()
        wait_until(lambda: "the server ended with exit code -9; starting it again" in up.text)
        wait_until(up.api.healthy)
        assert up.wait(run, {"COMPLETED"}, 180)
        assert hypercolumns("status", "--workspace", up.workspace).returncode == 0


def test_killed_itself_the_next_one_ends_what_it_left_and_goes_on_with_its_run(tmp_path):
    with running_up(tmp_path / "workspace") as up:
        run = up.trigger("run-experiment", config=long_shapes())
        up.wait_until_training(run)
        left = psutil.Process(up.process.pid).children(recursive=True)
        os.kill(up.process.pid, signal.SIGKILL)
        up.process.wait()
        assert all(process.is_running() for process in left)
        with running_up(tmp_path / "workspace") as again:
            assert "processes that an earlier `hypercolumns up` left behind" in again.text
            assert [process for process in left if process.is_running()] == []
            wait_until(lambda: again.api.get(f"flow_runs/{run}")["run_count"] == 2, 120)
            assert again.state(run)["type"] not in ENDED
