"""What the lines of the index come to: rows, shards and bytes per layer, kept up with each record.

So that describing a store costs the same however large it is. The store as a whole is counted under the name "".
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from storage.index_lines import LayerEntry, StoreState, apply_record, check_record, checked_lines, line_checksum
from storage.records import Record

__all__ = ["WHOLE", "Total", "apply_counted", "load_totals"]

_BEYOND_SQLITE = 1 << 63

WHOLE = ""
"""The name of the store as a whole, which no layer can have."""


@dataclass(frozen=True)
class Total:
    """What is committed of a layer, or of the store.

    Args:
        rows: how many rows have it.
        shards: how many shards these lie in.
        bytes: what its files weigh, those of superseded rows too.
    """

    rows: int = 0
    shards: int = 0
    bytes: int = 0

    def __add__(self, other: Total) -> Total:
        return Total(self.rows + other.rows, self.shards + other.shards, self.bytes + other.bytes)

    def __sub__(self, other: Total) -> Total:
        return Total(self.rows - other.rows, self.shards - other.shards, self.bytes - other.bytes)


def apply_counted(connection: sqlite3.Connection, record: Record, state: StoreState) -> StoreState:
    """Enter one record, the next in order, keep the totals up with it, and return the state after it.

    Raises:
        FormatError: the record's kind or fields are not ours.
    """
    check_record(record, state)
    shards = _touched(record)
    before = _count(connection, shards)
    state = apply_record(connection, record, state)
    after = _count(connection, shards)
    totals = load_totals(connection)
    for layer in before.keys() | after.keys():
        total = totals.get(layer, Total()) - before.get(layer, Total()) + after.get(layer, Total())
        line = (layer, total.rows, total.shards, total.bytes)
        connection.execute("INSERT OR REPLACE INTO totals VALUES (?, ?, ?, ?, ?)", (*line, line_checksum(*line)))
    return state


def load_totals(connection: sqlite3.Connection) -> dict[str, Total]:
    """Read the totals, by layer."""
    lines = checked_lines(connection.execute("SELECT layer, row_count, shards, bytes, chk FROM totals"))
    return {layer: Total(*counts) for layer, *counts in lines}


def _touched(record: Record) -> set[int]:
    """Return the shards that a record is about; a kind that is not known yet may have any fields."""
    superseded = [old for old, _ in record.body.get("supersedes", ())]
    shards = [record.body.get("shard"), *superseded, *record.body.get("shards", ())]
    return {shard for shard in shards if isinstance(shard, int) and 0 <= shard < _BEYOND_SQLITE}


def _count(connection: sqlite3.Connection, shards: Iterable[int]) -> dict[str, Total]:
    """Count what some shards hold, by layer."""
    counted: dict[str, Total] = {}
    for shard in shards:
        rows = connection.execute("SELECT slot FROM rows WHERE shard = ?", (shard,))
        placed = sum(1 << slot for (slot,) in rows)
        anything, everything = 0, 0
        for layer, mask, entry in connection.execute("SELECT layer, mask, entry FROM files WHERE shard = ?", (shard,)):
            weight = sum(file.bytes for file in LayerEntry.from_json(json.loads(entry)).files.values())
            there = int(mask, 16) & placed
            anything, everything = anything | there, everything + weight
            counted[layer] = counted.get(layer, Total()) + Total(there.bit_count(), int(there > 0), weight)
        if everything:
            counted[WHOLE] = counted.get(WHOLE, Total()) + Total(anything.bit_count(), int(anything > 0), everything)
    return counted
