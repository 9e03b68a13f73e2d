"""Champions: which model of a task line is promoted, since when, by whom and why; `CHAMPIONS/LINE.jsonl`, only appended to.

A line of the log is one decision. What it says of the champion follows from all lines in order: nothing is kept twice, and
nothing is overwritten. Every change names the champion that it was decided about; if that is another one by now, nothing is
written (`ChampionChangedError`), so that of two who promote at once one decides again. What a champion needs, and those before
it as far as a rollback reaches, is named here and never swept away (`storage.garbage`, `storage.eviction`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from storage.errors import AlreadyPublishedError, ChampionChangedError, FormatError, StorageError
from storage.folders import checked_name
from storage.models import model_exists
from storage.publish import flush_folder, publish_bytes
from storage.record_log import LogEntry, append_entry, first_line, read_entries
from storage.references import naming
from storage.workspace import Workspace

__all__ = [
    "DEFAULT_REACH",
    "FOLDER",
    "Champion",
    "LineView",
    "list_lines",
    "needed_keys",
    "note",
    "pin",
    "promote",
    "read_line",
]
__all__ += ["release", "rollback"]

FOLDER = "champions"
FORMAT = "hypercolumns champions"
FORMAT_VERSION = 1
DEFAULT_REACH = 5
"""How many former champions stay ready for a rollback, unless a promotion said otherwise."""
_SUFFIX = ".jsonl"
_CHANGES = frozenset({"promoted", "pinned", "released", "rolled_back"})
_NOTES = frozenset({"kept", "frozen", "evaluated"})


@dataclass(frozen=True)
class Champion:
    """A promoted model.

    Attributes:
        run_id: the run that made it.
        model: key of the model.
        keys: keys of what else it stands on: its manifest, store, evaluation ...
        facts: what was known of it when it was promoted, a JSON mapping.
    """

    run_id: str
    model: str
    keys: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"run_id": self.run_id, "model": self.model, "keys": dict(self.keys), "facts": dict(self.facts)}


@dataclass(frozen=True)
class LineView:
    """A task line as its log tells it.

    Attributes:
        line: its name.
        champion: the promoted model; None before the first promotion.
        since: when it became champion.
        pinned: whether it stays whatever comes, until it is released.
        former: earlier champions that a rollback can reach, the latest first.
        withdrawn: models that were rolled back: they are not promoted again by themselves.
        entries: all lines of the log.
        torn_bytes: length of a torn last line that was left out.
    """

    line: str
    champion: Champion | None = None
    since: datetime | None = None
    pinned: bool = False
    former: tuple[Champion, ...] = ()
    withdrawn: frozenset[str] = frozenset()
    entries: tuple[LogEntry, ...] = ()
    torn_bytes: int = 0

    def last(self, *kinds: str) -> LogEntry | None:
        """Return the latest line of one of these kinds."""
        return next((entry for entry in reversed(self.entries) if entry.kind in kinds), None)

    @property
    def model(self) -> str | None:
        """Key of the champion's model."""
        return self.champion.model if self.champion else None


def read_line(workspace: Workspace, line: str) -> LineView:
    """Read a task line; one that nothing was ever decided about has neither champion nor entries.

    Raises:
        FormatError: a line of its log was changed, lost, repeated or moved.
        StorageError: `line` is no name.
    """
    path = _path(workspace, line)
    if not path.exists():
        return LineView(line)
    entries, torn = read_entries(path)
    if not entries or entries[0].data.get("format") != [FORMAT, FORMAT_VERSION] or entries[0].data.get("line") != line:
        raise FormatError(f"{path}: expected the champions of line {line!r}, format {FORMAT_VERSION}, got something else")
    try:
        return _told_by(line, tuple(entries), torn)
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: a line is not what its kind promises ({error!r}). Remedy: restore the file") from error


def list_lines(workspace: Workspace) -> list[str]:
    """List the names of all task lines."""
    # Looking makes no folder.
    folder = workspace.root / FOLDER
    return sorted(path.name.removesuffix(_SUFFIX) for path in folder.glob(f"*{_SUFFIX}")) if folder.is_dir() else []


def needed_keys(workspace: Workspace, line: str) -> frozenset[str]:
    """Return the keys that a line's champion, those a rollback can reach and its frozen set need.

    Raises:
        FormatError: the log cannot be read, so that what is needed cannot be known.
    """
    view = read_line(workspace, line)
    champions = [*([view.champion] if view.champion else []), *view.former]
    frozen = view.last("frozen")
    keys = {key for champion in champions for key in (champion.model, *champion.keys.values())}
    return frozenset(keys.union(map(str, frozen.data.get("keys", {}).values()) if frozen else ()))


def promote(
    workspace: Workspace,
    line: str,
    champion: Champion,
    decision: Mapping[str, Any],
    *,
    who: str,
    expected: str | None,
    reach: int = DEFAULT_REACH,
) -> LineView:
    """Make a model the champion of a line.

    Args:
        workspace: whose.
        line: name of the task line; begun if there is none of this name.
        champion: the model.
        decision: JSON mapping: interval, reasons, protocol ...
        who: a person or a flow.
        expected: model of the champion that the decision was made about; None where there was none.
        reach: how many former champions stay ready for a rollback.

    Raises:
        ChampionChangedError: the champion is another one by now, or is pinned.
        StorageError: there is no such model.
    """
    data = {"champion": champion.as_json(), "decision": dict(decision), "who": who, "reach": reach}
    return _change(workspace, line, "promoted", data, expected)


