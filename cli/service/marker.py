"""Where a service says that it runs: one lock, so that there is one of it, and one small file for those who look for it.

The file holds no secret. It is believed only while the process that wrote it lives.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from storage.publish import replace_bytes

__all__ = ["Running", "running_service", "take_lock", "withdraw", "write_marker"]

_FILE = "service.json"
_LOCK = "service.lock"


@dataclass(frozen=True)
class Running:
    """A service that runs: its process and its server's address."""

    pid: int
    api_url: str
    project: str


def take_lock(home: Path) -> FileLock:
    """Become the only service of a workspace.

    Raises:
        SpecError: there is one already.
    """
    from hypercolumns.errors import SpecError

    lock = FileLock(home / _LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        found = running_service(home)
        where = f" (process {found.pid}, {found.api_url})" if found else ""
        raise SpecError(
            f"expected no other `hypercolumns up` on this workspace, found one{where}. Remedy: use that one, stop it, or give "
            "another --workspace"
        ) from error
    return lock


def write_marker(home: Path, api_url: str, project: Path) -> None:
    """Say that this process runs the service."""
    content = asdict(Running(os.getpid(), api_url, str(project)))
    replace_bytes(home / _FILE, json.dumps(content).encode())


def withdraw(home: Path) -> None:
    """Say that it runs no more."""
    (home / _FILE).unlink(missing_ok=True)


def running_service(home: Path) -> Running | None:
    """Return the service of a workspace, if one runs."""
    try:
        found = Running(**json.loads((home / _FILE).read_text(encoding="utf-8")))
        os.kill(found.pid, 0)
    except (FileNotFoundError, ProcessLookupError, json.JSONDecodeError, TypeError):
        return None
    except PermissionError:
        # Somebody else's: it lives.
        pass
    return found
