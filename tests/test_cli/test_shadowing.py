"""A foreign package called tasks, storage or flows never runs in ours' place: the start says which file it is."""

import subprocess
import sys

import pytest

from cli.shadowing import foreign_package
from tests.pipeline_factory import REPOSITORY, python, python_environment

_MODULE = "import sys; sys.argv = ['hypercolumns', 'runs', 'ls']; from cli.main import run; run()"


def plant(folder, name, *, package):
    """Write a foreign package or module that fails if anybody runs it."""
    path = folder / name / "__init__.py" if package else folder / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("raise RuntimeError('foreign code ran')\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "package"), [("tasks", True), ("storage", False), ("flows", True), ("hypercolumns", False)])
def test_a_foreign_package_in_the_current_folder_is_named_with_the_remedy(tmp_path, name, package):
    path = plant(tmp_path, name, package=package)
    # `python -c`, like `python -m`, puts the current folder first.
    ran = subprocess.run(python(_MODULE), capture_output=True, text=True, cwd=tmp_path, env=python_environment(), check=False)
    assert ran.returncode == 2, ran.stderr
    assert (
        f"expected our package '{name}' in {REPOSITORY / name}, got a foreign one that Python finds first: {path}" in ran.stderr
    )
    assert f"another folder than {tmp_path}" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "foreign code ran" not in ran.stderr


def test_a_foreign_package_on_the_python_path_is_named(tmp_path):
    path = plant(tmp_path / "theirs", "tasks", package=True)
    environment = python_environment(PYTHONPATH=f"{tmp_path / 'theirs'}:{REPOSITORY}")
    ran = subprocess.run(python(_MODULE), capture_output=True, text=True, cwd="/", env=environment, check=False)
    assert ran.returncode == 2
    assert str(path) in ran.stderr
    assert "PYTHONPATH" in ran.stderr


def test_the_installed_command_is_not_shadowed_by_the_current_folder(tmp_path):
    plant(tmp_path, "tasks", package=True)
    command = REPOSITORY / ".venv" / "bin" / "hypercolumns"
    if not command.exists():
        pytest.skip("the command is not installed beside the checkout")
    environment = {name: value for name, value in python_environment().items() if name != "PYTHONPATH"}
    arguments = [str(command), "runs", "ls", "--workspace", str(tmp_path / "w")]
    ran = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_our_own_packages_are_not_foreign():
    assert foreign_package() is None


def test_a_folder_of_the_name_without_code_does_not_shadow(tmp_path, monkeypatch):
    (tmp_path / "tasks").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert foreign_package() is None


def test_a_package_of_ours_that_is_not_installed_is_named(monkeypatch):
    from cli import shadowing

    monkeypatch.setattr(shadowing, "find_spec", lambda name: None)
    assert foreign_package().endswith("Remedy: install hypercolumns[pipeline] again")
