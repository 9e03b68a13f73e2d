"""Run records: what one experiment was, did and found, `RUNS/RUN_ID/record.jsonl`, only ever appended to.

Kinds that are understood here: started, resumed, stage, metrics, artefact, finished, failed. Others are kept as they are.
Any line's data may hold `spec` and `keys` mappings, which are merged. Paths are relative to the workspace.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from storage.errors import FormatError, StorageError
from storage.folders import checked_name, publishing_folder
from storage.publish import PARTIAL_SUFFIX
from storage.record_log import LogEntry, append_entry, first_line, read_entries
from storage.removal import TRASH

__all__ = ["RECORD_NAME", "RunStatus", "RunView", "append", "create_run", "list_runs", "new_run_id", "read_run"]

RECORD_NAME = "record.jsonl"
FORMAT = "hypercolumns run record"
FORMAT_VERSION = 1
RunStatus = Literal["running", "finished", "failed", "unknown", "broken"]
_KIND = re.compile(r"[a-z][a-z_]{0,39}")
_STATUS_OF: dict[str, RunStatus] = {"started": "running", "resumed": "running", "finished": "finished", "failed": "failed"}


@dataclass(frozen=True)
class RunView:
    """A run as its record tells it.

    Attributes:
        run_id: name of the run's folder.
        status: "unknown" when the record says running and no process that wrote to it lives on this host any more;
            "broken" when the record cannot be read.
        reason: why it failed or is broken; empty otherwise.
        started_at: time of the first line, UTC; None when broken.
        updated_at: time of the last line.
        spec: what was asked for.
        keys: keys of stores, samples and models that it used or made.
        metrics: the latest value of each.
        artefacts: path of each artefact by name, relative to the workspace.
        timings: seconds of each stage that is over, by name.
        entries: all lines.
        torn_bytes: length of a torn last line that was left out.
    """

    run_id: str
    status: RunStatus
    reason: str = ""
    started_at: datetime | None = None
    updated_at: datetime | None = None
    spec: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    artefacts: dict[str, str] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    entries: tuple[LogEntry, ...] = ()
    torn_bytes: int = 0


def new_run_id(name: str, now: datetime) -> str:
    """Make an identifier that sorts by time, such as `20261120-104629-camvid-4f2a`.

    Args:
        name: of the experiment; anything but letters and digits becomes a hyphen.
        now: with its time zone.

    Raises:
        StorageError: `now` has no time zone.
    """
    if now.tzinfo is None:
        raise StorageError(f"expected a time with its zone, got {now}; use datetime.now(UTC)")
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "run"
    return f"{now.astimezone(UTC):%Y%m%d-%H%M%S}-{slug}-{secrets.token_hex(2)}"


def create_run(runs_root: Path, run_id: str, started: Mapping[str, Any]) -> Path:
    """Begin a run's record with its "started" line, and return the run's folder.

    Args:
        runs_root: folder of all runs.
        run_id: from `new_run_id`.
        started: JSON mapping: `spec`, `keys`, git commit, seed, versions, hardware ...

    Raises:
        AlreadyPublishedError: a run of this identifier exists.
        DiskSpaceError: the disk is full.
        FormatError: `started` is not JSON.
    """
    folder = runs_root / checked_name(run_id, "a run identifier")
    line = first_line("started", {**_checked("started", started), "run_id": run_id, "format": [FORMAT, FORMAT_VERSION]})
    with publishing_folder(folder) as partial:
        (partial / RECORD_NAME).write_bytes(line)
    return folder


def append(folder: Path, kind: str, data: Mapping[str, Any]) -> LogEntry:
    """Append a line to a run's record, durably. Processes and threads may append to one run at once.

    Args:
        folder: the run's folder.
        kind: lower-case letters and underscores; "stage" needs `name` (and `seconds` when it is over), "artefact" needs
            `name` and `path`, "failed" needs `error`, "metrics" maps names to values.
        data: JSON mapping.

    Raises:
        StorageError: no such run; or `data` is not what the kind needs.
        FormatError: the record's last line was changed; or `data` is not JSON.
        DiskSpaceError: the disk is full; the record is as it was.
    """
    if not _KIND.fullmatch(kind) or kind in {"started", "recovered"}:
        raise StorageError(f"expected a kind of lower-case letters other than started and recovered, got {kind!r}")
    return append_entry(folder / RECORD_NAME, kind, _checked(kind, data))


def read_run(folder: Path) -> RunView:
    """Read a run's record.

    Raises:
        StorageError: no such run.
        FormatError: a line was changed, lost, repeated or moved; or the record is of another version or run.
    """
    path = folder / RECORD_NAME
    entries, torn_bytes = read_entries(path)
    if not entries or entries[0].kind != "started" or entries[0].data.get("run_id") != folder.name:
        raise FormatError(f"{path}: expected the record of run {folder.name!r}, got another's. Remedy: move it back")
    if entries[0].data.get("format") != [FORMAT, FORMAT_VERSION]:
        raise FormatError(f"{path}: expected record format {FORMAT_VERSION}, got {entries[0].data.get('format')!r}")
    try:
        for entry in entries:
            _checked(entry.kind, entry.data)
    except StorageError as error:
        raise FormatError(f"{path}: {error}. Remedy: restore the record from a copy") from error
    status, reason = _status(entries)
    view = RunView(
        run_id=folder.name,
        status=status,
        reason=reason,
        started_at=entries[0].time,
        updated_at=entries[-1].time,
        entries=tuple(entries),
        torn_bytes=torn_bytes,
    )
    for entry in entries:
        _merge(view, entry)
    return view


def list_runs(runs_root: Path) -> list[RunView]:
    """List all runs, newest first; one whose record cannot be read is listed as broken, with the reason."""
    if not runs_root.is_dir():
        return []
    found = [entry.name for entry in runs_root.iterdir() if entry.is_dir()]
    names = [name for name in found if name != TRASH and not name.endswith(PARTIAL_SUFFIX)]
    views = []
    for name in sorted(names, reverse=True):
        try:
            views.append(read_run(runs_root / name))
        except (StorageError, OSError) as error:
            views.append(RunView(name, "broken", reason=str(error)))
    return views


def _checked(kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Check that the data is what its kind promises, so that every record that can be written can be read."""
    problems = [f"{name} to be a mapping" for name in ("spec", "keys") if not isinstance(data.get(name, {}), Mapping)]
    if kind in {"stage", "artefact"} and not isinstance(data.get("name"), str):
        problems.append("a name")
    if kind == "stage" and not isinstance(data.get("seconds", 0), int | float):
        problems.append("seconds to be a number")
    if kind == "artefact" and not _is_relative(data.get("path")):
        problems.append("a path relative to the workspace, without '..'")
    if kind == "failed" and not isinstance(data.get("error"), str):
        problems.append("an error text")
    if problems:
        raise StorageError(f"a {kind!r} line: expected {' and '.join(problems)}, got {dict(data)!r}")
    return dict(data)


def _is_relative(path: object) -> bool:
    return isinstance(path, str) and bool(path) and not path.startswith("/") and ".." not in PurePosixPath(path).parts


def _status(entries: list[LogEntry]) -> tuple[RunStatus, str]:
    turning = max(index for index, entry in enumerate(entries) if entry.kind in _STATUS_OF)
    status = _STATUS_OF[entries[turning].kind]
    if status == "failed":
        return status, str(entries[turning].data["error"])
    if status == "running" and not any(_may_live(*entry.process) for entry in entries[turning:]):
        return "unknown", "no process that wrote to it lives any more"
    return status, ""


def _may_live(host: str, process: int) -> bool:
    """Tell whether a process may still live; processes of other hosts cannot be asked."""
    if host != socket.gethostname():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _merge(view: RunView, entry: LogEntry) -> None:
    view.spec.update(entry.data.get("spec", {}))
    view.keys.update(entry.data.get("keys", {}))
    if entry.kind == "metrics":
        view.metrics.update(entry.data)
    elif entry.kind == "artefact":
        view.artefacts[entry.data["name"]] = entry.data["path"]
    elif entry.kind == "stage" and "seconds" in entry.data:
        view.timings[entry.data["name"]] = entry.data["seconds"]
