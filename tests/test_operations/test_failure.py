"""Runs that are cancelled or killed: they end in the right state within seconds, and the next run finds what they committed."""

import time

import pytest

from storage.checkpoints import latest_checkpoint
from storage.models import read_description
from storage.runs import list_runs
from tests.test_operations.browser import open_page, picture
from tests.test_operations.conftest import long_shapes, tiny_shapes

pytestmark = pytest.mark.slow


def found_by(up, name):
    """Tell which stages the newest run of a name found done."""
    view = next(view for view in list_runs(up.workspace / "runs") if view.spec["name"] == name)
    return {entry.data["name"]: entry.data["cached"] for entry in view.entries if entry.kind == "stage"}


def newest(up, name):
    return next(view for view in list_runs(up.workspace / "runs") if view.spec["name"] == name)


def checkpoints(up):
    return set((up.workspace / "checkpoints").glob("*"))


def epochs_kept(folders):
    """Tell after how many epochs the state of a training was kept."""
    found = [latest_checkpoint(folder) for folder in folders]
    return max((checkpoint.epoch for checkpoint in found if checkpoint is not None), default=0)


def test_cancelled_in_the_browser_a_run_ends_within_seconds_and_the_next_finds_its_stages(up):
    run = up.trigger("run-experiment", config=long_shapes("to-cancel"))
    up.wait_until_training(run)
    process = up.flow_process(run)
    with open_page() as page:
        page.goto(f"{up.said['ui']}/runs/flow-run/{run}")
        page.get_by_role("button", name="Cancel").first.click()
        page.wait_for_timeout(500)
        picture(page, "cancel")
        begun = time.monotonic()
        page.get_by_role("button", name="Confirm").click()
        up.wait(run, {"CANCELLED"}, 60)
        assert time.monotonic() - begun < 45, "Prefect gives a process 30 s to end"
        page.get_by_text("Cancelled", exact=True).first.wait_for()
    assert not process.is_running()
    assert newest(up, "to-cancel").status == "failed"
    assert found_by(up, "to-cancel")["extract"] is False
    again = up.trigger("run-experiment", config=tiny_shapes("after-cancel"))
    up.wait(again, {"COMPLETED"})
    assert {name: cached for name, cached in found_by(up, "after-cancel").items() if name in {"extract", "sample"}} == {
        "extract": True,
        "sample": True,
    }


def test_a_killed_process_crashes_its_run_at_once_and_the_same_again_finds_its_stages(up):
    config = tiny_shapes("to-kill", sample={"pixels_per_class": 5}, train={"epochs": 300})
    others = checkpoints(up)
    run = up.trigger("run-experiment", config=config)
    up.wait_until_training(run)
    deadline = time.monotonic() + 60
    while not (epochs := epochs_kept(checkpoints(up) - others)):
        assert time.monotonic() < deadline, up.worker_log
        time.sleep(0.05)
    begun = time.monotonic()
    up.flow_process(run).kill()
    state = up.wait(run, {"CRASHED"}, 30)
    assert time.monotonic() - begun < 10
    assert "SIGKILL" in state["message"]
    assert newest(up, "to-kill").status == "unknown"
    again = up.trigger("run-experiment", config=config)
    up.wait(again, {"COMPLETED"}, 180)
    assert newest(up, "to-kill").status == "finished"
    stages = found_by(up, "to-kill")
    assert all(stages[name] for name in ("prepare", "extract", "sample", "pretrain"))
    assert not stages["train"]
    (key,) = (entry.data["keys"]["train"] for entry in newest(up, "to-kill").entries if entry.data.get("name") == "train")
    assert epochs <= read_description(up.workspace / "models" / key)["history"]["resumed_from"] < 300


def test_data_that_is_missing_fails_the_run_with_the_reason_and_is_not_tried_again(up, tmp_path):
    config = tiny_shapes("missing", dataset={"kind": "folder", "root": str(tmp_path / "nothing")})
    run = up.trigger("run-experiment", config=config)
    state = up.wait(run, {"FAILED"})
    assert "expected the data set's folder, found none" in state["message"]
    tasks = up.api.post("task_runs/filter", flow_runs={"id": {"any_": [run]}})
    assert [task["run_count"] for task in tasks] == [1]
