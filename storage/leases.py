"""Leases: who writes which shard now, and until when.

One JSON file per lease. A lease is dead when it has expired, or at once when its process on this machine is gone: a killed run
resumes without waiting. Granting, renewing and burying happen under the store's lock, which the caller holds. Leases decide
only who may write; what counts is decided by records.
"""

from __future__ import annotations

import math
import os
import re
import socket
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from storage.canonical import canonical_bytes, read_json
from storage.errors import FormatError, LeaseLostError
from storage.publish import ensure_folder, explained_disk_errors, partial_path

__all__ = ["Lease", "LeaseBook", "Owner"]

_NAME = re.compile(r"[0-9A-Za-z]{1,64}")


@cache
def _machine() -> str:
    """Name this machine since its last boot, and the process namespace we are in: only there can a pid be looked up."""
    parts = [socket.gethostname()]
    for source in (Path("/proc/sys/kernel/random/boot_id"),):
        if source.exists():
            parts.append(source.read_text().strip())
    namespace = Path("/proc/self/ns/pid")
    if namespace.exists():
        parts.append(str(namespace.readlink()))
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """Return when a process started, in the kernel's ticks; "" where that cannot be known; None if there is no such process."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else fields[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return ""


@dataclass(frozen=True)
class Owner:
    """The process that holds a lease.

    Args:
        machine: host name, boot and process namespace.
        pid: the process's number there.
        started: when the process started, so that a reused number is told apart.
    """

    machine: str
    pid: int
    started: str

    @classmethod
    def me(cls) -> Owner:
        """Return this process."""
        return cls(_machine(), os.getpid(), _started(os.getpid()) or "")

    def is_gone(self) -> bool:
        """Tell whether the process is known to have ended; False where that cannot be known."""
        return self.machine == _machine() and _started(self.pid) != self.started


@dataclass(frozen=True)
class Lease:
    """The right to write some layers of one shard.

    Args:
        shard: the shard's number.
        layers: the layers that are being written.
        slots: the slots that are being written, rising.
        row_keys: the row key of each slot.
        expires: seconds since the epoch.
        owner: who holds it.
        name: what tells this lease's partial files from others'.
    """

    shard: int
    layers: tuple[str, ...]
    slots: tuple[int, ...]
    row_keys: tuple[str, ...]
    expires: float
    owner: Owner = field(default_factory=Owner.me)
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:16])

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Lease:
        """Read the JSON form.

        Raises:
            FormatError: a field is missing, of another type, or a name that leads elsewhere.
        """
        try:
            lease = cls(
                int(value["shard"]),
                tuple(map(str, value["layers"])),
                tuple(map(int, value["slots"])),
                tuple(map(str, value["row_keys"])),
                float(value["expires"]),
                Owner(**value["owner"]),
                str(value["name"]),
            )
            # The name becomes a file's and the process number a folder's in /proc; a time that is no number never comes.
            owner = isinstance(lease.owner.machine, str) and type(lease.owner.pid) is int and lease.owner.pid > 0
            if not (owner and math.isfinite(lease.expires) and lease.shard >= 0 and _NAME.fullmatch(lease.name)):
                raise ValueError("a field is out of range")
            return lease
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise FormatError(f"expected a lease, got {value!r:.200}") from error


class LeaseBook:
    """All leases of one store.

    Args:
        folder: where the files lie.
        clock: seconds since the epoch.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._clock = clock

    def live_and_dead(self) -> tuple[list[Lease], list[Lease]]:
        """Read all leases: those that hold, and those whose shard may be taken over."""
        live: list[Lease] = []
        dead: list[Lease] = []
        for path in sorted(self._folder.glob("*.json")):
            lease = self._read(path)
            if lease is None:
                continue
            (dead if self._is_dead(lease) else live).append(lease)
        return live, dead

    def grant(self, lease: Lease) -> None:
        """Write a lease down."""
        with explained_disk_errors(self._folder):
            ensure_folder(self._folder)
        self._write(lease)

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """Prolong a lease that is still ours.

        Raises:
            LeaseLostError: it was taken over.
        """
        self.check(lease)
        renewed = replace(lease, expires=self._clock() + seconds)
        self._write(renewed)
        return renewed

    def check(self, lease: Lease) -> None:
        """Make sure that nobody has taken a lease over.

        Raises:
            LeaseLostError: somebody has.
        """
        if not self._path(lease.name).exists():
            raise self._lost(lease)

    def remove(self, lease: Lease) -> None:
        """Remove a lease, given up or dead."""
        self._path(lease.name).unlink(missing_ok=True)

    def seconds_left(self, lease: Lease) -> float:
        """Return how long a lease still holds if nobody renews it."""
        return max(0.0, lease.expires - self._clock())

    def _lost(self, lease: Lease) -> LeaseLostError:
        return LeaseLostError(
            f"shard {lease.shard}: the lease expired and another writer took the shard over; nothing of this shard was "
            "committed here. Run again, or raise lease_seconds if a batch takes longer than that"
        )

    def _is_dead(self, lease: Lease) -> bool:
        return lease.expires <= self._clock() or lease.owner.is_gone()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _read(self, path: Path) -> Lease | None:
        try:
            return Lease.from_json(read_json(path))
        except FileNotFoundError:
            return None
        except FormatError:
            # Leases are replaced whole, so only a power loss leaves a torn one, and then its writer is gone too.
            path.unlink(missing_ok=True)
            return None

    def _write(self, lease: Lease) -> None:
        # Not flushed to the disk: after a power loss no writer is left that could hold a lease.
        path = self._path(lease.name)
        partial, data = partial_path(path), canonical_bytes(asdict(lease))
        try:
            with explained_disk_errors(path, len(data)):
                partial.write_bytes(data)
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
