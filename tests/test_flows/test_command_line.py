"""Commands that run a flow, as processes of their own against a real server: what they print, and how they end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline_factory import LAYERS, python_environment, tiny_values, write_config

_RUN_KEYS = {"run_id", "run_dir", "report", "metrics", "baselines", "cache", "timings", "certificate", "artefacts"}
_METRICS = {"pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu", "per_class_iu"}


def hypercolumns(*arguments, env, timeout=600):
    code = "from cli.main import run; run()"
    command = [sys.executable, "-c", code, *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=timeout, check=False)


def test_run_prints_one_json_object_on_the_last_line_and_nothing_else_on_stdout(server, data, tmp_path):
    config = write_config(tmp_path / "tiny.yaml", tiny_values(data, name="by-command"))
    arguments = ("run", config, "head.hidden=8", "--workspace", tmp_path / "w", "--json")
    cold = hypercolumns(*arguments, env=server.environment)
    assert cold.returncode == 0, cold.stderr
    assert len(cold.stdout.splitlines()) == 1, "everything else goes to stderr"
    value = json.loads(cold.stdout)
    assert set(value) == _RUN_KEYS
    assert set(value["metrics"]) >= _METRICS
    assert set(value["metrics"]["per_class_iu"]) == {"ground", "box", "disc", "stripe"}
    assert set(value["baselines"]) >= {"majority", "prior"}
    assert Path(value["report"]).is_file()
    assert Path(value["run_dir"]).name == value["run_id"]
    assert value["certificate"]
    assert all(seconds >= 0 for seconds in value["timings"].values())
    assert value["cache"] == {layer: {"hits": 0, "misses": 9} for layer in LAYERS}
    assert f"using the Prefect server at {server.url}" in cold.stderr
    assert "\r" not in cold.stderr, "no progress bar when nobody watches"
    run = server.flow_run("run-experiment", "by-command")
    assert run["state_type"] == "COMPLETED"
    assert run["parameters"]["config"]["head"]["hidden"] == 8
    assert not (tmp_path / "w" / "prefect" / "prefect.db").exists(), "no embedded server beside the user's"


def test_an_error_inside_a_flow_is_one_line_on_the_terminal_and_whole_in_the_server_s_log(server, data, tmp_path):
    config = write_config(tmp_path / "tiny.yaml", tiny_values(data, name="by-mistake"))
    message = "/nowhere/at/all: expected the data set's folder, found none"
    arguments = ("extract", config, "dataset.root=/nowhere/at/all", "--workspace", tmp_path / "w", "--json")
    ran = hypercolumns(*arguments, env=server.environment)
    assert ran.returncode == 2, ran.stderr
    assert ran.stdout == ""
    assert ran.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert ran.stderr.count(message) == 1, ran.stderr
    assert "Traceback" not in ran.stderr
    run = server.flow_run("extract-features", "by-mistake")
    assert run["state_type"] == "FAILED"
    logs = server.post("logs/filter", logs={"flow_run_id": {"any_": [run["id"]]}})
    assert any("Traceback" in line["message"] and message in line["message"] for line in logs)


def processes_of(home):
    """List processes that have this Prefect home in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(home).encode() in environment:
                found.append((entry.name, (entry / "cmdline").read_bytes()))
    return found


@pytest.mark.slow
def test_without_a_server_a_run_starts_an_embedded_one_in_the_workspace_and_leaves_none_behind(data, tmp_path):
    config = write_config(tmp_path / "tiny.yaml", tiny_values(data))
    home = tmp_path / "home"
    home.mkdir()
    environment = python_environment(HOME=str(home))
    arguments = (config, "--workspace", tmp_path / "w", "--json")
    cold = hypercolumns("run", *arguments, env=environment)
    assert cold.returncode == 0, cold.stderr
    assert set(json.loads(cold.stdout.splitlines()[-1])) == _RUN_KEYS
    assert "starting the embedded Prefect server; its first start in a workspace takes about 20 s" in cold.stderr
    assert (tmp_path / "w" / "prefect" / "prefect.db").is_file()
    assert not (home / ".prefect").exists(), "the user's own Prefect home is left alone"
    assert processes_of(tmp_path / "w" / "prefect") == []
    warm = hypercolumns("extract", *arguments, env=environment)
    assert warm.returncode == 0, warm.stderr
    assert "first start" not in warm.stderr
    assert json.loads(warm.stdout.splitlines()[-1])["cache"] == {layer: {"hits": 9, "misses": 0} for layer in LAYERS}
    failed = hypercolumns("extract", config, "dataset.root=/nowhere", "--workspace", tmp_path / "w", env=environment)
    assert failed.returncode == 2, failed.stderr
    assert "Traceback" not in failed.stderr
