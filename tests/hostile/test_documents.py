"""Bad experiment files: refused with exit code 2 and one message that names file or field; nothing runs, nothing is written."""

from __future__ import annotations

import re

import pytest

from tests.hostile import documents
from tests.hostile.runner import outcomes_of
from tests.hostile.yaml_cases import REFUSED, TAKEN

MESSAGES = {**{name: text.message for name, text in REFUSED.items()}, **documents.PLACES}


@pytest.fixture(scope="module")
def outcomes(shared_folder):
    return outcomes_of("tests.hostile.documents", shared_folder)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_bad_experiment_file_is_refused_and_nothing_else_happens(outcomes, name):
    outcome = outcomes[name]
    assert outcome.get("ended") == "by itself", outcome
    assert "returned" in outcome, outcome
    answer = outcome["returned"]
    assert (answer["code"], answer["out"]) == (2, ""), answer
    assert answer["err"].startswith("error: ")
    assert re.search(MESSAGES[name], answer["err"], re.DOTALL), answer["err"]
    assert "Traceback" not in answer["err"]
    assert len(answer["err"]) < 25_000
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", answer["err"])
    assert not set(answer["left"]) - {"w"}, answer["left"]
    assert outcome["seconds"] < 10


@pytest.mark.parametrize("name", TAKEN)
def test_an_odd_experiment_file_means_what_it_says(outcomes, name):
    assert outcomes[name].get("returned") == {"found": dict(TAKEN[name].holds), "left": []}, outcomes[name]
