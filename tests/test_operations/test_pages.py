"""What people set in Prefect's pages outlives the next `up`, unless prefect.yaml says something else than it said then."""

import copy
import json

import pytest

from cli.service.api import Api
from cli.service.pages import PageChanges, read_settings
from storage.errors import StorageError
from tests.pipeline_factory import REPOSITORY, write_config
from tests.test_operations.browser import open_page
from tests.test_operations.conftest import running_up
from tests.test_operations.test_pieces import serving_stub
from tests.test_operations.test_up import wait_until

_FLOW = """
from prefect import flow

@flow(persist_result=False, result_serializer="json")
def nightly_retrain(count: int = 0, name: str = "x"):
    pass
"""
_NIGHT = {
    "name": "nightly-retrain",
    "entrypoint": "night_watch.nightly_retrain",
    "work_pool": {"name": "hypercolumns"},
    "parameters": {"name": "of-the-file"},
    "schedules": [
        {"slug": "every-night", "cron": "30 3 * * *", "timezone": "Etc/UTC", "active": False},
        {"slug": "every-hour", "interval": 3600, "active": False},
        {"slug": "every-year", "cron": "0 0 1 1 *", "timezone": "Etc/UTC", "active": False},
    ],
}


@pytest.mark.slow
def test_what_is_set_in_the_pages_stays_over_a_restart_until_the_file_says_something_else(tmp_path):
    project = tmp_path / "project"
    write_config(project / "prefect.yaml", {"name": "stand-in", "deployments": [_NIGHT]})
    (project / "night_watch.py").write_text(_FLOW, encoding="utf-8")
    options = {"project": project, "environment": {"PYTHONPATH": f"{REPOSITORY}:{project}"}}
    with running_up(tmp_path / "workspace", **options) as up:
        night = up.deployment("nightly-retrain")
        path, there = f"deployments/{night['id']}", {one["slug"]: one for one in night["schedules"]}
        assert "set in the pages" not in up.text
        with open_page() as page:
            page.goto(f"{up.said['ui']}/deployments/deployment/{night['id']}")
            page.locator(".deployment-schedule-card", has_text="every-night").get_by_role("switch").click()
            wait_until(lambda: schedule_of(up, "every-night")["active"])
        up.api.request("DELETE", f"{path}/schedules/{there['every-year']['id']}")
        up.api.request("POST", f"{path}/schedules", [{"schedule": {"cron": "0 12 * * 1", "timezone": "Etc/UTC"}}])
        up.api.request("PATCH", path, {"parameters": {"name": "of-the-pages", "count": 3}})
        wanted = read_settings(up.api)["nightly-retrain"]
        assert up.stop() == 0
    for _ in range(2):
        with running_up(tmp_path / "workspace", **options) as up:
            assert meaning(read_settings(up.api)["nightly-retrain"]) == meaning(wanted)
            assert "nightly-retrain: kept as it was set in the pages: parameters.count, parameters.name, schedules." in up.text
            assert up.stop() == 0
    changed = copy.deepcopy(_NIGHT) | {"parameters": {"name": "of-the-new-file"}}
    changed["schedules"][0]["cron"] = "45 2 * * *"
    write_config(project / "prefect.yaml", {"name": "stand-in", "deployments": [changed]})
    with running_up(tmp_path / "workspace", **options) as up:
        night = up.deployment("nightly-retrain")
        assert night["parameters"] == {"name": "of-the-new-file", "count": 3}
        said = 'parameters.name is as prefect.yaml says now; what was set in the pages is gone: {"value": "of-the-pages"}'
        assert said in up.text
        every_night = schedule_of(up, "every-night")
        assert (every_night["active"], every_night["schedule"]["cron"]) == (False, "45 2 * * *")
        assert len(night["schedules"]) == 3


def schedule_of(up, slug):
    (found,) = (one for one in up.deployment("nightly-retrain")["schedules"] if one["slug"] == slug)
    return found


def meaning(settings):
    """Leave out from when an interval is counted."""
    text = {key: json.dumps(value, sort_keys=True) for key, value in settings.items()}
    return {key: value.split('"anchor_date"')[0] for key, value in text.items()}


