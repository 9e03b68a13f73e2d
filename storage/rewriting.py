"""Copying the rows of one batch into a new shard: leased, streamed past the page cache, published, and counted by one record.

The new shard's number is higher than any there was, so that no number is ever given out twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from storage.allotment import bury, clear_uncounted
from storage.core import StoreCore
from storage.encoding import stored_dtype
from storage.errors import DiskSpaceError
from storage.index_lines import LayerEntry
from storage.leases import Lease
from storage.packing import Batch, Row
from storage.publish import ensure_folder, partial_path
from storage.shapes import shard_bytes
from storage.shards import ShardFile, ShardFileWriter, index_bytes
from storage.zarr_metadata import roles, row_shape

__all__ = ["batch_bytes", "rewrite"]

Entries = Mapping[tuple[int, str], LayerEntry]


def rewrite(core: StoreCore, batch: Batch) -> bool:
    """Copy a batch into a new shard; False, and nothing is changed, if somebody changed its rows or writes their shards now.

    Raises:
        DamagedError: a row is not what was committed; nothing is changed.
        DiskSpaceError: the disk is full; nothing is changed.
        LeaseLostError: we were silent for too long; nothing is changed.
    """
    begun = _begin(core, batch)
    if begun is None:
        return False
    rewriting = _Rewriting(core, batch, *begun)
    try:
        rewriting.copy()
        return rewriting.commit()
    finally:
        rewriting.close()


def batch_bytes(core: StoreCore, batch: Batch) -> int:
    """Return how many bytes a batch's rows take, their checksums too; where they are compressed, about how many."""
    entries = core.index.entries(batch.supersedes, batch.layers)
    files = [entries[row.shard, layer] for row in batch.rows for layer in batch.layers if (row.shard, layer) in entries]
    index = index_bytes(int(core.state.shard_images or 1))
    return sum((file.bytes - index) // len(entry.slots) for entry in files for file in entry.files.values())


def _begin(core: StoreCore, batch: Batch) -> tuple[list[Lease], Entries] | None:
    """Lease the new shard and the old ones, so that nobody adds layers to rows that are being moved."""
    with core.locked():
        core.refresh()
        core.derive()
        live, dead = core.leases.live_and_dead()
        bury(core, dead)
        entries = _unchanged_entries(core, batch)
        if entries is None or {lease.shard for lease in live} & batch.supersedes.keys():
            return None
        target = max([core.index.next_shard(), *(lease.shard + 1 for lease in live)])
        for layer in batch.layers:
            clear_uncounted(core, layer, target)
        expires = core.clock() + core.lease_seconds
        keys = tuple(row.key for row in batch.rows)
        leases = [Lease(target, batch.layers, tuple(range(len(keys))), keys, expires)]
        leases += [Lease(old, tuple(core.state.shapes), tuple(slots), (), expires) for old, slots in batch.supersedes.items()]
        for lease in leases:
            core.leases.grant(lease)
        return leases, entries


def _unchanged_entries(core: StoreCore, batch: Batch) -> Entries | None:
    """Return what is committed of the rows' shards; None if a row does not lie where it lay, or lacks a layer."""
    entries = core.index.entries(batch.supersedes, batch.layers)
    keys = {shard: core.index.slot_keys(shard) for shard in batch.supersedes}
    for row in (*batch.rows, *batch.superfluous):
        if keys[row.shard].get(row.slot) != row.key:
            return None
    whole = all(
        (row.shard, layer) in entries and row.slot in entries[row.shard, layer].slots
        for row in batch.rows
        for layer in batch.layers
    )
    return entries if whole else None


class _Rewriting:
    """One new shard while it is written."""

    def __init__(self, core: StoreCore, batch: Batch, leases: list[Lease], entries: Entries) -> None:
        self._core, self._batch, self._leases, self._entries = core, batch, leases, entries
        self._renewed = core.clock()
        self._files: dict[tuple[str, str], ShardFileWriter] = {}

    def copy(self) -> None:
        """Stream the rows' stored bytes, compared with their checksums, into partial files."""
        self._check_space()
        for layer in self._batch.layers:
            for role in roles(self._core.dtype):
                path = self._core.layout.shard(layer, self._leases[0].shard, role)
                ensure_folder(path.parent)
                file = ShardFileWriter(
                    partial_path(path, self._leases[0].name),
                    self._slot_count,
                    self._core.blocks,
                    compressed=self._core.compressed,
                    expected=shard_bytes(
                        self._core.state.shapes[layer], self._core.dtype, role, len(self._batch.rows), self._slot_count
                    ),
                )
                self._files[layer, role] = file
                for slot, (row, source) in enumerate(self._sources(layer, role)):
                    crc32c = self._entries[row.shard, layer].row_crc32c(row.slot, role)
                    file.append_payload(slot, source.payload(row.slot, crc32c))
                    self._renew_in_time()

    def commit(self) -> bool:
        """Publish the files, then the record that counts them in place of the old rows; False if these were changed."""
        summaries = {name: file.finish() for name, file in self._files.items()}
        with self._core.locked():
            for lease in self._leases:
                self._core.leases.check(lease)
            self._core.refresh()
            if _unchanged_entries(self._core, self._batch) != self._entries:
                return False
            for (layer, role), file in self._files.items():
                file.publish(self._core.layout.shard(layer, self._leases[0].shard, role))
            self._core.append(
                {
                    "kind": "commit",
                    "shard": self._leases[0].shard,
                    "slots": list(self._leases[0].slots),
                    "row_keys": list(self._leases[0].row_keys),
                    "layers": {
                        layer: {role: summaries[layer, role].as_json() for role in roles(self._core.dtype)}
                        for layer in self._batch.layers
                    },
                    "supersedes": [[shard, slots] for shard, slots in self._batch.supersedes.items()],
                    "recorded": self._recorded(),
                }
            )
        return True

    def close(self) -> None:
        """Remove all that is unfinished and give the leases back. What is committed stays."""
        for file in self._files.values():
            file.abandon()
        for lease in self._leases:
            self._core.leases.remove(lease)

    @property
    def _slot_count(self) -> int:
        return int(self._core.state.shard_images or 1)

    def _sources(self, layer: str, role: str) -> Iterator[tuple[Row, ShardFile]]:
        """Yield each row with the file it lies in; one file is open at a time."""
        dtype = stored_dtype(self._core.dtype if role == "maps" else "float32")
        shape = row_shape(self._core.state.shapes[layer], role)
        for shard, rows in groupby(self._batch.rows, key=lambda row: row.shard):
            path, summary = self._core.layout.shard(layer, shard, role), self._entries[shard, layer].files[role]
            source = ShardFile(
                path, summary, self._slot_count, shape, dtype, compressed=self._core.compressed, keep_cached=False
            )
            for row in rows:
                yield row, source

    def _check_space(self) -> None:
        needed = batch_bytes(self._core, self._batch)
        status = os.statvfs(self._core.layout.root)
        free = status.f_bavail * status.f_frsize
        if free < needed:
            raise DiskSpaceError(
                f"{self._core.layout.root}: the next full shard needs {needed / 1e6:.1f} MB beside the short ones, the disk "
                f"has {free / 1e6:.1f} MB free. Nothing is lost; free some space and run the same command again"
            )

    def _renew_in_time(self) -> None:
        now = self._core.clock()
        if now - self._renewed > self._core.lease_seconds / 4:
            with self._core.locked():
                self._leases = [self._core.leases.renew(lease, self._core.lease_seconds) for lease in self._leases]
            self._renewed = now

    def _recorded(self) -> dict[str, Any]:
        """Say where the maps were computed: what the old records say, if they agree."""
        said: list[dict[str, Any]] = []
        for number in sorted({entry.record for entry in self._entries.values()}):
            record = self._core.log.read(number)
            recorded = dict(record.body.get("recorded", {})) if record is not None else {}
            if recorded not in said:
                said.append(recorded)
        return said[0] if len(said) == 1 else {"several": said}
