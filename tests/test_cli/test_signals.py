"""A run that is told to end, by a signal in the middle of training: over within seconds, told of rightly, and resumed."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.runs import read_run
from tests.pipeline_factory import python_environment, write_config
from tests.test_operations.conftest import tiny_shapes

pytestmark = pytest.mark.slow

_BOXES = {
    "name": "to-be-ended",
    "instances": {"shapes": {"images": 24, "size": 96}},
    "store": {"canvas": {"size_hw": [96, 96]}},
    "pairs": {"boxes": 200},
    "train": {"cell_boxes": 50, "cell_iterations": 3, "epochs": 2, "batch": 8},
    "evaluate": {"bootstrap": 10},
}
_FIGURES = tiny_shapes("to-be-ended", train={"epochs": 2})


@contextmanager
def command(*arguments, home, log):
    """Start a command as a terminal does: in a group of processes of its own, interruptible; leave nothing behind."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from cli.main import run; run()"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            env=python_environment(HOME=str(home)),
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def wait_for(condition, log, seconds=240):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    return found


def epochs_of(workspace):
    """List the epochs that have a checkpoint."""
    return {int(path.stem.removeprefix("epoch-")) for path in workspace.glob("checkpoints/*/epoch-??????.safetensors")}


def servers_of(workspace):
    """List the processes that have this workspace's Prefect home in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(workspace / "prefect").encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("verb", "values"), [("segment", _BOXES), ("run", _FIGURES)])
def test_a_signal_to_all_of_a_terminal_s_processes_ends_a_run_in_training_which_the_next_one_resumes(
    tmp_path, verb, values, number
):
    workspace, log = tmp_path / "workspace", tmp_path / "log"
    config = write_config(tmp_path / "long.yaml", {**values, "train": {**values["train"], "epochs": 10_000}})
    arguments = (verb, config, "--workspace", workspace, "--json")
    with command(*arguments, home=tmp_path, log=log) as process:
        # The sparse stage has one epoch: this is the dense one, or the head's.
        wait_for(lambda: max(epochs_of(workspace), default=0) >= 3, log)
        os.killpg(process.pid, number)
        # What is asserted is that it ends by itself: a client that tries again to reach a dead server takes half a minute.
        process.wait(25)
    assert process.returncode == {signal.SIGTERM: -signal.SIGTERM, signal.SIGINT: 130}[number], log.read_text()
    (folder,) = (path for path in (workspace / "runs").iterdir() if path.is_dir())
    run = read_run(folder)
    assert run.status == "failed"
    assert run.reason.startswith("interrupted (")
    wait_for(lambda: not servers_of(workspace), log, 20)
    with sqlite3.connect(workspace / "prefect" / "prefect.db") as database:
        assert database.execute("select state_type from flow_run").fetchall() == [("CRASHED",)]
    assert not list(workspace.rglob("*.partial"))
    before = epochs_of(workspace)
    with command(*arguments, home=tmp_path, log=log) as process:
        assert min(wait_for(lambda: epochs_of(workspace) - before, log)) > max(before), "it went on where it was"
        process.kill()
        process.wait()
    wait_for(lambda: not servers_of(workspace), log, 20)


def test_a_run_that_is_killed_while_its_server_starts_leaves_no_server_behind(tmp_path):
    workspace, log = tmp_path / "workspace", tmp_path / "log"
    config = write_config(tmp_path / "a.yaml", _FIGURES)
    with command("run", config, "--workspace", workspace, home=tmp_path, log=log) as process:
        wait_for(lambda: len(servers_of(workspace)) > 0, log)
        process.kill()
        process.wait()
    wait_for(lambda: not servers_of(workspace), log, 60)


def test_a_short_run_with_an_embedded_server_is_over_as_soon_as_it_has_printed(tmp_path):
    workspace, log = tmp_path / "workspace", tmp_path / "log"
    config = write_config(tmp_path / "a.yaml", _FIGURES)
    with command("extract", config, "--workspace", workspace, "--json", home=tmp_path, log=log) as process:
        printed, _ = process.communicate()
    assert process.returncode == 0, log.read_text()
    assert json.loads(printed)["cache"]
    assert servers_of(workspace) == []
