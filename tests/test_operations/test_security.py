"""What strangers on the machine, on the network and in the browser can do with a service: nothing."""

import json
import re
import sqlite3

import httpx
import psutil
import pytest

from tests.factories import write_folder
from tests.pipeline_factory import tiny_values
from tests.test_operations.browser import open_page, picture
from tests.test_operations.conftest import running_up

pytestmark = pytest.mark.slow
AUTH = "operator:c0rrect-horse-battery"
TOKEN = "T0KEN-of-the-webhook"
HOSTILE = "<script>window.hacked=1</script>"


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    folder = tmp_path_factory.mktemp("security")
    environment = {"HYPERCOLUMNS_WEBHOOK": f"http://127.0.0.1:9/hooks/{TOKEN}"}
    with running_up(folder / "workspace", auth=AUTH, environment=environment) as found:
        yield found


@pytest.fixture(scope="module")
def ran(up, tmp_path_factory):
    """Run an experiment with a hostile name of an image to its end, and one that fails."""
    root = write_folder(tmp_path_factory.mktemp("data") / "data", splits={"train": 4, "val": 2}, image_hw=(48, 64))
    for folder in ("images", "masks"):
        path = next((root / folder / "val").iterdir())
        path.rename(path.with_name(f"{HOSTILE.replace('/', '∕')}{path.suffix}"))
    run = up.trigger("run-experiment", config=tiny_values(root, name="hostile"))
    failing = up.trigger("extract-features", config=tiny_values(root / "missing", name="failing"))
    up.wait(run, {"COMPLETED"}, 180)
    up.wait(failing, {"FAILED"}, 120)
    return run


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


@pytest.mark.parametrize("auth", [None, ("operator", "wrong"), ("", "")])
def test_without_the_auth_string_every_door_is_shut(up, auth):
    up.api.post("variables/filter")  # so that it has a token against cross-site requests: that alone opens nothing
    headers = up.api._csrf_headers()
    assert headers
    for method, path in (
        ("POST", "flow_runs/filter"),
        ("POST", "deployments/filter"),
        ("POST", "block_documents/filter"),
        ("GET", "admin/version"),
        ("GET", "admin/settings"),
        ("GET", "csrf-token?client=x"),
    ):
        answer = httpx.request(method, f"{up.url}/{path}", auth=auth, json={}, headers=headers)
        assert answer.status_code == 401, path
    assert httpx.get(f"{up.url}/admin/version", auth=tuple(AUTH.split(":"))).status_code == 200


def test_it_listens_on_the_loopback_address_alone(up):
    listening = [
        connection.laddr.ip
        for process in up.processes()
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}


def test_a_foreign_web_page_changes_nothing_even_from_a_browser_that_may(up):
    origin = {"Origin": "http://evil.example"}
    auth = tuple(AUTH.split(":"))
    blind = httpx.post(f"{up.url}/variables/", auth=auth, headers=origin, content=b'{"name": "x", "value": 1}')
    assert blind.status_code == 403, "no token against cross-site requests"
    assert httpx.post(f"{up.url}/variables/filter", auth=auth, json={}).status_code == 403
    asked = httpx.options(f"{up.url}/variables/", headers={**origin, "Access-Control-Request-Method": "POST"})
    assert "access-control-allow-origin" not in asked.headers
    assert up.api.post("variables/filter") == []


def test_neither_password_nor_webhook_is_in_arguments_in_records_in_reports_in_logs_or_in_the_data_base(up, ran):
    secrets = [secret.encode() for secret in (AUTH, AUTH.split(":")[1], TOKEN)]
    for process in [psutil.Process(up.process.pid), *up.processes()]:
        assert not any(secret.decode() in " ".join(process.cmdline()) for secret in secrets)
    searched = files(up.workspace)
    assert {"record.jsonl", "report.html", "prefect.db", "server.log", "worker.log"} <= {path.name for path in searched}
    for path in searched:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret in content], path
    assert not any(secret.decode() in up.text for secret in secrets)


def test_nothing_is_pickled_anywhere(up, ran):
    for path in files(up.workspace):
        content = path.read_bytes()
        assert b"cloudpickle" not in content, path
        # How pickle's protocols 4 and 5 begin, in base64: the form in which Prefect keeps a pickled result.
        assert not re.search(rb"(?:^|\")gA[SW]V", content), path
        assert not re.match(rb"\x80[\x02-\x05]", content), path
    for path in files(up.workspace / "prefect" / "storage"):
        assert json.loads(path.read_bytes()), "a failure may leave its exception, as JSON"
    with sqlite3.connect(f"file:{up.workspace / 'prefect' / 'prefect.db'}?mode=ro", uri=True) as base:
        kept = [json.loads(row[0]) for row in base.execute("select data from flow_run_state where data is not null")]
    base.close()
    assert all((one or {}).get("serializer", {}).get("type", "json") == "json" for one in kept)


def test_an_image_named_like_a_script_is_text_in_the_report_and_in_prefect_s_pages(up, ran):
    (report,) = (path for path in files(up.workspace / "runs") if path.name == "report.html")
    name = HOSTILE.replace("/", "∕")
    assert name not in report.read_text(encoding="utf-8")
    with open_page() as page:
        page.goto(report.as_uri())
        assert page.evaluate("() => window.hacked") is None
        assert name in page.locator("body").inner_text(), "its name is shown, as it is"
        picture(page, "hostile-report")
        page.goto(up.said["ui"])
        page.evaluate("value => localStorage.setItem('prefect-password', btoa(value))", AUTH)
        (artifact,) = up.api.post("artifacts/filter", artifacts={"flow_run_id": {"any_": [ran]}})
        page.goto(f"{up.said['ui']}/artifacts/artifact/{artifact['id']}")
        page.get_by_text("mean IU", exact=False).first.wait_for()
        assert page.evaluate("() => window.hacked") is None
        picture(page, "hostile-artifact")
