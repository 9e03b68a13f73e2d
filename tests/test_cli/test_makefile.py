"""What `make` does on a fresh checkout, seen by stand-ins for Python, uv and the command that note how they were called."""

import shutil
import subprocess

import pytest

from tests.pipeline_factory import REPOSITORY

_STAND_IN = '#!/bin/sh\necho "$(basename "$0") $*" >> "{log}"\n'


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Run make in a copy of the checkout's files that make reads; returns what it printed and what it called."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-cpu.lock"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    log = tmp_path / "calls.log"
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name in ("python", "uv", "hypercolumns", "ruff", "mypy", "lint-imports"):
        (tools / name).write_text(_STAND_IN.format(log=log), encoding="utf-8")
        (tools / name).chmod(0o755)
    for name in ("HYPERCOLUMNS_REAL_DATA", "MAKEFLAGS", "MAKELEVEL", "LOCK", "WORKSPACE", "ONLY"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments):
        log.write_text("", encoding="utf-8")
        command = ["make", "--no-print-directory", *arguments]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return ran, log.read_text(encoding="utf-8").splitlines()

    return run


def test_set_up_installs_uv_the_lock_and_the_project_once(make):
    ran, calls = make("setup")
    assert ran.returncode == 0, ran.stderr
    assert [call.split()[:3] for call in calls] == [["python", "-m", "pip"], ["uv", "pip", "sync"], ["uv", "pip", "install"]]
    assert "uv" in calls[0].split()
    assert "requirements.lock" in calls[1]
    assert "--no-deps" in calls[2]
    assert make("setup")[1] == [], "the second call starts at once"


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements.lock"])
def test_a_changed_lock_or_project_is_installed_again(make, tmp_path, name):
    make("setup")
    with (tmp_path / name).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert len(make("setup")[1]) == 3


def test_the_lock_for_machines_without_cuda_is_a_choice(make):
    _, calls = make("setup", "LOCK=requirements-cpu.lock")
    assert "requirements-cpu.lock" in calls[1]


def test_demo_sets_up_and_runs_the_demonstration_in_the_workspace(make):
    ran, calls = make("demo", "WORKSPACE=elsewhere")
    assert ran.returncode == 0, ran.stderr
    assert len(calls) == 4
    assert calls[-1] == "hypercolumns demo --workspace elsewhere"
    assert make("demo")[1] == ["hypercolumns demo --workspace workspace"]


def test_check_lints_types_layers_and_tests_and_ci_calls_it(make):
    make("setup")
    ran, calls = make("check")
    assert ran.returncode == 0, ran.stderr
    assert {call.split()[0] for call in calls} == {"ruff", "mypy", "lint-imports", "python"}
    assert any("pytest" in call and "--cov" in call for call in calls)


@pytest.mark.parametrize("target", ["real", "real-ablation"])
def test_real_data_must_be_named(make, target):
    make("setup")
    ran, calls = make(target)
    assert ran.returncode != 0
    assert "expected HYPERCOLUMNS_REAL_DATA=" in ran.stderr
    assert calls == []


def test_a_machine_without_a_fit_python_is_told_so(make):
    ran, calls = make("setup", "PYTHON=")
    assert ran.returncode != 0
    assert "expected Python 3.11 or newer" in ran.stderr
    assert calls == []


def test_help_names_the_targets(make):
    ran, _ = make("help")
    for target in ("demo", "test", "check", "test-all", "real", "bench", "setup"):
        assert f"make {target} " in ran.stdout
