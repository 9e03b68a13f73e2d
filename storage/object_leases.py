"""Leases in an object store: small objects, created, renewed and removed without any lock.

A name is used once. Renewing replaces exactly the object that was written last, so a lease that somebody removed never comes
back. That a lease has ended is said in the chain of records (`fence`), where a commit either comes before it or sees it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from storage.canonical import canonical_bytes
from storage.errors import FormatError, ObjectChangedError
from storage.leases import Lease, LeaseBook
from storage.object_client import ObjectClient, ObjectSeen
from storage.records import RecordLog

__all__ = ["ObjectLeaseBook"]


class ObjectLeaseBook(LeaseBook):
    """All leases of one store.

    Args:
        client: requests to the stores' URL.
        folder: the key below which the leases lie.
        log: the store's records.
        last_number: tells the number of the last record that is known.
        clock: seconds since the epoch; those of all writers must agree within a lease's length.
    """

    def __init__(
        self, client: ObjectClient, folder: str, log: RecordLog, last_number: Callable[[], int], clock: Callable[[], float]
    ) -> None:
        super().__init__(Path(folder), clock)
        self._client, self._prefix, self._log, self._last_number = client, folder, log, last_number
        self._tags: dict[str, str] = {}
        self._known_until: dict[str, int] = {}
        self._seen: dict[ObjectSeen, Lease] = {}

    def live_and_dead(self) -> tuple[list[Lease], list[Lease]]:
        """Read all leases: those that hold, and those whose shard may be taken over."""
        found = {seen: lease for seen in self._client.listed(self._prefix) if (lease := self._lease(seen)) is not None}
        self._seen = found
        live = [lease for lease in found.values() if not self._is_dead(lease)]
        return live, [lease for lease in found.values() if self._is_dead(lease)]

    def grant(self, lease: Lease) -> None:
        """Write a lease down."""
        self._known_until[lease.name] = self._last_number()
        self._tags[lease.name] = self._client.create(self._key(lease.name), canonical_bytes(asdict(lease)))

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """Prolong a lease that is still ours.

        Raises:
            LeaseLostError: it was taken over.
        """
        self.check(lease)
        renewed = replace(lease, expires=self._clock() + seconds)
        try:
            data = canonical_bytes(asdict(renewed))
            self._tags[lease.name] = self._client.update(self._key(lease.name), data, self._tags[lease.name])
        except (ObjectChangedError, KeyError) as error:
            raise self._lost(lease) from error
        return renewed

    def check(self, lease: Lease) -> None:
        """Make sure that nobody has taken a lease over.

        Raises:
            LeaseLostError: somebody has.
        """
        if lease.name not in self._known_until:
            raise self._lost(lease)
        while (record := self._log.read(self._known_until[lease.name] + 1)) is not None:
            if record.kind == "fence" and record.body.get("lease") == lease.name:
                raise self._lost(lease)
            self._known_until[lease.name] = record.number
        if self._client.head(self._key(lease.name)) is None:
            raise self._lost(lease)

    def remove(self, lease: Lease) -> None:
        """Remove a lease, given up or dead."""
        self._client.delete(self._key(lease.name))
        self._known_until.pop(lease.name, None)
        self._tags.pop(lease.name, None)

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}.json"

    def _lease(self, seen: ObjectSeen) -> Lease | None:
        if seen in self._seen:
            return self._seen[seen]
        try:
            return Lease.from_json(json.loads(self._client.get(seen.key)))
        except FileNotFoundError:
            return None
        except (FormatError, ValueError, RecursionError):
            # Objects are written whole: what is no lease was never one, and nobody can renew it.
            self._client.delete(seen.key)
            return None
