"""The pieces of the service without a Prefect server: settings, the project's file, requests, hand-over, marks, words."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest

from cli.service.api import Api, NotFoundError
from cli.service.deployment import begin_deployment
from cli.service.environment import client_environment, server_environment
from cli.service.handover import abandoned_runs, hand_over
from cli.service.marker import running_service, take_lock, withdraw, write_marker
from cli.service.processes import Child, end_processes, flow_processes, marked_processes
from cli.service.project import find_project
from cli.service.registration import register_pool
from cli.service.settings import ServiceSettings, checked_auth, checked_webhook
from cli.service.status import read_status, spell_status
from hypercolumns.errors import SpecError
from hypercolumns.limits import spell_limits
from hypercolumns.specs import ExperimentSpec
from storage.errors import StorageError
from tests.pipeline_factory import write_config


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("PREFECT", "HYPERCOLUMNS"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "no-home"))


class _Stub(BaseHTTPRequestHandler):
    def _answer(self):
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length) or b"null")
        path = self.path.split("?")[0].removeprefix("/api/")
        self.server.requests.append((self.command, path, body, dict(self.headers)))
        status, value = self.server.answers.get((self.command, path), (404, {"detail": "nothing here"}))
        if isinstance(status, list):
            status = status.pop(0)
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _answer

    def log_message(self, *_):
        pass


@contextmanager
def serving_stub():
    """Serve what it is told to answer, and keep what it was asked."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Stub)
    server.answers, server.requests = {}, []
    server.url = f"http://127.0.0.1:{server.server_port}/api"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def stub():
    with serving_stub() as server:
        yield server


@pytest.fixture
def api(stub):
    with Api(stub.url, "me:secret") as found:
        yield found


def settings(tmp_path, **more):
    return ServiceSettings(tmp_path, tmp_path / "prefect", "http://127.0.0.1:4321/api", True, **more)


@pytest.mark.parametrize("busy", [503, 429])
def test_a_server_that_is_busy_is_asked_again_and_one_that_stays_so_is_named(api, stub, monkeypatch, busy):
    pauses = []
    monkeypatch.setattr("cli.service.api.time.sleep", pauses.append)
    stub.answers["POST", "flow_runs/"] = ([busy, busy, 201], {"id": "made"})
    assert api.post("flow_runs/") == {"id": "made"}
    assert len(pauses) == 2
    stub.answers["GET", "flows"] = (busy, {"exception_message": "Service Unavailable"})
    with pytest.raises(StorageError, match=f"GET .*flows: expected success, got {busy}"):
        api.get("flows")
    assert len([asked for asked in stub.requests if asked[0] == "GET" and asked[1] == "flows"]) == 6


@pytest.mark.parametrize("value", ["user", ":password", "user:", "user:pass\nword", "s3cret-without-colon"])
def test_an_auth_string_that_is_none_is_refused_without_repeating_it(value):
    with pytest.raises(SpecError, match="expected USER:PASSWORD") as error:
        checked_auth(value)
    assert value not in str(error.value)
    assert checked_auth("") is None
    assert checked_auth("user:pass:word") == "user:pass:word"


@pytest.mark.parametrize("value", ["example.com/T0KEN", "ftp://example.com/T0KEN", "http://", "http://a b/", "http://[::1"])
def test_a_webhook_that_is_no_address_is_refused_without_repeating_it(value):
    with pytest.raises(SpecError, match="expected http://HOST") as error:
        checked_webhook(value)
    assert value == "http://" or value not in str(error.value)
    assert checked_webhook(None) is None
    assert checked_webhook("https://hooks.example/T0KEN") == "https://hooks.example/T0KEN"


def test_the_user_s_server_is_used_where_one_is_named_and_one_of_ours_otherwise(tmp_path, monkeypatch):
    own = ServiceSettings.of(tmp_path, 4321)
    assert (own.own_server, own.api_url, own.ui_url, own.port) == (
        *(True, "http://127.0.0.1:4321/api", "http://127.0.0.1:4321"),
        4321,
    )
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example/api/")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:secret")
    given = ServiceSettings.of(tmp_path, 4321)
    assert (given.own_server, given.api_url, given.auth) == (False, "https://prefect.example/api", "me:secret")
    assert "secret" not in repr(given)
    assert given.mark == own.mark != ServiceSettings.of(tmp_path / "other").mark


