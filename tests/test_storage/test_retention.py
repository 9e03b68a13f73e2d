"""Forgetting runs: which folders go, and which stay whatever is asked."""

import os
import time

import numpy as np
import pytest

from storage.champions import Champion, promote, read_line
from storage.garbage import sweep
from storage.models import save_model
from storage.retention import forget_runs
from storage.runs import append, create_run, list_runs
from storage.workspace import Workspace

KEYS = ("a" * 20, "b" * 20, "c" * 20)


@pytest.fixture
def workspace(tmp_path):
    """Three runs that are over, each with a model, the first two of which became champions; and one in progress."""
    places = Workspace(tmp_path)
    for number, key in enumerate(KEYS):
        save_model(places.models, key, {"weight": np.ones(2)}, {})
        append(create_run(places.runs, f"run-{number}", {"keys": {"train": key}}), "finished", {})
    for number in range(2):
        champion = Champion(f"run-{number}", KEYS[number])
        promote(places, "line", champion, {}, who="night", expected=read_line(places, "line").model, reach=1)
    create_run(places.runs, "run-3", {})
    then = time.time() - 2 * 86400
    for path in places.models.iterdir():
        os.utime(path, (then, then))
    return places


def test_runs_that_are_over_go_and_those_of_champions_and_in_progress_stay(workspace):
    assert forget_runs(workspace, [f"run-{number}" for number in range(5)]) == ["run-2"]
    assert [view.run_id for view in list_runs(workspace.runs)] == ["run-3", "run-1", "run-0"], "the trash is no run"
    assert [item.path for item in sweep(workspace, 86400, remove=True).garbage] == [f"models/{KEYS[2]}"]


def test_what_falls_out_of_a_rollback_s_reach_may_be_forgotten(workspace):
    promote(workspace, "line", Champion("run-2", KEYS[2]), {}, who="night", expected=KEYS[1], reach=1)
    assert forget_runs(workspace, ["run-0", "run-1", "run-2"]) == ["run-0"]


def test_nothing_is_forgotten_that_was_not_named(workspace):
    assert forget_runs(workspace, []) == []
    assert len(list_runs(workspace.runs)) == 4
