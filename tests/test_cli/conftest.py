"""Fixtures of the command line's tests: the command in this process, a tiny data set, and a workspace that holds one run."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from tasks.record import begin_run, finish_run, note_stage
from tests.factories import write_folder
from tests.pipeline_factory import Outcome, run_tasks, tiny_spec, tiny_values, write_config


@dataclass(frozen=True)
class Ran:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def last(self):
        """The JSON on the last line of stdout."""
        return json.loads(self.out.splitlines()[-1])


@pytest.fixture
def hypercolumns(monkeypatch):
    """Run the command in this process; without the user's own settings."""
    for name in ("HYPERCOLUMNS_HOME", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def data(tmp_path):
    return write_folder(tmp_path / "data", splits={"train": 6, "val": 3}, image_hw=(48, 64))


@pytest.fixture
def config(tmp_path, data):
    return write_config(tmp_path / "tiny.yaml", tiny_values(data))


@dataclass(frozen=True)
class Finished:
    """A workspace that holds one finished run, made without Prefect."""

    config: Path
    workspace: Path
    run_id: str
    outcome: Outcome


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run one experiment for all tests of a module, which may look but not touch."""
    folder = tmp_path_factory.mktemp("finished")
    data = write_folder(folder / "data", splits={"train": 6, "val": 3}, image_hw=(48, 64))
    spec = tiny_spec(data)
    outcome = run_tasks(spec, folder / "workspace")
    job = begin_run(spec, folder / "workspace")
    for name, stage in zip(("prepare", "extract", "sample", "pretrain", "train", "evaluate"), outcome.stages, strict=True):
        note_stage(job, name, stage)
    finish_run(job, outcome.evaluated.metrics, None)
    return Finished(write_config(folder / "tiny.yaml", tiny_values(data)), folder / "workspace", job.run_dir.name, outcome)