def test_secrets_go_where_they_are_needed_and_proxies_are_not_asked_for_loopback(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERCOLUMNS_AUTH", "me:secret")
    monkeypatch.setenv("HYPERCOLUMNS_WEBHOOK", "https://hooks.example/T0KEN")
    monkeypatch.setenv("NO_PROXY", "example.com")
    found = settings(tmp_path, auth="me:secret", webhook="https://hooks.example/T0KEN")
    server, client = server_environment(found), client_environment(found)
    assert server["PREFECT_SERVER_API_AUTH_STRING"] == client["PREFECT_API_AUTH_STRING"] == "me:secret"
    assert "PREFECT_API_URL" not in server
    assert client["HYPERCOLUMNS_HOME"] == str(tmp_path)
    for environment in (server, client):
        assert not any("T0KEN" in value for value in environment.values())
        assert environment["NO_PROXY"] == "example.com,127.0.0.1,localhost"
        assert environment["HYPERCOLUMNS_SERVICE"] == found.mark
    assert "PREFECT_API_AUTH_STRING" not in client_environment(settings(tmp_path))


def test_prefect_yaml_is_found_in_the_given_the_current_or_the_code_s_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "run-experiment" in find_project(None).deployments
    write_config(tmp_path / "prefect.yaml", {"deployments": [{"name": "one"}, {"name": "two"}]})
    assert find_project(None).deployments == ("one", "two")
    assert find_project(tmp_path / "prefect.yaml").folder == tmp_path
    with pytest.raises(SpecError, match="with --project DIR"):
        find_project(tmp_path / "elsewhere")


@pytest.mark.parametrize("text", ["[1, 2", "deployments: []", "deployments: [{entrypoint: x}]", "just text", "\x00"])
def test_a_prefect_yaml_without_deployments_is_refused(tmp_path, text):
    (tmp_path / "prefect.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=r"prefect\.yaml: expected"):
        find_project(tmp_path)


def test_a_request_carries_the_password_and_the_token_and_renews_a_token_that_expired(stub, api):
    stub.answers = {("GET", "csrf-token"): (200, {"token": "t"}), ("POST", "things"): ([403, 200], {"id": 1})}
    assert api.post("things", name="x") == {"id": 1}
    methods = [(method, path) for method, path, _, _ in stub.requests]
    assert methods == [("GET", "csrf-token"), ("POST", "things")] * 2
    assert stub.requests[-1][3]["Prefect-Csrf-Token"] == "t"
    assert stub.requests[-1][3]["Authorization"].startswith("Basic ")
    assert stub.requests[-1][2] == {"name": "x"}


def test_what_a_server_refuses_is_explained(stub, api):
    stub.answers = {("GET", "secret"): (401, {}), ("GET", "broken"): (500, {"detail": "on fire"})}
    with pytest.raises(NotFoundError, match="got 404"):
        api.get("nothing")
    with pytest.raises(SpecError, match=r"asks for another auth string\. Remedy: --auth USER:PASSWORD"):
        api.get("secret")
    with pytest.raises(StorageError, match=r"got 500: .*on fire"):
        api.get("broken")
    with Api("http://127.0.0.1:9/api") as nowhere:
        assert nowhere.healthy() is False
        with pytest.raises(StorageError, match=r"expected a Prefect server at http://127\.0\.0\.1:9/api, got no answer"):
            nowhere.get("anything")


def test_a_pool_of_another_type_is_refused(stub, api):
    stub.answers = {("GET", "work_pools/hypercolumns"): (200, {"type": "kubernetes"})}
    with pytest.raises(StorageError, match="of type process, got 'kubernetes'"):
        register_pool(api)


def run_of(state, **more):
    return {"id": "r", "name": "night", "state_type": state, "run_count": 1, **more}


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (run_of("RUNNING"), ("SCHEDULED", "AwaitingRetry")),
        (run_of("CRASHED"), ("SCHEDULED", "AwaitingRetry")),
        (run_of("CANCELLING"), ("CANCELLED", None)),
        (run_of("RUNNING", run_count=5), ("CRASHED", None)),
        (run_of("COMPLETED"), None),
        (run_of("CANCELLED"), None),
    ],
)
def test_a_run_that_lost_its_process_goes_on_unless_it_ended_or_kills_its_workers(stub, api, run, expected):
    stub.answers = {("GET", "flow_runs/r"): (200, run), ("POST", "flow_runs/r/set_state"): (201, {})}
    names = hand_over(api, ["r", "unknown"], "its worker died", most_starts=5)
    set_states = [body for method, path, body, _ in stub.requests if path.endswith("set_state")]
    found = [(body["state"]["type"], body["state"].get("name")) for body in set_states]
    assert found == ([expected] if expected else [])
    assert names == (["night"] if expected and expected[0] == "SCHEDULED" else [])


