"""`hypercolumns champion`: what it shows, what it changes, and what it refuses."""

import pytest

from storage.champions import Champion, note, promote, read_line
from storage.workspace import Workspace

LINE = "weeds"


@pytest.fixture
def call(hypercolumns, finished):
    def run(*arguments):
        return hypercolumns("champion", *arguments, "--workspace", finished.workspace)

    return run


@pytest.fixture
def places(finished, monkeypatch):
    """The workspace of the one finished run, with nothing decided yet."""
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    yield Workspace(finished.workspace)
    for path in (finished.workspace / "champions").glob("*"):
        path.unlink()


def test_without_champions_it_says_so_and_an_unknown_line_is_refused_with_the_known_ones(call, places):
    assert call("show").out == "no champions yet: hypercolumns nightly\n"
    assert call("show", "--json").last == []
    refused = call("show", LINE)
    assert (refused.code, refused.out) == (2, "")
    assert "expected a task line, got 'weeds'; there are: none yet" in refused.err
    for arguments in (("history", LINE), ("rollback", LINE), ("pin", LINE), ("pin", LINE, "--release")):
        assert call(*arguments).code == 2, arguments


def test_a_run_s_model_is_pinned_with_all_it_stands_on_released_and_shown(call, places, finished):
    pinned = call("pin", LINE, finished.run_id, "--why", "the fair", "--json")
    assert pinned.code == 0, pinned.err
    outcome = finished.outcome
    assert pinned.last["champion"] == {
        "run_id": finished.run_id,
        "model": outcome.trained.key,
        "keys": {
            "manifest": outcome.prepared.key,
            "store": outcome.extracted.key,
            "evaluation": outcome.evaluated.key,
            "sparse": outcome.pretrained.key,
        },
        "facts": {"held_out": 0.0, "mean_iu": outcome.evaluated.metrics["mean_iu"]},
    }
    assert pinned.last["pinned"]
    shown = call("show").out
    assert f"weeds: model {outcome.trained.key} of run {finished.run_id}, mean IU" in shown
    assert "pinned\n  the fair" in shown
    assert call("pin", LINE, "--release", "--json").last["pinned"] is False
    again = call("pin", LINE, "--release")
    assert (again.code, "it is not pinned" in again.err) == (1, True)
    rows = call("history", LINE, "--json").last
    assert [(row["kind"], row["who"]) for row in rows] == [("released", "ada"), ("pinned", "ada")]
    assert "released by hand" in call("history", LINE).out
    assert len(call("history", LINE, "--limit", 1, "--json").last) == 1


def test_latest_is_a_run_too_and_an_unknown_one_is_refused(call, places, finished):
    assert call("pin", LINE, "latest", "--json").last["champion"]["run_id"] == finished.run_id
    refused = call("pin", "other", "no-such-run")
    assert (refused.code, finished.run_id in refused.err) == (2, True)
    both = call("pin", LINE, finished.run_id, "--release")
    assert (both.code, "got both" in both.err) == (2, True)


def test_a_rollback_brings_the_former_champion_back(call, places, finished):
    outcome = finished.outcome
    for number, model in enumerate((outcome.trained.key, outcome.pretrained.key)):
        promote(
            places,
            LINE,
            Champion(f"run-{number}", model),
            {"reasons": [f"reason {number}"]},
            who="night",
            expected=read_line(places, LINE).model,
        )
    note(places, LINE, "kept", {"decision": {"reasons": ["not better"]}, "challenger": {"run_id": "run-2", "model": "m"}})
    back = call("rollback", LINE, "--why", "it calls sky road", "--json")
    assert back.code == 0, back.err
    assert (back.last["champion"]["model"], back.last["withdrawn"]) == (outcome.trained.key, [outcome.pretrained.key])
    text = call("history", LINE).out
    assert "rolled back" in text
    assert "    it calls sky road\n" in text
    assert "kept m of run run-2\n    not better" in text
    further = call("rollback", LINE)
    assert (further.code, "expected 1 to 0 steps back" in further.err) == (1, True)


def test_the_history_is_written_as_a_page(call, places, finished, tmp_path):
    assert call("report", LINE, "--out", tmp_path / "out").code == 2
    assert not (tmp_path / "out").exists()
    call("pin", LINE, finished.run_id, "--why", "the fair")
    written = call("report", LINE, "--out", tmp_path / "out", "--json")
    assert written.code == 0, written.err
    assert written.last == {
        name: str(tmp_path / "out" / f"history.{end}") for name, end in (("html", "html"), ("markdown", "md"))
    }
    assert "the fair" in (tmp_path / "out" / "history.html").read_text(encoding="utf-8")


def test_a_line_of_notes_alone_has_no_champion_yet(call, places):
    note(places, LINE, "kept", {"decision": {"reasons": ["pinned"]}})
    assert call("show", LINE).out == "weeds: no champion yet\n"


def test_a_user_without_a_name_is_no_reason_to_stop(call, places, finished, monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nobody)
    call("pin", LINE, finished.run_id)
    assert "by somebody without a user name" in call("history", LINE).out
