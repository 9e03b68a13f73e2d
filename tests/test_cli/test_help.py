"""Every command explains itself, at once: help imports neither torch nor Prefect."""

import json
import subprocess

import pytest
import typer.main

from cli.main import app
from tests.pipeline_factory import python, python_environment


def commands(group, path=()):
    """List the paths of all commands and groups."""
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


COMMANDS = list(commands(typer.main.get_command(app)))
GROUPS = {path for path in COMMANDS if any(other[: len(path)] == path for other in COMMANDS if other != path)}


def test_the_commands_are_those_that_are_promised():
    assert set(COMMANDS) == {
        (),
        *((name,) for name in ("demo", "run", "plan", "predict", "pretrain-backbone")),
        *((name,) for name in ("extract", "sample", "pretrain", "train", "evaluate", "report")),
        *((name,) for name in ("segment", "keypoints", "parts", "compare-heads", "predict-boxes")),
        *(("store",), ("store", "ls"), ("store", "info"), ("store", "du"), ("store", "verify"), ("store", "repair")),
        *(("store", "gc"), ("store", "evict"), ("store", "compact"), ("store", "at"), ("store", "statistics")),
        *(("runs",), ("runs", "ls"), ("runs", "show"), ("shapes",), ("shapes", "make")),
        *(("champion",), ("champion", "show"), ("champion", "history"), ("champion", "rollback"), ("champion", "pin")),
        ("champion", "report"),
        *((name,) for name in ("segment", "keypoints", "parts", "compare-heads", "predict-boxes", "up", "status")),
        *(("nightly",), ("notify",), ("notify", "data-arrived")),
    }


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_a_help_text_and_every_command_that_does_something_prints_json(hypercolumns, path):
    ran = hypercolumns(*path, "--help")
    assert ran.code == 0
    assert len(ran.out.splitlines()) > 5
    if path not in GROUPS:
        assert "--json" in ran.out
    if path not in GROUPS and path[0] not in {"shapes", "pretrain-backbone", "notify"}:
        assert "--workspace" in ran.out
        assert "HYPERCOLUMNS_HOME" in ran.out


def test_help_imports_neither_torch_nor_prefect_nor_zarr():
    code = """
import json, sys
sys.argv = ["hypercolumns", "--help"]
from cli.main import run
try:
    run()
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps([name for name in ("torch", "prefect", "zarr", "numpy", "dask") if name in sys.modules]))
"""
    ran = subprocess.run(python(code), capture_output=True, text=True, check=True, env=python_environment())
    assert json.loads(ran.stdout.splitlines()[-1]) == []
    assert "hypercolumns" in ran.stdout
