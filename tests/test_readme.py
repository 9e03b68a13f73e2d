"""The README's example runs as it stands."""

from __future__ import annotations

import doctest
from pathlib import Path


def test_the_notebook_example_of_the_readme_runs_as_it_stands() -> None:
    readme = Path(__file__).parent.parent / "README.md"
    outcome = doctest.testfile(str(readme), module_relative=False)
    assert outcome.attempted >= 10
    assert outcome.failed == 0
