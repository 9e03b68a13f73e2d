"""Champions: what follows from the log, who may change it, what it keeps from being swept away."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from storage.champions import Champion, list_lines, needed_keys, note, pin, promote, read_line, release, rollback
from storage.errors import ChampionChangedError, FormatError, StorageError
from storage.eviction import evict
from storage.features import FeatureStore
from storage.garbage import sweep
from storage.models import model_exists, save_model
from storage.record_log import append_entry
from storage.workspace import Workspace

ROOT = Path(__file__).parents[2]
LINE = "weeds"
DAY = 86400.0


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def key(number):
    return f"{number:x}" * 20


def make(workspace, number, **keys):
    if not model_exists(workspace.models, key(number)):
        save_model(workspace.models, key(number), {"weight": np.ones(2)}, {})
    return Champion(f"run-{number}", key(number), keys)


def promoted(workspace, *numbers, reach=5):
    for number in numbers:
        before = read_line(workspace, LINE).model
        promote(workspace, LINE, make(workspace, number), {"reasons": []}, who="test", expected=before, reach=reach)
    return read_line(workspace, LINE)


def make_old(folder):
    then = time.time() - 2 * DAY
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (then, then))


def test_a_line_that_nothing_was_decided_about_has_no_champion(workspace):
    view = read_line(workspace, LINE)
    assert (view.champion, view.model, view.entries, view.former) == (None, None, (), ())
    assert list_lines(workspace) == []


def test_what_was_promoted_is_read_back_with_who_decided_and_why(workspace):
    champion = make(workspace, 1, manifest=key(9))
    decision = {"difference": 0.02, "interval": [0.01, 0.03], "reasons": ["better"], "protocol": "strict"}
    promote(workspace, LINE, champion, decision, who="night", expected=None)
    view = read_line(workspace, LINE)
    assert view.champion == champion
    assert view.since == view.entries[-1].time
    assert view.entries[-1].data["decision"] == decision
    assert view.entries[-1].data["who"] == "night"
    assert list_lines(workspace) == [LINE]
    assert read_line(Workspace(workspace.root), LINE) == view, "nothing is remembered but in the log"


def test_a_rollback_goes_back_step_by_step_and_remembers_what_was_withdrawn(workspace):
    promoted(workspace, 1, 2, 3)
    view = rollback(workspace, LINE, who="me", why="it calls sky road", expected=key(3))
    assert (view.model, view.withdrawn) == (key(2), {key(3)})
    assert [champion.model for champion in view.former] == [key(1)]
    assert view.entries[-1].data["reasons"] == ["it calls sky road"]
    assert rollback(workspace, LINE, who="me", why="", expected=key(2)).model == key(1)
    with pytest.raises(StorageError, match="expected 1 to 0 steps back, got 1"):
        rollback(workspace, LINE, who="me", why="", expected=key(1))
    pinned = pin(workspace, LINE, Champion("run-3", key(3)), who="me", why="it was the camera", expected=key(1))
    assert (pinned.model, pinned.withdrawn) == (key(3), {key(2)})


def test_two_steps_back_are_one_rollback_too(workspace):
    promoted(workspace, 1, 2, 3)
    view = rollback(workspace, LINE, who="me", why="", expected=key(3), steps=2)
    assert (view.model, view.withdrawn, view.former) == (key(1), {key(2), key(3)}, ())


def test_a_pinned_champion_stays_until_it_is_released(workspace):
    promoted(workspace, 1)
    view = pin(workspace, LINE, None, who="me", why="the fair", expected=key(1))
    assert (view.pinned, view.model, view.former) == (True, key(1), ())
    with pytest.raises(ChampionChangedError, match="pinned"):
        promote(workspace, LINE, make(workspace, 2), {}, who="night", expected=key(1))
    view = release(workspace, LINE, who="me", why="over", expected=key(1))
    assert not view.pinned
    with pytest.raises(StorageError, match="it is not pinned"):
        release(workspace, LINE, who="me", why="", expected=key(1))
    assert promote(workspace, LINE, make(workspace, 2), {}, who="night", expected=key(1)).model == key(2)


def test_a_decision_about_another_champion_changes_nothing(workspace):
    promoted(workspace, 1, 2)
    before = read_line(workspace, LINE)
    with pytest.raises(ChampionChangedError, match=f"expected champion {key(1)}, found {key(2)}"):
        promote(workspace, LINE, make(workspace, 3), {}, who="night", expected=key(1))
    with pytest.raises(ChampionChangedError):
        rollback(workspace, LINE, who="me", why="", expected=key(1))
    assert read_line(workspace, LINE) == before


def test_a_model_that_is_not_there_is_neither_promoted_nor_gone_back_to(workspace):
    with pytest.raises(StorageError, match="expected the model nothing"):
        promote(workspace, LINE, Champion("run", "nothing"), {}, who="night", expected=None)
    with pytest.raises(StorageError, match="no champion to pin"):
        pin(workspace, LINE, None, who="me", why="", expected=None)
    promoted(workspace, 1, 2)
    for path in (workspace.models / key(1)).iterdir():
        path.unlink()
    with pytest.raises(StorageError, match=f"expected the model {key(1)}"):
        rollback(workspace, LINE, who="me", why="", expected=key(2))
    assert read_line(workspace, LINE).model == key(2)


@pytest.mark.parametrize("name", ["", "../up", "a b", "a/b", ".hidden"])
def test_a_line_has_a_name_that_is_safe_as_a_file_s(workspace, name):
    with pytest.raises(StorageError, match="expected a task line"):
        read_line(workspace, name)


def test_notes_change_no_champion_and_only_known_kinds_are_taken(workspace):
    promoted(workspace, 1)
    view = note(workspace, LINE, "kept", {"decision": {"reasons": ["not better"]}})
    assert (view.model, view.last("kept").data["decision"]["reasons"]) == (key(1), ["not better"])
    with pytest.raises(StorageError, match="expected a note of kind"):
        note(workspace, LINE, "promoted", {})


def test_of_processes_that_promote_at_once_each_decides_about_the_champion_it_sees(workspace):
    """Six processes promote ten models each, reading again whenever somebody was quicker: all sixty follow one another."""
    code = """
