import os
import tempfile
from pathlib import Path

import platformdirs
import pytest

from storage.errors import StorageError
from storage.workspace import Workspace, resolve_workspace

FOLDERS = ["stores", "samples", "models", "runs", "datasets", "checkpoints", "prefect_home"]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_made_when_it_is_first_asked_for(tmp_path, name):
    workspace = Workspace(tmp_path / "home")
    assert not workspace.root.exists()
    folder = getattr(workspace, name)
    assert folder.is_dir()
    assert list(workspace.root.iterdir()) == [folder]
    assert getattr(workspace, name) == folder


def test_folders_are_apart():
    with tempfile.TemporaryDirectory() as root:
        assert len({getattr(Workspace(Path(root)), name) for name in FOLDERS}) == len(FOLDERS)


def test_the_option_comes_before_the_environment_before_the_users_data_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(platformdirs, "user_data_path", lambda name, appauthor: tmp_path / "data" / name)
    monkeypatch.delenv("HYPERCOLUMNS_HOME", raising=False)
    assert resolve_workspace() == tmp_path / "data" / "hypercolumns"
    monkeypatch.setenv("HYPERCOLUMNS_HOME", "")
    assert resolve_workspace() == tmp_path / "data" / "hypercolumns"
    monkeypatch.setenv("HYPERCOLUMNS_HOME", str(tmp_path / "environment"))
    assert resolve_workspace() == tmp_path / "environment"
    assert resolve_workspace(tmp_path / "option") == tmp_path / "option"
    assert not list((tmp_path / "option").iterdir())


def test_a_relative_option_is_of_the_current_folder_and_a_tilde_of_the_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert resolve_workspace(Path("here")) == tmp_path / "here"
    assert resolve_workspace(Path("~/there")) == tmp_path / "me" / "there"


@pytest.mark.parametrize("below", ["file", "file/below"])
def test_a_file_where_the_workspace_should_be_is_refused_with_the_remedy(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="--workspace DIR or HYPERCOLUMNS_HOME"):
        resolve_workspace(tmp_path / below)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_written_to_is_refused_with_the_remedy(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(StorageError, match=r"Permission denied.*Remedy"):
        resolve_workspace(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(StorageError, match="Remedy"):
        resolve_workspace(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "stores").write_text("in the way")
    with pytest.raises(StorageError, match="Remedy"):
        _ = Workspace(tmp_path / "stores" / "below").models


def test_records_keep_paths_relative_to_the_workspace(tmp_path):
    workspace = Workspace(tmp_path)
    assert workspace.relative(workspace.runs / "a b" / "report é.html") == "runs/a b/report é.html"
    assert workspace.absolute("runs/a b/report é.html") == tmp_path / "runs" / "a b" / "report é.html"
    assert repr(workspace) == f"Workspace('{tmp_path}')"


def test_paths_out_of_the_workspace_are_refused(tmp_path):
    workspace = Workspace(tmp_path / "home")
    (workspace.runs / "link").symlink_to(tmp_path)
    for path in (tmp_path / "other", workspace.root / ".." / "other", workspace.runs / "link" / "x"):
        with pytest.raises(StorageError, match="inside the workspace"):
            workspace.relative(path)
    for text in ("../other", "runs/link/x"):
        with pytest.raises(StorageError, match="inside the workspace"):
            workspace.absolute(text)
    with pytest.raises(StorageError, match="got an absolute one"):
        workspace.absolute("/etc/passwd")