def test_runs_are_abandoned_only_when_nobody_else_may_run_them(stub, api):
    workers = ("POST", "work_pools/hypercolumns/workers/filter")
    ours = {"name": "ours", "status": "ONLINE"}
    stub.answers = {workers: (200, [ours]), ("POST", "flow_runs/filter"): (200, [{"id": "a"}, {"id": "b"}])}
    assert abandoned_runs(api, ["b"], "ours") == ["a"]
    stub.answers[workers] = (200, [ours, {"name": "elsewhere", "status": "ONLINE"}])
    assert abandoned_runs(api, ["b"], "ours") == []
    stub.answers[workers] = (200, [ours, {"name": "elsewhere", "status": "OFFLINE"}])
    assert abandoned_runs(api, [], "ours") == ["a", "b"]


def test_there_is_one_service_of_a_workspace_and_it_is_believed_while_it_lives(tmp_path):
    assert running_service(tmp_path) is None
    with take_lock(tmp_path):
        write_marker(tmp_path, "http://127.0.0.1:1/api", tmp_path)
        found = running_service(tmp_path)
        assert (found.pid, found.api_url) == (os.getpid(), "http://127.0.0.1:1/api")
        code = "import sys; from pathlib import Path; from cli.service.marker import take_lock; take_lock(Path(sys.argv[1]))"
        second = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
        assert f"found one (process {os.getpid()}, http://127.0.0.1:1/api)" in second.stderr
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "service.json").write_text(json.dumps({"pid": ended.pid, "api_url": "x", "project": "y"}), encoding="utf-8")
    assert running_service(tmp_path) is None
    (tmp_path / "service.json").write_text("torn", encoding="utf-8")
    assert running_service(tmp_path) is None
    withdraw(tmp_path)
    withdraw(tmp_path)


def test_processes_are_found_by_their_mark_and_ended_even_if_they_do_not_listen(tmp_path):
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    (tmp_path / "stubborn.py").write_text(code, encoding="utf-8")
    found = settings(tmp_path)
    environment = {**os.environ, "HYPERCOLUMNS_SERVICE": found.mark, "PREFECT__FLOW_RUN_ID": "run-1"}
    environment["PYTHONPATH"] = str(tmp_path)
    child = Child("stubborn", ["-m", "stubborn"], environment, found.logs, tmp_path)
    while "ready" not in child.tail():
        assert child.code is None, child.tail()
    (process,) = marked_processes(found.mark)
    assert process.pid == child.pid
    assert list(flow_processes([process, psutil.Process()])) == ["run-1"]
    end_processes([process], 0.2)
    child.end(1)
    assert child.code is not None
    assert marked_processes(found.mark) == []
    again = Child("stubborn", ["-m", "no_such_module"], environment, found.logs, tmp_path)
    while again.code is None:
        time.sleep(0.05)
    again.end(1)
    assert "no_such_module" in again.tail()
    assert "ready" in (found.logs / "stubborn.log.1").read_text(encoding="utf-8"), "the last one's words are kept"


def test_a_deployment_imports_the_flows_and_waits_until_it_is_told_to_go(tmp_path):
    entries = [
        {"name": "one", "entrypoint": "flows_of_mine.nightly"},
        {"name": "two", "entrypoint": "flows_of_mine.weekly"},
        {"name": "three", "entrypoint": "by_path.py:nightly"},
        {"name": "four", "entrypoint": "broken_flows.nightly"},
    ]
    write_config(tmp_path / "prefect.yaml", {"deployments": entries})
    (tmp_path / "flows_of_mine.py").write_text("print('imported', flush=True)", encoding="utf-8")
    (tmp_path / "broken_flows.py").write_text("raise RuntimeError('which the deployment tells')", encoding="utf-8")
    (tmp_path / "prefect.py").write_text("import sys; print('deploys by', sys.argv[1:])", encoding="utf-8")
    project = find_project(tmp_path)
    assert project.modules == ("flows_of_mine", "broken_flows")
    child = begin_deployment(project, os.environ, tmp_path)
    while "imported" not in child.tail():
        assert child.code is None, child.tail()
    time.sleep(0.2)
    assert child.code is None, "it waits"
    child.go()
    while child.code is None:
        time.sleep(0.05)
    child.end(1)
    assert child.tail().splitlines() == ["imported", "deploys by ['--no-prompt', 'deploy', '--all']"]
    unwanted = begin_deployment(project, os.environ, tmp_path)
    unwanted.end(10)
    assert "deploys" not in unwanted.tail()


