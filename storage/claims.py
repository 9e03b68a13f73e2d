"""Which work to hand out next: what is committed, what others write now, and what is left.

Pure decisions over the index and the leases; writes nothing. Layers that existing rows lack come first, in those rows' own
slots; then new images, in the next free shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from storage.leases import Lease, Owner
from storage.rows_index import Placement, RowsIndex

__all__ = ["Busy", "Request", "Work", "conflicts", "count_hits", "locate", "may_be_completed"]

_SCAN = 1024
"""How many row keys are looked up at a time."""


@dataclass(frozen=True)
class Busy:
    """All that is missing is being written by others now.

    Args:
        seconds_left: until the first of their leases would expire.
        owners: who writes.
        row_keys: how many of the requested row keys they write.
    """

    seconds_left: float
    owners: tuple[Owner, ...]
    row_keys: int


@dataclass(frozen=True)
class Work:
    """What one writer is to do.

    Args:
        shard: the shard's number.
        slots: its slots to be written, rising.
        row_keys: the row key of each slot.
        layers: the layers to be written.
    """

    shard: int
    slots: tuple[int, ...]
    row_keys: tuple[str, ...]
    layers: tuple[str, ...]


def locate(index: RowsIndex, keys: Iterable[str], layers: Sequence[str]) -> dict[str, Placement]:
    """Return, per row key that has one, the latest row that has all of the layers."""
    places = index.placements(keys)
    masks = index.masks(shard for rows in places.values() for shard, _ in rows)
    complete: dict[int, int] = {}
    for shard in {shard for rows in places.values() for shard, _ in rows}:
        complete[shard] = -1
        for layer in layers:
            complete[shard] &= masks.get((shard, layer), 0)
    return {
        key: place
        for key, rows in places.items()
        if (place := next((row for row in reversed(rows) if complete[row[0]] >> row[1] & 1), None)) is not None
    }


def conflicts(index: RowsIndex, work: Work | Lease) -> bool:
    """Tell whether something of what is to be written is there, or its slots belong to other images."""
    keys, masks = index.slot_keys(work.shard), index.masks([work.shard])
    others = any(keys.get(slot, key) != key for slot, key in zip(work.slots, work.row_keys, strict=True))
    return others or any((work.shard, layer) in masks for layer in work.layers)


def count_hits(index: RowsIndex, keys: Iterable[str], layers: Sequence[str]) -> dict[str, int]:
    """Return, per layer, how many of the (different) row keys have it in any row."""
    places = index.placements(keys)
    masks = index.masks(shard for rows in places.values() for shard, _ in rows)
    return {
        layer: sum(any(masks.get((shard, layer), 0) >> slot & 1 for shard, slot in rows) for rows in places.values())
        for layer in layers
    }


def may_be_completed(row: Placement, layers: Sequence[str], masks: Mapping[tuple[int, str], int]) -> bool:
    """Tell whether each layer is either there for a row, or not yet written for its shard at all."""
    shard, slot = row
    return all((shard, layer) not in masks or masks[shard, layer] >> slot & 1 for layer in layers)


class Request:
    """One caller's wish for row keys and layers; remembers what is done, so that asking again costs little.

    Args:
        row_keys: what must be there; repetitions are ignored.
        layers: the layers each of them must have.
    """

    def __init__(self, row_keys: Sequence[str], layers: Sequence[str]) -> None:
        self._keys = dict.fromkeys(row_keys)
        self._layers = tuple(layers)
        self._pending = list(self._keys)
        self._withdrawals = 0

    def next_work(self, index: RowsIndex, live: Sequence[Lease], shard_images: int, free_shards: Sequence[int]) -> Work | None:
        """Choose the next work; None if there is none now (see `pending`).

        Args:
            index: what is committed.
            live: the leases of all who write now.
            shard_images: slots per shard.
            free_shards: numbers that new images may take, best first.
        """
        if index.state.withdrawals != self._withdrawals:
            self._withdrawals = index.state.withdrawals
            self._pending = list(self._keys)
        leased_keys = {key for lease in live for key in lease.row_keys}
        leased_files = {(lease.shard, layer) for lease in live for layer in lease.layers}
        new: list[str] = []
        scanned: list[str] = []
        pending, self._pending = self._pending, []
        for first in range(0, len(pending), _SCAN):
            keys = pending[first : first + _SCAN]
            done = locate(index, keys, self._layers)
            keys = [key for key in keys if key not in done]
            scanned += keys
            work, fresh = self._in_existing_rows(index, keys, leased_files, leased_keys)
            new += fresh
            if work is not None or len(new) >= shard_images:
                self._pending = scanned + pending[first + _SCAN :]
                return work or self._in_new_rows(new, shard_images, free_shards)
        self._pending = scanned
        return self._in_new_rows(new, shard_images, free_shards) if new else None

    def start_over(self) -> None:
        """Forget what was found to be done: the index was built anew."""
        self._pending = list(self._keys)

    @property
    def pending(self) -> Sequence[str]:
        """The row keys that were not complete when work was last asked for."""
        return self._pending

    def _in_existing_rows(
        self, index: RowsIndex, keys: Sequence[str], leased_files: set[tuple[int, str]], leased_keys: set[str]
    ) -> tuple[Work | None, list[str]]:
        """Return work that completes rows which exist, and the keys that need a new row."""
        places = index.placements(keys)
        masks = index.masks(shard for rows in places.values() for shard, _ in rows)
        new = []
        for key in keys:
            row = next((row for row in reversed(places.get(key, [])) if may_be_completed(row, self._layers, masks)), None)
            if row is None:
                if key not in leased_keys:
                    new.append(key)
                continue
            layers = tuple(layer for layer in self._layers if (row[0], layer) not in masks)
            if not any((row[0], layer) in leased_files for layer in layers):
                return self._whole_shard(index, row[0], layers, masks), new
        return None, new

    def _whole_shard(self, index: RowsIndex, shard: int, layers: tuple[str, ...], masks: Mapping[tuple[int, str], int]) -> Work:
        """Return the work on all of a shard's rows that were asked for: a layer's file is written only once."""
        done = locate(index, index.slot_keys(shard).values(), self._layers)
        slots = {
            slot: key
            for slot, key in index.slot_keys(shard).items()
            if key in self._keys and key not in done and may_be_completed((shard, slot), self._layers, masks)
        }
        return Work(shard, tuple(slots), tuple(slots.values()), layers)

    def _in_new_rows(self, new: Sequence[str], shard_images: int, free_shards: Sequence[int]) -> Work:
        keys = tuple(new[:shard_images])
        return Work(free_shards[0], tuple(range(len(keys))), keys, self._layers)
