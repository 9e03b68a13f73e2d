"""Bad weights files: refused by name, never executed, and never unpacked into more memory than they have bytes."""

from __future__ import annotations

import re

import pytest

from tests.hostile import weight_files
from tests.hostile.runner import outcomes_of

MESSAGES = {
    **{name: message for name, (_, _, message) in weight_files.CASES.items()},
    **{name: message for name, (_, message) in weight_files.PLACES.items()},
}


@pytest.fixture(scope="module")
def outcomes(shared_folder):
    return outcomes_of("tests.hostile.weight_files", shared_folder)


@pytest.mark.parametrize("name", MESSAGES)
def test_bad_weights_are_refused_and_not_executed(outcomes, name):
    outcome = outcomes[name]
    assert outcome.get("ended") == "by itself", outcome
    answer = outcome.get("returned", outcome)
    assert answer.get("error") == "WeightsError", answer
    assert re.search(MESSAGES[name], answer["message"]), answer["message"]
    assert "weights" in answer["message"]
    assert not answer["executed"]


@pytest.mark.parametrize("name", ["sound", "sound, with its digest"])
def test_the_same_weights_unharmed_are_taken(outcomes, name):
    assert len(outcomes[name]["returned"]["weights_sha256"]) == 64
