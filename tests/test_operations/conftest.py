"""`hypercolumns up` as a real process on real ports, and what its tests ask of it."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest

from cli.service.api import Api
from cli.service.processes import marked_processes
from cli.service.settings import ServiceSettings
from tests.pipeline_factory import REPOSITORY, python_environment

ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
_READY_SECONDS = 240


def tiny_shapes(name="tiny", **sections):
    """Describe an experiment on twelve generated figures that is over in seconds."""
    values = {
        "name": name,
        "dataset": {"shapes": {"images": 12, "size": 64}},
        "store": {"canvas": {"size_hw": [64, 64]}},
        "head": {"hidden": 16},
        "pretrain": {"epochs": 1},
        "train": {"epochs": 1},
        "evaluate": {"bootstrap": 20, "panels": 1, "baselines": ["majority"]},
    }
    return {**values, **sections}


def long_shapes(name="long"):
    """Describe an experiment that trains until somebody ends it."""
    return tiny_shapes(name, train={"epochs": 10_000})


class Up:
    """A `hypercolumns up` that runs."""

    def __init__(self, process, log, workspace, auth=None):
        self.process, self.log, self.workspace = process, log, workspace
        self.said = self._wait_until_ready()
        self.url = self.said["api"]
        self.api = Api(self.url, auth)
        self.mark = ServiceSettings(workspace, workspace / "prefect", self.url, True).mark

    @property
    def text(self):
        return self.log.read_text(encoding="utf-8")

    def _wait_until_ready(self):
        deadline = time.monotonic() + _READY_SECONDS
        out = self.log.with_suffix(".out")
        while not out.read_text(encoding="utf-8").endswith("\n"):
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.1)
        return json.loads(out.read_text(encoding="utf-8").splitlines()[-1])

    def deployment(self, name):
        (found,) = self.api.post("deployments/filter", deployments={"name": {"any_": [name]}})
        return found

    def trigger(self, deployment, **parameters):
        """Ask for a run, and return its identifier."""
        path = f"deployments/{self.deployment(deployment)['id']}/create_flow_run"
        return self.api.post(path, parameters=parameters)["id"]

    def state(self, run):
        return self.api.get(f"flow_runs/{run}")["state"]

    def wait(self, run, types, seconds=120):
        """Wait until a run's state is of one of these types."""
        deadline = time.monotonic() + seconds
        while (state := self.state(run))["type"] not in types:
            assert time.monotonic() < deadline, (state, self.text, self.worker_log)
            assert state["type"] not in ENDED, (state, self.text, self.worker_log)
            time.sleep(0.1)
        return state

    def wait_until_training(self, run, seconds=120):
        """Wait until a run trains densely: something is committed by then, and there is more to do."""
        deadline = time.monotonic() + seconds
        while True:
            names = [task["name"] for task in self.api.post("task_runs/filter", flow_runs={"id": {"any_": [run]}})]
            if any(name.startswith("train") for name in names):
                return
            assert time.monotonic() < deadline, (self.state(run), self.worker_log)
            time.sleep(0.1)

    @property
    def worker_log(self):
        return (self.workspace / "prefect" / "logs" / "worker.log").read_text(encoding="utf-8")

    def processes(self, *words):
        """List the service's processes whose command line has all these words."""
        found = []
        for process in marked_processes(self.mark):
            try:
                line = " ".join(process.cmdline())
            except psutil.NoSuchProcess:
                continue
            if all(word in line for word in words):
                found.append(process)
        return found

    def flow_process(self, run):
        for process in self.processes("prefect.engine"):
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run:
                return process
        return None

    def stop(self, number=signal.SIGTERM, seconds=60):
        """Ask it to end, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def running_up(workspace, *options, auth=None, project=REPOSITORY, environment=None):
    """Start `hypercolumns up`, and leave nothing of it behind whatever happens."""
    workspace.mkdir(parents=True, exist_ok=True)
    log = workspace.parent / f"{workspace.name}-{time.monotonic_ns()}.log"
    command = [
        sys.executable,
        "-c",
        "from cli.main import run; run()",
        "up",
        "--port",
        "0",
        "--json",
        "--workspace",
        str(workspace),
    ]
    variables = python_environment(**(environment or {}))
    if auth:
        variables["HYPERCOLUMNS_AUTH"] = auth
    with log.open("w") as err, log.with_suffix(".out").open("w") as out:
        process = subprocess.Popen([*command, *options], stdout=out, stderr=err, cwd=project, env=variables)
    up = None
    try:
        up = Up(process, log, workspace, auth)
        yield up
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if up is not None:
            up.api.close()
            for left in marked_processes(up.mark):
                os.kill(left.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    """One service for all tests of a module that do not end it."""
    with running_up(tmp_path_factory.mktemp("operations") / "workspace") as found:
        yield found
