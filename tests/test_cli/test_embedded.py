"""Which Prefect a command uses: the server that the user's settings name, else an embedded one inside the workspace."""

import json
import os
import subprocess

import pytest

from cli.embedded import configure_prefect, configured_server
from tests.pipeline_factory import python, python_environment

ADDRESS = "http://127.0.0.1:4999/api"


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """Start from an environment without Prefect settings, restored afterwards, with a home of its own."""
    for name in [name for name in os.environ if name.startswith("PREFECT") or name == "DO_NOT_TRACK"]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ["PREFECT_HOME"] = str(tmp_path / "home")
    (tmp_path / "home").mkdir()
    return tmp_path / "home" / "profiles.toml"


def test_without_settings_there_is_no_server(settings):
    assert configured_server() is None


def test_the_environment_names_a_server(settings):
    os.environ["PREFECT_API_URL"] = ADDRESS
    assert configured_server() == ADDRESS


@pytest.mark.parametrize(
    ("profiles", "expected"),
    [
        (f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{ADDRESS}"\n', ADDRESS),
        (f'active = "other"\n[profiles.other]\n[profiles.mine]\nPREFECT_API_URL = "{ADDRESS}"\n', None),
        ('active = "gone"\n[profiles.mine]\n', None),
        ("this is not toml [", None),
    ],
)
def test_the_active_profile_names_a_server(settings, profiles, expected):
    settings.write_text(profiles, encoding="utf-8")
    assert configured_server() == expected


def test_another_profile_can_be_chosen_by_the_environment(settings):
    settings.write_text(f'active = "a"\n[profiles.a]\n[profiles.b]\nPREFECT_API_URL = "{ADDRESS}"\n', encoding="utf-8")
    os.environ["PREFECT_PROFILE"] = "b"
    assert configured_server() == ADDRESS


def test_an_embedded_server_keeps_its_home_in_the_workspace_and_tells_that_the_first_start_is_slow(settings, tmp_path, capsys):
    home = tmp_path / "workspace" / "prefect"
    configure_prefect(home)
    assert os.environ["PREFECT_HOME"] == str(home)
    assert os.environ["PREFECT_PROFILES_PATH"] == str(home / "profiles.toml")
    assert "its first start in a workspace takes about 20 s" in capsys.readouterr().err
    home.mkdir(parents=True)
    (home / "prefect.db").write_bytes(b"")
    configure_prefect(home)
    assert "first start" not in capsys.readouterr().err


def test_telemetry_is_off_and_results_are_json_unless_the_user_says_otherwise(settings, tmp_path):
    os.environ["PREFECT_LOGGING_LEVEL"] = "DEBUG"
    configure_prefect(tmp_path)
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert os.environ["DO_NOT_TRACK"] == "1"
    assert os.environ["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"
    assert os.environ["PREFECT_LOGGING_LEVEL"] == "DEBUG"


def test_prefect_understands_every_setting_that_it_is_given(settings, tmp_path):
    code = """
import json, sys
from pathlib import Path
from cli.embedded import configure_prefect
configure_prefect(Path(sys.argv[1]))
from prefect.settings import get_current_settings
found = get_current_settings()
print(json.dumps({
    "home": str(found.home), "profiles": str(found.profiles_path), "telemetry": found.server.analytics_enabled,
    "serializer": found.results.default_serializer, "persist": found.results.persist_by_default,
    "level": found.logging.level, "colors": found.logging.colors, "heartbeat": found.flows.heartbeat_frequency,
    "server": found.api.url,
}))
"""
    home = tmp_path / "workspace" / "prefect"
    environment = python_environment(HOME=str(tmp_path))
    ran = subprocess.run(python(code, str(home)), capture_output=True, text=True, env=environment, check=True)
    assert json.loads(ran.stdout.splitlines()[-1]) == {
        **{"home": str(home), "profiles": str(home / "profiles.toml"), "server": None},
        **{"telemetry": False, "serializer": "json", "persist": False},
        **{"level": "WARNING", "colors": False, "heartbeat": 30},
    }


def test_a_server_of_the_user_s_is_used_with_the_user_s_home(settings, tmp_path, capsys):
    os.environ["PREFECT_API_URL"] = ADDRESS
    configure_prefect(tmp_path / "workspace")
    assert os.environ["PREFECT_HOME"] == str(settings.parent)
    assert f"using the Prefect server at {ADDRESS}" in capsys.readouterr().err


def test_an_embedded_server_answers_on_the_loopback_address_and_ends_when_it_is_stopped(settings, tmp_path):
    code = """
import sys, urllib.request
from pathlib import Path
from cli.embedded import EmbeddedServer, configure_prefect
assert configure_prefect(Path(sys.argv[1]))
server = EmbeddedServer()
server.wait()
assert server.url.startswith("http://127.0.0.1:")
with urllib.request.urlopen(server.url + "/health") as answer:
    print(answer.status)
server.stop()
try:
    urllib.request.urlopen(server.url + "/health", timeout=2)
except OSError:
    print("ended")
"""
    ran = subprocess.run(
        python(code, str(tmp_path / "prefect")),
        capture_output=True,
        text=True,
        env=python_environment(HOME=str(tmp_path)),
        check=True,
    )
    assert ran.stdout.split() == ["200", "ended"]