import sys
from storage.champions import Champion, promote, read_line
from storage.errors import ChampionChangedError
from storage.workspace import Workspace
workspace, name = Workspace(sys.argv[1]), sys.argv[2]
for number in range(10):
    while True:
        seen = read_line(workspace, "weeds").model
        try:
            promote(workspace, "weeds", Champion(f"{name}-{number}", sys.argv[3]), {"after": seen}, who=name, expected=seen)
            break
        except ChampionChangedError:
            pass
"""
    models = [make(workspace, number).model for number in range(6)]
    children = [
        subprocess.Popen([sys.executable, "-c", code, workspace.root, f"p{number}", model], cwd=ROOT)
        for number, model in enumerate(models)
    ]
    assert [child.wait(100) for child in children] == [0] * 6
    entries = [entry for entry in read_line(workspace, LINE).entries if entry.kind == "promoted"]
    assert sorted(entry.data["champion"]["run_id"] for entry in entries) == sorted(
        f"p{p}-{n}" for p in range(6) for n in range(10)
    )
    seen = None
    for entry in entries:
        assert entry.data["decision"]["after"] == seen, "decided about the champion that it replaced"
        seen = entry.data["champion"]["model"]


def test_of_two_who_decided_about_the_same_champion_only_one_is_promoted(workspace, monkeypatch):
    promoted(workspace, 1)
    other, mine = make(workspace, 2), make(workspace, 3)
    from storage import champions

    def somebody_else_first(path, kind, data, *, after):
        monkeypatch.undo()
        promote(workspace, LINE, other, {}, who="other", expected=key(1))
        return append_entry(path, kind, data, after=after)

    monkeypatch.setattr(champions, "append_entry", somebody_else_first)
    with pytest.raises(ChampionChangedError, match=f"found {key(2)}"):
        promote(workspace, LINE, mine, {}, who="me", expected=key(1))
    assert read_line(workspace, LINE).model == key(2)


def test_a_note_that_came_between_does_not_spoil_a_promotion(workspace, monkeypatch):
    promoted(workspace, 1)
    from storage import champions

    def a_note_first(path, kind, data, *, after):
        monkeypatch.undo()
        note(workspace, LINE, "evaluated", {})
        return append_entry(path, kind, data, after=after)

    monkeypatch.setattr(champions, "append_entry", a_note_first)
    view = promote(workspace, LINE, make(workspace, 2), {}, who="me", expected=key(1))
    assert [entry.kind for entry in view.entries[-2:]] == ["evaluated", "promoted"]


def test_whoever_is_killed_while_promoting_leaves_the_old_champion_or_the_new_one(killed_everywhere):
    killed, ended = killed_everywhere("promote", stride=7)
    models = [read_line(Workspace(folder), "line").model for folder in (*killed, ended)]
    assert set(models) == {"a", "b"}
    assert models == sorted(models), "never the old one again"
    assert read_line(Workspace(ended), "line").model == "b"
    again = Workspace(killed[0])
    assert promote(again, "line", Champion("run", "b"), {}, who="test", expected="a").model == "b"


def test_a_changed_or_torn_log_is_never_believed(workspace):
    promoted(workspace, 1, 2)
    path = workspace.root / "champions" / f"{LINE}.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    torn = read_line(workspace, LINE)
    assert (torn.model, torn.torn_bytes > 0) == (key(1), True)
    path.write_bytes(whole.replace(key(2).encode(), key(1).encode()))
    with pytest.raises(FormatError, match="line 3 is not what was written"):
        read_line(workspace, LINE)
    path.write_bytes(whole)
    (path.parent / "other.jsonl").write_bytes(whole)
    with pytest.raises(FormatError, match="expected the champions of line 'other'"):
        read_line(workspace, "other")
    append_entry(path, "promoted", {"champion": {"model": 3}})
    with pytest.raises(FormatError, match="not what its kind promises"):
        read_line(workspace, LINE)


def test_gc_leaves_what_champions_need_as_far_as_a_rollback_reaches_though_no_run_names_it(workspace):
    promoted(workspace, 1, 2, 3, 4, reach=2)
    make(workspace, 5)
    (workspace.datasets / f"{key(6)}.json").write_text("{}")
    (workspace.datasets / f"{key(7)}.json").write_text("{}")
    note(workspace, LINE, "frozen", {"digest": "d", "keys": {"manifest": key(7)}})
    make_old(workspace.root)
    assert needed_keys(workspace, LINE) == {key(2), key(3), key(4), key(7)}
    gone = {Path(item.path).name for item in sweep(workspace, DAY, remove=True).garbage}
    assert gone == {key(1), key(5), f"{key(6)}.json"}
    view = read_line(workspace, LINE)
    while view.former:
        view = rollback(workspace, LINE, who="me", why="", expected=view.model)
    assert view.model == key(2)
    assert model_exists(workspace.models, key(2))


def test_gc_removes_nothing_that_a_champion_might_need_while_a_log_cannot_be_read(workspace):
    promoted(workspace, 1)
    make(workspace, 2)
    make_old(workspace.root)
    path = workspace.root / "champions" / f"{LINE}.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"promoted", b"demoted!"))
    swept = sweep(workspace, DAY, remove=True)
    assert [line.split(":")[0] for line in swept.blocked] == [f"champions of line {LINE}"]
    assert swept.garbage == ()
    with pytest.raises(StorageError):
        evict(workspace, 0, named_too=True, remove=True)
    path.write_bytes(whole)
    assert [Path(item.path).name for item in sweep(workspace, DAY, remove=True).garbage] == [key(2)]


def test_a_store_that_a_champion_stands_on_is_never_evicted(workspace):
    stores = []
    for name in ("first", "second"):
        store = FeatureStore.create_or_open(workspace.stores, {"backbone": name}, shard_images=4)
        stores.append(store.key)
        store.core.leave()
        store.core.index.close()
    promote(workspace, LINE, make(workspace, 1, store=stores[0]), {}, who="night", expected=None)
    evicted = evict(workspace, 0, named_too=True, remove=True)
    assert [use.key for use in evicted.evicted] == [stores[1]]
    assert [(use.key, use.stays) for use in evicted.kept] == [(stores[0], f"champions of line {LINE} stand on it")]


def test_every_line_of_the_log_is_json_for_people_too(workspace):
    promoted(workspace, 1)
    lines = (workspace.root / "champions" / f"{LINE}.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["begun", "promoted"]
