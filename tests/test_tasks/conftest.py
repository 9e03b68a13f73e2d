"""Fixtures of the tests of the tasks: a tiny data set, and one experiment that was run on it."""

import pytest

from tests.factories import write_folder
from tests.pipeline_factory import run_tasks, tiny_spec


@pytest.fixture
def data(tmp_path):
    """Six images to learn from and three to score, 48x64."""
    return write_folder(tmp_path / "data", splits={"train": 6, "val": 3}, image_hw=(48, 64))


@pytest.fixture
def workspace(tmp_path):
    return tmp_path / "workspace"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Run one experiment for all tests of a module, which may look but not touch; predictions of all three images are kept."""
    folder = tmp_path_factory.mktemp("experiment")
    data = write_folder(folder / "data", splits={"train": 6, "val": 3}, image_hw=(48, 80))
    spec = tiny_spec(
        data, train__epochs=2, evaluate__panels=3, evaluate__baselines=["majority", "prior", "rgb", "deepest", "position"]
    )
    return run_tasks(spec, folder / "workspace")
