"""Runs that are cancelled or killed: they end in the right state within seconds, and the next run finds what they committed."""

import time

import pytest

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
        page.get_by_role("button", name="Cancel").last.click()
        up.wait(run, {"CANCELLED"}, 30)
        assert time.monotonic() - begun < 15
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


def test_a_killed_process_crashes_its_run_at_once_and_a_retry_of_the_same_run_finds_its_stages(up):
    run = up.trigger("run-experiment", config=tiny_shapes("to-kill", sample={"pixels_per_class": 5}, train={"epochs": 300}))
    up.wait_until_training(run)
    begun = time.monotonic()
    up.flow_process(run).kill()
    state = up.wait(run, {"CRASHED"}, 30)
    assert time.monotonic() - begun < 10
    assert "SIGKILL" in state["message"]
    assert newest(up, "to-kill").status == "unknown"
    up.api.post(f"flow_runs/{run}/set_state", state={"type": "SCHEDULED", "name": "AwaitingRetry"}, force=True)
    up.wait(run, {"COMPLETED"}, 180)
    assert newest(up, "to-kill").status == "finished"
    stages = found_by(up, "to-kill")
    assert all(stages[name] for name in ("prepare", "extract", "sample", "pretrain"))
    assert not stages["train"]


def test_data_that_is_missing_fails_the_run_with_the_reason_and_is_not_tried_again(up, tmp_path):
    config = tiny_shapes("missing", dataset={"kind": "folder", "root": str(tmp_path / "nothing")})
    run = up.trigger("run-experiment", config=config)
    state = up.wait(run, {"FAILED"})
    assert "expected the data set's folder, found none" in state["message"]
    tasks = up.api.post("task_runs/filter", flow_runs={"id": {"any_": [run]}})
    assert [task["run_count"] for task in tasks] == [1]