def deployment(parameters=(), active=False, **more):
    cron = {"cron": "0 3 * * *", "timezone": "UTC", "day_or": True}
    schedule = {"id": "s", "slug": "nightly", "active": active, "schedule": cron, "max_scheduled_runs": None, "parameters": {}}
    return {"name": "night", "id": "d", "paused": False, "parameters": dict(parameters), "schedules": [schedule], **more}


@pytest.fixture
def stub():
    with serving_stub() as server:
        server.answers = {(method, "deployments/d"): (200, None) for method in ("PATCH",)}
        server.answers |= {("PATCH", "deployments/d/schedules/s"): (200, None), ("GET", "health"): (200, True)}
        yield server


@pytest.fixture
def api(stub):
    with Api(stub.url) as found:
        yield found


def changes_of(stub):
    return [(method, path, body) for method, path, body, _ in stub.requests if method in {"PATCH", "DELETE"}]


def deploy(stub, api, home, before, after):
    """Be a deployment: what the server has goes from `before` to `after`."""
    stub.answers["POST", "deployments/filter"] = (200, [before] if before else [])
    changes = PageChanges(api, home)
    stub.answers["POST", "deployments/filter"] = (200, [after])
    return changes


def test_a_first_deployment_and_one_that_nobody_changed_put_back_nothing(stub, api, tmp_path):
    assert deploy(stub, api, tmp_path, None, deployment()).put_back() == []
    assert deploy(stub, api, tmp_path, deployment(), deployment({"name": "new"})).put_back() == []
    assert changes_of(stub) == []


def test_a_change_that_the_file_makes_too_is_not_told_of_as_lost(stub, api, tmp_path):
    deploy(stub, api, tmp_path, None, deployment()).put_back()
    assert deploy(stub, api, tmp_path, deployment(active=True), deployment(active=True)).put_back() == []
    assert changes_of(stub) == []


def test_what_no_longer_fits_the_form_is_told_and_no_schedule_starts_without_it(stub, api, tmp_path):
    deploy(stub, api, tmp_path, None, deployment()).put_back()
    stub.answers["PATCH", "deployments/d"] = (409, {"detail": "'count' is no number"})
    found = deployment({"count": "many"}, active=True)
    (told,) = deploy(stub, api, tmp_path, found, deployment()).put_back()
    assert told.startswith("night: what was set in the pages no longer fits, and is gone: {")
    assert '"many"' in told
    assert "'count' is no number" in told
    assert [path for _, path, _ in changes_of(stub)] == ["deployments/d"]


def test_killed_while_it_deployed_the_next_one_puts_back_what_the_first_found(stub, api, tmp_path):
    deploy(stub, api, tmp_path, None, deployment()).put_back()
    deploy(stub, api, tmp_path, deployment(active=True), deployment())  # and is killed
    told = deploy(stub, api, tmp_path, deployment(), deployment()).put_back()
    assert told == ["night: kept as it was set in the pages: schedules.nightly"]
    ((_, path, body),) = changes_of(stub)
    assert (path, body["active"]) == ("deployments/d/schedules/s", True)


def test_a_server_that_went_away_meanwhile_loses_nothing(stub, api, tmp_path):
    deploy(stub, api, tmp_path, None, deployment()).put_back()
    changes = deploy(stub, api, tmp_path, deployment(active=True), deployment())
    stub.answers["PATCH", "deployments/d/schedules/s"] = (500, {"detail": "gone"})
    stub.answers["GET", "health"] = (500, None)
    with pytest.raises(StorageError, match="expected success, got 500"):
        changes.put_back()
    stub.answers["PATCH", "deployments/d/schedules/s"] = (200, None)
    assert deploy(stub, api, tmp_path, deployment(), deployment()).put_back() == [
        "night: kept as it was set in the pages: schedules.nightly"
    ]


def test_a_note_of_the_last_deployment_that_cannot_be_read_is_named_with_the_remedy(api, tmp_path):
    (tmp_path / "deployed.json").write_text("torn", encoding="utf-8")
    with pytest.raises(StorageError, match=r"deployed.json: expected a JSON object.* Remedy: remove it"):
        PageChanges(api, tmp_path)
