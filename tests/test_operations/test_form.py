"""The forms, as a person meets them in a browser: filled, sent, watched, and the report read; and wrong values, refused."""

import re

import pytest

from storage.champions import read_line
from storage.runs import list_runs
from storage.workspace import Workspace
from tests.test_operations.browser import choose, field, fill, open_form, open_page, picture

pytestmark = pytest.mark.slow


def test_a_form_that_is_filled_and_sent_runs_to_a_report_that_can_be_read(up):
    with open_page() as page:
        open_form(page, up, "run-experiment")
        picture(page, "form")
        fill(page, "from-the-form", "config", "Name")
        fill(page, 12, "config", "Dataset", "Shapes", "Images")
        fill(page, 64, "config", "Dataset", "Shapes", "Size")
        fill(page, [64, 64], "config", "Store", "Canvas", "Size Hw")
        fill(page, 16, "config", "Head", "Hidden")
        choose(page, "receptive_field", "config", "Head", "Alignment")
        fill(page, 1, "config", "Pretrain", "Epochs")
        fill(page, 1, "config", "Train", "Epochs")
        fill(page, 20, "config", "Evaluate", "Bootstrap")
        field(page, "config", "Head").scroll_into_view_if_needed()
        picture(page, "form-filled")
        page.get_by_role("button", name="Submit").click()
        page.wait_for_url(re.compile("tab=Runs"))
        (run,) = [one["id"] for one in up.api.post("flow_runs/filter", deployments={"name": {"any_": ["run-experiment"]}})]
        page.goto(f"{up.said['ui']}/runs/flow-run/{run}")
        up.wait(run, {"RUNNING"})
        page.get_by_text("Running", exact=True).first.wait_for()
        assert up.wait(run, {"COMPLETED"}, 180)
        sent = up.api.get(f"flow_runs/{run}")
        assert sent["name"] == "from-the-form"
        assert sent["parameters"]["config"]["head"]["alignment"] == "receptive_field"
        page.get_by_text("Completed", exact=True).first.wait_for()
        page.get_by_text("report: done", exact=False).first.wait_for()
        picture(page, "run")
        page.get_by_text("Artifacts", exact=True).first.click()
        page.get_by_text("Report of run", exact=False).first.wait_for()
        (artifact,) = up.api.post("artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}})
        page.goto(f"{up.said['ui']}/artifacts/artifact/{artifact['id']}")
        shown = page.locator("img[src^='data:image/']")
        shown.first.wait_for()
        widths = shown.evaluate_all("images => images.map(image => image.naturalWidth)")
        assert widths
        assert min(widths) > 0, "every picture of the report is shown"
        assert "mean IU" in page.locator("body").inner_text()
        picture(page, "report")
        assert page.hosts - {""} == {up.said["ui"].removeprefix("http://")}, "nothing is asked of other hosts"
    (view,) = [view for view in list_runs(up.workspace / "runs") if view.spec["name"] == "from-the-form"]
    assert view.status == "finished"
    assert view.spec["store"]["canvas"]["size_hw"] == [64, 64]


def test_a_night_is_triggered_by_its_form_and_the_next_one_finds_nothing_new(up):
    ended = []
    for _ in range(2):
        before = {one["id"] for one in nights(up)}
        with open_page() as page:
            open_form(page, up, "nightly-retrain")
            fill(page, "night-by-form", "config", "Name")
            fill(page, 12, "config", "Dataset", "Shapes", "Images")
            fill(page, 64, "config", "Dataset", "Shapes", "Size")
            fill(page, [64, 64], "config", "Store", "Canvas", "Size Hw")
            fill(page, 16, "config", "Head", "Hidden")
            fill(page, 1, "config", "Pretrain", "Epochs")
            fill(page, 1, "config", "Train", "Epochs")
            page.get_by_role("button", name="Submit").click()
            page.wait_for_url(re.compile("tab=Runs"))
            (night,) = [one["id"] for one in nights(up) if one["id"] not in before]
            page.goto(f"{up.said['ui']}/runs/flow-run/{night}")
            assert up.wait(night, {"COMPLETED"}, 240)
            ended.append(up.api.get(f"flow_runs/{night}")["state_name"])
            page.get_by_text(ended[-1], exact=True).first.wait_for()
            picture(page, f"night-{len(ended)}")
    assert ended[0] != "Nothing new"
    assert ended[1] == "Nothing new"
    (evaluation,) = up.api.post("flow_runs/filter", deployments={"name": {"any_": ["evaluate-champion"]}})
    assert evaluation["parameters"] == {"line": "night-by-form"}, "the night that trained started it, the other one did not"
    up.wait(evaluation["id"], {"COMPLETED"})
    assert up.state(evaluation["id"])["name"] == "No frozen set"
    assert read_line(Workspace(up.workspace), "night-by-form").champion is not None


def nights(up):
    return up.api.post("flow_runs/filter", deployments={"name": {"any_": ["nightly-retrain"]}})


@pytest.mark.parametrize(
    ("value", "labels", "named"),
    [
        (-1, ("Head", "Hidden"), "config.head.hidden"),
        (100_000, ("Train", "Epochs"), "config.train.epochs"),
        ("two words", ("Name",), "config.name"),
    ],
)
def test_a_wrong_value_is_refused_with_its_field_s_name_before_any_work(up, value, labels, named):
    before = up.api.post("flow_runs/count", deployments={"name": {"any_": ["run-experiment"]}})
    with open_page() as page:
        open_form(page, up, "run-experiment")
        fill(page, value, "config", *labels)
        page.get_by_role("button", name="Submit").click()
        said = page.get_by_text("Error creating flow run", exact=False).first
        said.wait_for()
        page.wait_for_timeout(1000)  # until it has slid in
        picture(page, f"refused-{labels[-1].lower()}")
        assert f"Validation failed for field '{named}'" in said.inner_text()
        assert page.url.endswith("/run"), "the form is still there, as it was filled"
    assert up.api.post("flow_runs/count", deployments={"name": {"any_": ["run-experiment"]}}) == before