def test_status_names_what_is_not_well_and_spells_the_rest(stub):
    stub.answers = {
        ("GET", "health"): (200, True),
        ("GET", "admin/version"): (200, "3.8"),
        ("POST", "work_pools/filter"): (200, []),
        ("POST", "deployments/filter"): (200, []),
        ("POST", "automations/filter"): (200, [{"name": "hypercolumns: x", "enabled": False, "tags": ["hypercolumns"]}]),
        ("POST", "flow_runs/filter"): (200, []),
    }
    status = read_status(stub.url, None, None)
    assert [problem.split(".")[0] for problem in status["problems"]] == [
        "no worker sent a heartbeat in the last 90 s: nothing runs",
        "no deployment in the work pool 'hypercolumns'",
    ]
    assert "automation   hypercolumns: x  SWITCHED OFF" in spell_status(status)
    stub.answers |= {
        ("POST", "work_pools/filter"): (200, [{}]),
        ("POST", "work_pools/hypercolumns/workers/filter"): (
            200,
            [
                {"name": "w", "status": "OFFLINE", "last_heartbeat_time": "2020-01-01T00:00:00+00:00"},
                {"name": "never", "status": "OFFLINE", "last_heartbeat_time": None},
            ],
        ),
        ("POST", "deployments/filter"): (
            200,
            [
                {
                    **{"name": "night", "id": "d", "paused": False},
                    "schedules": [{"active": True, "schedule": {"cron": "30 3 * * *", "timezone": "Etc/UTC"}}],
                },
                {"name": "halted", "id": "e", "paused": True, "schedules": []},
            ],
        ),
        ("POST", "flow_runs/filter"): (
            200,
            [
                {
                    **{"id": "r", "name": "run", "deployment_id": "d", "state_name": "Failed"},
                    "start_time": "2026-01-02T03:30:00+00:00",
                }
            ],
        ),
    }
    status = read_status(stub.url, None, None)
    assert len(status["problems"]) == 1
    text = spell_status(status)
    assert "30 3 * * * Etc/UTC" in text
    assert "paused" in text
    assert "2026-01-02 03:30:00  Failed" in text


def test_limits_stand_beside_what_a_field_means():
    schema = {
        "properties": {
            "both": {"description": "a", "minimum": 0, "maximum": 8192},
            "open": {"description": "b", "exclusiveMinimum": 0, "maximum": 2.5},
            "maybe": {"description": "c", "anyOf": [{"minimum": 1}, {"type": "null"}]},
            "pair": {"description": "d", "prefixItems": [{"minimum": 16, "maximum": 4096}] * 2},
            "free": {"description": "e", "type": "string"},
            "mute": {"minimum": 0},
        }
    }
    spell_limits(schema)
    assert [field.get("description") for field in schema["properties"].values()] == [
        *("a (0 to 8,192)", "b (more than 0, at most 2.5)", "c (at least 1)", "d (16 to 4,096)"),
        *("e", None),
    ]


def test_every_field_of_an_experiment_s_form_is_explained_optional_and_its_numbers_have_limits():
    schema = ExperimentSpec.model_json_schema()
    for name, definition in {**schema["$defs"], "ExperimentSpec": schema}.items():
        assert not definition.get("required"), name
        for key, field in definition["properties"].items():
            assert field.get("description"), f"{name}.{key}"
            kinds = [field, *field.get("anyOf", ())]
            if any(kind.get("type") in {"integer", "number"} for kind in kinds):
                limits = {limit for kind in kinds for limit in kind}
                assert limits & {"minimum", "exclusiveMinimum"}, f"{name}.{key}"
