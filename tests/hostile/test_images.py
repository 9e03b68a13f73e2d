"""Bad and odd images and masks: each is shown as a person expects, or named with file, reason and remedy."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.hostile.cases import PassedOver, Refused, Rejected, Shown, Whole
from tests.hostile.images import corpus
from tests.hostile.runner import MEMORY_BYTES, outcomes_of

CASES = corpus()
SOUND = {"train": 2, "val": 1}


@pytest.fixture(scope="module")
def outcomes(shared_folder):
    return outcomes_of("tests.hostile.images", shared_folder)


def test_the_corpus_is_large():
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_the_answer_is_the_documented_one(outcomes, name):
    problems = judge(name, outcomes[name])
    assert not problems, problems


def judge(name: str, outcome: dict[str, Any]) -> list[str]:
    """List what was wrong with the answers to a case."""
    case = CASES[name]
    if outcome.get("ended") != "by itself":
        return [f"it {outcome.get('ended')}"]
    if "returned" not in outcome:
        return [f"{outcome['error']}: {outcome['message'][:300]}"]
    answers = outcome["returned"]
    if isinstance(case.expected, Refused):
        return [problem for mode in answers for problem in _refused(answers[mode], case.expected.message)]
    if isinstance(case.expected, Shown):
        return [problem for mode in answers for problem in _shown(answers[mode], case.expected)]
    if isinstance(case.expected, PassedOver):
        return [f"got {answer}" for answer in answers.values() if answer.get("images") != SOUND or answer["rejected"]]
    shown = "shown" in answers["fail"] and isinstance(case.expected, Whole)
    if shown:
        return [problem for mode in answers for problem in _shown(answers[mode], case.expected.shown)]
    reason = case.expected.reason if isinstance(case.expected, Rejected) else "cannot be read|not an image of a known format"
    return _rejected(answers, reason, case.file)


def _refused(answer: dict[str, Any], message: str) -> list[str]:
    if answer.get("error") != "DatasetError":
        return [f"expected a DatasetError, got {answer}"]
    found = [] if re.search(message, answer["message"]) else [f"expected {message!r} in {answer['message'][:300]!r}"]
    found += [] if "Remedy: " in answer["message"] else ["no remedy"]
    return found + ([f"left {answer['left']}"] if answer["left"] else [])


def _shown(answer: dict[str, Any], shown: Shown) -> list[str]:
    if "message" in answer:
        return [f"expected it to be shown, got {answer['error']}: {answer['message'][:300]}"]
    found = [] if answer["shown"] else ["it is not in the manifest"]
    if found:
        return found
    if answer["image_hw"] != list(answer["expected_hw"]):
        found.append(f"size {answer['image_hw']}, expected {answer['expected_hw']}")
    elif answer["difference"] > shown.tolerance:
        found.append(f"pixels differ by {answer['difference']}")
    found += [] if answer["labels_agree"] else ["the labels are others"]
    found += [] if answer["canvas_hw"] == [64, 64] else [f"the canvas is {answer['canvas_hw']}"]
    return found + ([f"{answer['rejected']} files were left out"] if answer["rejected"] else [])


def _rejected(answers: dict[str, Any], reason: str, file: str) -> list[str]:
    fail, skip, found = answers["fail"], answers["skip"], []
    stem = file.rpartition("/")[2].rpartition(".")[0]
    if fail.get("error") != "DatasetError":
        return [f"expected a DatasetError, got {fail.get('error')}: {str(fail)[:300]}"]
    for part in (
        r"^1 files cannot be used: ",
        re.escape(stem),
        reason,
        "Remedy: ",
        "nothing was computed",
        "on_bad_image=skip",
    ):
        found += [] if re.search(part, fail["message"]) else [f"expected {part!r} in {fail['message'][:400]!r}"]
    found += [] if fail["left"] == ["rejected.json"] else [f"left {fail['left']}"]
    for answer in (fail, skip):
        listed = [(entry["split"], entry["image_id"]) for entry in answer["listed"]]
        found += [] if listed == [("train", f"train/{stem}")] else [f"listed {listed}"]
        found += (
            [] if all(entry["reason"] and entry["remedy"] for entry in answer["listed"]) else ["no reason or remedy listed"]
        )
    if "message" in skip:
        return [*found, f"skip did not go on: {skip['message'][:300]}"]
    found += [] if skip["images"] == SOUND and not skip["shown"] else [f"skip went on with {skip['images']}"]
    return found + ([] if skip["rejected"] == 1 else [f"{skip['rejected']} rejected"])


def test_no_case_takes_much_memory_beyond_what_was_there(outcomes):
    least = min(outcome["peak_kib"] for outcome in outcomes.values() if "peak_kib" in outcome)
    worst = max(outcomes, key=lambda name: outcomes[name].get("peak_kib", 0))
    assert (outcomes[worst]["peak_kib"] - least) * 1024 < MEMORY_BYTES / 2, worst
