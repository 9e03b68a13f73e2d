"""A folder that all processes of one test run share, so that a corpus is run once for all of them."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return tmp_path_factory.mktemp("corpora")
    folder = tmp_path_factory.getbasetemp().parent / "corpora"
    folder.mkdir(exist_ok=True)
    return folder