def pin(workspace: Workspace, line: str, champion: Champion | None, *, who: str, why: str, expected: str | None) -> LineView:
    """Keep a model champion, whatever nights find, until it is released: the present one, or another.

    Raises:
        ChampionChangedError: the champion is another one by now.
        StorageError: there is no such model, or no champion to pin.
    """
    if champion is None and expected is None:
        raise StorageError(f"line {line!r} has no champion to pin. Remedy: name a run whose model is to be pinned")
    named = {} if champion is None or champion.model == expected else {"champion": champion.as_json()}
    return _change(workspace, line, "pinned", {**named, "who": who, "reasons": [why]}, expected)


def release(workspace: Workspace, line: str, *, who: str, why: str, expected: str | None) -> LineView:
    """Let nights replace a pinned champion again.

    Raises:
        ChampionChangedError: the champion is another one by now.
        StorageError: it is not pinned.
    """
    return _change(workspace, line, "released", {"who": who, "reasons": [why]}, expected)


def rollback(workspace: Workspace, line: str, *, who: str, why: str, expected: str | None, steps: int = 1) -> LineView:
    """Make a former champion the champion again; the models it replaces are not promoted again by themselves.

    Raises:
        ChampionChangedError: the champion is another one by now.
        StorageError: no former champion is within reach, or its model is gone.
    """
    former = read_line(workspace, line).former
    if not 1 <= steps <= len(former):
        raise StorageError(f"line {line!r}: expected 1 to {len(former)} steps back, got {steps}: so many champions are kept")
    data = {"champion": former[steps - 1].as_json(), "steps": steps, "who": who, "reasons": [why]}
    return _change(workspace, line, "rolled_back", data, expected)


def note(workspace: Workspace, line: str, kind: str, data: Mapping[str, Any]) -> LineView:
    """Note something that changes no champion: a night's decision to keep it, a frozen set, an evaluation.

    Args:
        workspace: whose.
        line: name of the task line; begun if there is none of this name.
        kind: `kept`, `frozen` or `evaluated`.
        data: JSON mapping; its `keys` mapping is needed for as long as nothing of its kind follows (`frozen` alone).
    """
    if kind not in _NOTES:
        raise StorageError(f"expected a note of kind {', '.join(sorted(_NOTES))}, got {kind!r}")
    path = _begun(workspace, line)
    with naming(workspace.runs):
        append_entry(path, kind, data)
    return read_line(workspace, line)


def _change(workspace: Workspace, line: str, kind: str, data: dict[str, Any], expected: str | None) -> LineView:
    """Append a change of the champion, if it still is the expected one."""
    path = _begun(workspace, line)
    while True:
        # Sweepers stay out until what is promoted is named.
        with naming(workspace.runs), contextlib.suppress(AlreadyPublishedError):
            view = read_line(workspace, line)
            _check(workspace, view, kind, data, expected)
            append_entry(path, kind, data, after=view.entries[-1].digest)
            break
    return read_line(workspace, line)


def _check(workspace: Workspace, view: LineView, kind: str, data: dict[str, Any], expected: str | None) -> None:
    where = f"line {view.line!r}"
    if view.model != expected:
        raise ChampionChangedError(
            f"{where}: expected champion {expected or 'none'}, found {view.model or 'none'}: it was changed meanwhile. "
            "Nothing was written; look at `hypercolumns champion show` and decide again"
        )
    if kind == "promoted" and view.pinned:
        raise ChampionChangedError(f"{where}: the champion is pinned; `hypercolumns champion pin --release` lets it go")
    if kind == "released" and not view.pinned:
        raise StorageError(f"{where}: expected a pinned champion to release, it is not pinned")
    named = data.get("champion")
    if named is not None and not model_exists(workspace.models, named["model"]):
        raise StorageError(f"{where}: expected the model {named['model']} in {workspace.models}, found none; train it again")


def _path(workspace: Workspace, line: str) -> Path:
    return workspace.root / FOLDER / f"{checked_name(line, 'a task line')}{_SUFFIX}"


def _begun(workspace: Workspace, line: str) -> Path:
    path = _path(workspace, line)
    if not path.exists():
        with contextlib.suppress(AlreadyPublishedError):
            publish_bytes(path, first_line("begun", {"line": line, "format": [FORMAT, FORMAT_VERSION]}))
    # Whoever gave it its name may have been killed before this.
    flush_folder(path.parent)
    return path


def _told_by(line: str, entries: tuple[LogEntry, ...], torn: int) -> LineView:
    stack: list[Champion] = []
    since, pinned, reach = None, False, DEFAULT_REACH
    withdrawn: set[str] = set()
    for entry in entries:
        if entry.kind not in _CHANGES:
            continue
        pinned = entry.kind == "pinned" or (pinned and entry.kind == "rolled_back")
        reach = int(entry.data.get("reach", reach))
        if entry.kind == "rolled_back":
            steps = int(entry.data["steps"])
            withdrawn |= {champion.model for champion in stack[-steps:]}
            del stack[-steps:]
        elif "champion" in entry.data:
            stack.append(Champion(**entry.data["champion"]))
            # What falls off here may have been swept away since: no later rollback may bring it back within reach.
            del stack[: -1 - reach]
        if "champion" in entry.data:
            since = entry.time
            withdrawn.discard(stack[-1].model)
    former = tuple(reversed(stack[:-1]))
    champion = stack[-1] if stack else None
    return LineView(line, champion, since, pinned, former, frozenset(withdrawn), entries, torn)
