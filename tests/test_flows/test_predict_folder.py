"""The watched folder as a flow against a real server."""

from importlib import import_module

import pytest

from hypercolumns.errors import SpecError
from storage.champions import Champion, promote
from storage.workspace import Workspace
from tests.factories import make_image, make_mask, save_image
from tests.pipeline_factory import run_tasks, tiny_spec


def flow():
    return import_module("flows.predict_folder").predict_folder


def test_images_in_the_inbox_get_masks_and_the_run_says_how_many(prefect_here, data, workspace):
    with pytest.raises(SpecError, match="expected a champion to label images with"):
        flow()(line="folder-line", workspace=workspace)
    ran = run_tasks(tiny_spec(data), workspace)
    promote(Workspace(workspace), "folder-line", Champion("run", ran.trained.key), {}, who="night", expected=None)
    for number in range(2):
        save_image(workspace / "inbox" / "folder-line" / f"{number}.png", make_image(make_mask(seed=number), seed=number))
    found = flow()(line="folder-line", settle_seconds=0.0, workspace=workspace)
    assert len(found.masks) == 2
    assert all(mask.parent == workspace / "predictions" / "folder-line" for mask in found.masks)
    again = flow()(line="folder-line", settle_seconds=0.0, workspace=workspace)
    assert (again.masks, again.known) == ((), 2)
    runs = prefect_here.post("flow_runs/filter", flow_runs={"name": {"any_": ["folder-line"]}}, sort="START_TIME_ASC")
    messages = [run["state"]["message"] for run in runs]
    assert "expected a champion" in messages[0]
    assert messages[1:] == [
        f"2 masks written; model {ran.trained.key}",
        f"2 images known already; model {ran.trained.key}",
    ]
