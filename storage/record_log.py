"""An append-only log of JSON lines, each chained to the one before by digest, fit for several writers and power loss.

A line holds its own digest and that of the line before: a changed, lost, repeated or moved line is found and named. Only
the last line can be torn (power went before it was flushed, so nobody was told it is there): it is reported, left out,
and cleared away by the next append, which says so in a line of kind "recovered". Writers exclude one another by flock(2),
which the system releases when a process dies. May not know what the lines mean.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.canonical import canonical_bytes, digest
from storage.errors import AlreadyPublishedError, FormatError, StorageError
from storage.lock_waiting import flock_patiently
from storage.publish import explained_disk_errors

__all__ = ["LogEntry", "append_entry", "first_line", "read_entries"]

RECOVERED = "recovered"
_DIGEST_DIGITS = 32


@dataclass(frozen=True)
class LogEntry:
    """One line of a log.

    Attributes:
        sequence: 0 for the first line, then counting up by one.
        time: when it was written, UTC.
        kind: what happened.
        data: the particulars, a JSON mapping.
        process: host name and process id of the writer.
        digest: of everything above, and of the line before.
    """

    sequence: int
    time: datetime
    kind: str
    data: dict[str, Any]
    process: tuple[str, int]
    digest: str


def first_line(kind: str, data: Mapping[str, Any]) -> bytes:
    """Spell the line that begins a log."""
    return _line(None, kind, data)


def append_entry(path: Path, kind: str, data: Mapping[str, Any], *, after: str | None = None) -> LogEntry:
    """Append a line durably; when this returns, the line survives power loss.

    Args:
        path: the log.
        kind: what happened.
        data: the particulars, a JSON mapping.
        after: digest of the line that must be the last one, for what was decided by having read that far; None for any.

    Raises:
        AlreadyPublishedError: somebody appended first; read theirs, decide again.
        StorageError: there is no such log.
        FormatError: the last line was changed; or `data` is not JSON.
        DiskSpaceError: the disk is full; the log is as it was.
    """
    with _locked(path, os.O_RDWR | os.O_APPEND, fcntl.LOCK_EX) as descriptor:
        whole, torn = _whole_lines(_read_all(descriptor))
        lines = whole.split(b"\n")[:-1]
        if not lines:
            raise FormatError(f"{path}: expected a log with a first line, got {torn} torn bytes. Remedy: remove its folder")
        last = _parsed(lines[-1], len(lines), path)
        if after is not None and last.digest != after:
            raise AlreadyPublishedError(f"{path}: somebody else appended a line first; theirs stands")
        written = b""
        if torn:
            written = _line(last, RECOVERED, {"dropped_bytes": torn})
            last = _parsed(written, len(lines) + 1, path)
        line = _line(last, kind, data)
        _replace_tail(descriptor, len(whole), written + line, path)
    return _parsed(line, last.sequence + 2, path)


def read_entries(path: Path) -> tuple[list[LogEntry], int]:
    """Read a log whole.

    Returns:
        Its lines, and how many bytes of a torn last line were left out (0 when all is well).

    Raises:
        StorageError: there is no such log.
        FormatError: a line was changed, lost, repeated or moved; names it.
    """
    with _locked(path, os.O_RDONLY, fcntl.LOCK_SH) as descriptor:
        whole, torn = _whole_lines(_read_all(descriptor))
    entries: list[LogEntry] = []
    previous = ""
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        entry = _parsed(line, number, path)
        if entry.sequence != number - 1 or json.loads(line).get("previous") != previous:
            raise FormatError(f"{path}: line {number} does not follow line {number - 1}: a line was lost, repeated or moved")
        entries.append(entry)
        previous = entry.digest
    return entries, torn


def _line(last: LogEntry | None, kind: str, data: Mapping[str, Any]) -> bytes:
    document = {
        "sequence": last.sequence + 1 if last else 0,
        "time": datetime.now(UTC).isoformat(timespec="microseconds"),
        "kind": kind,
        "data": dict(data),
        "process": [socket.gethostname(), os.getpid()],
        "previous": last.digest if last else "",
    }
    document["digest"] = digest(document, _DIGEST_DIGITS)
    return canonical_bytes(document) + b"\n"


def _parsed(line: bytes, number: int, path: Path) -> LogEntry:
    try:
        document = json.loads(line)
        claimed = document.pop("digest")
        if claimed != digest(document, _DIGEST_DIGITS):
            raise ValueError("its digest does not fit its contents")
        host, process = document["process"]
        time = datetime.fromisoformat(document["time"])
        entry = LogEntry(document["sequence"], time, document["kind"], document["data"], (host, process), claimed)
        return _typed(entry)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FormatError) as error:
        raise FormatError(
            f"{path}: line {number} is not what was written ({error}). Remedy: restore the file from a copy; "
            "the lines before it can be read by hand"
        ) from error


def _typed(entry: LogEntry) -> LogEntry:
    """Refuse a line that is spelled correctly, digest and all, and holds values of other types than ours."""
    host, process = entry.process
    texts = isinstance(entry.kind, str) and isinstance(host, str)
    if not (texts and type(entry.sequence) is int and isinstance(entry.data, dict) and entry.time.tzinfo is not None):
        raise ValueError("a field of it is of another type than ours")
    if not (type(process) is int and 0 < process < 2**31):
        raise ValueError(f"{process!r} is no process id")
    return entry


def _whole_lines(raw: bytes) -> tuple[bytes, int]:
    """Split off a torn end: no final newline, or a last line with the NUL bytes of blocks that never reached the disk."""
    whole = raw[: raw.rfind(b"\n") + 1]
    last_start = whole.rfind(b"\n", 0, len(whole) - 1) + 1 if whole else 0
    if b"\0" in whole[last_start:]:
        whole = whole[:last_start]
    return whole, len(raw) - len(whole)


def _replace_tail(descriptor: int, keep: int, data: bytes, path: Path) -> None:
    """Cut the log to `keep` bytes (dropping only what was torn) and append; on failure leave the `keep` bytes."""
    try:
        with explained_disk_errors(path):
            os.ftruncate(descriptor, keep)
            remaining = memoryview(data)
            while remaining:
                remaining = remaining[os.write(descriptor, remaining) :]
            os.fsync(descriptor)
    except BaseException:
        os.ftruncate(descriptor, keep)
        raise


def _read_all(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0) if size else b""


@contextlib.contextmanager
def _locked(path: Path, flags: int, lock: int) -> Iterator[int]:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StorageError(f"{path}: expected a record, got no file. Remedy: look at the list of runs") from error
    try:
        flock_patiently(descriptor, lock, path)
        yield descriptor
    finally:
        os.close(descriptor)
