"""The lines of the index of rows: the tables, each line's own checksum, and what a record changes in them.

Knows SQLite and records; `storage.rows_index` asks the questions.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from storage.errors import FormatError
from storage.record_fields import check_fields
from storage.records import NO_RECORD, REPAIR_HINT, Record
from storage.shards import ShardFileSummary, checksum

__all__ = [
    "SCHEMA",
    "SCHEMA_VERSION",
    "DamagedIndexError",
    "LayerEntry",
    "StoreState",
    "apply_record",
    "check_record",
    "checked_lines",
    "line_checksum",
    "load_state",
    "save_state",
]

SCHEMA_VERSION = 2
"""An index of another version is built anew."""
SCHEMA = f"""
BEGIN IMMEDIATE;
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE IF NOT EXISTS state(id INTEGER PRIMARY KEY CHECK (id = 1), value TEXT NOT NULL, chk INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS rows(key TEXT, shard INTEGER, slot INTEGER, chk INTEGER, PRIMARY KEY(key, shard)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS rows_by_shard ON rows(shard, slot);
CREATE TABLE IF NOT EXISTS files(shard INTEGER, layer TEXT, mask TEXT, mask_chk INTEGER, entry TEXT, chk INTEGER,
                                 PRIMARY KEY(shard, layer)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dirty(shard INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS unflushed(shard INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS holes(shard INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS superseded(shard INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS totals(layer TEXT PRIMARY KEY, row_count INTEGER, shards INTEGER, bytes INTEGER,
                                  chk INTEGER) WITHOUT ROWID;
COMMIT;
"""

Shape = tuple[int, int, int]
_WIDEST_GAP = 1 << 16
"""How many shards may be given up between two that are committed; each is a line of its own."""


class DamagedIndexError(Exception):
    """A line does not match its checksum: the index must be built anew. Never leaves the storage layer."""


@dataclass(frozen=True)
class StoreState:
    """What the records up to one number say of the store as a whole.

    Args:
        number: the last record.
        link: the digest that the next record must name.
        create: the body of the first record.
        shapes: (h, w, C) of each declared layer, in the order of declaration.
        shard_images: images per shard; None until layers are declared.
        withdrawals: how many times something committed ceased to count.
    """

    number: int = 0
    link: str = NO_RECORD
    create: Mapping[str, Any] | None = None
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    shard_images: int | None = None
    withdrawals: int = 0


@dataclass(frozen=True)
class LayerEntry:
    """What the records say of one layer of one shard.

    Args:
        record: the number of the commit record that counts.
        slots: the slots that are there, rising.
        files: per role (`maps`, `scale_offset`) the file's summary.
    """

    record: int
    slots: tuple[int, ...]
    files: Mapping[str, ShardFileSummary]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LayerEntry:
        """Read the JSON form."""
        files = {
            role: ShardFileSummary(int(file["bytes"]), int(file["index_crc32c"]), tuple(map(int, file["rows_crc32c"])))
            for role, file in value["files"].items()
        }
        return cls(int(value["record"]), tuple(map(int, value["slots"])), files)

    def row_crc32c(self, slot: int, role: str = "maps") -> int:
        """Return the checksum of one row."""
        return self.files[role].rows_crc32c[self.slots.index(slot)]


def line_checksum(*values: Any) -> int:
    """Return the checksum that a line carries."""
    return checksum("\0".join(map(str, values)).encode())


def checked_lines(lines: sqlite3.Cursor) -> Iterator[tuple[Any, ...]]:
    """Yield lines without their last member, which is the checksum of the others.

    Raises:
        DamagedIndexError: a line does not match.
    """
    for *values, chk in lines:
        if line_checksum(*values) != chk:
            raise DamagedIndexError(f"line {values!r:.80} does not match its checksum")
        yield tuple(values)


def load_state(connection: sqlite3.Connection) -> StoreState:
    """Read how far the index has come."""
    for (value,) in checked_lines(connection.execute("SELECT value, chk FROM state")):
        fields = json.loads(value)
        fields["shapes"] = {layer: tuple(shape) for layer, shape in fields["shapes"].items()}
        return StoreState(**fields)
    return StoreState()


def save_state(connection: sqlite3.Connection, state: StoreState) -> None:
    """Write how far the index has come."""
    value = json.dumps(asdict(state))
    connection.execute("INSERT OR REPLACE INTO state VALUES (1, ?, ?)", (value, line_checksum(value)))


def check_record(record: Record, state: StoreState) -> None:
    """Refuse a record, the next in order, that this program would not have written.

    Raises:
        FormatError: says which field, what was expected and what came.
    """
    try:
        check_fields(record.body, state)
    except (TypeError, ValueError, OverflowError) as error:
        raise _not_ours(record, error) from error


def apply_record(connection: sqlite3.Connection, record: Record, state: StoreState) -> StoreState:
    """Enter one record, the next in order, and return the state after it.

    Raises:
        FormatError: the record's kind or fields are not ours.
    """
    check_record(record, state)
    state = replace(state, number=record.number, link=record.link)
    try:
        return _APPLY[record.kind](connection, record, state)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _not_ours(record, error) from error


def _not_ours(record: Record, error: Exception) -> FormatError:
    return FormatError(
        f"record {record.number}: expected a record this program wrote, got {record.body!r:.200} ({error}); {REPAIR_HINT}"
    )


def _apply_create(_: sqlite3.Connection, record: Record, state: StoreState) -> StoreState:
    return state if state.create else replace(state, create=dict(record.body), shard_images=record.body["shard_images"])


def _apply_layers(_: sqlite3.Connection, record: Record, state: StoreState) -> StoreState:
    shapes = {str(layer): (int(h), int(w), int(c)) for layer, (h, w, c) in record.body["shapes"]}
    return replace(state, shapes={**state.shapes, **shapes}, shard_images=int(record.body["shard_images"]))


def _apply_commit(connection: sqlite3.Connection, record: Record, state: StoreState) -> StoreState:
    shard, slots = int(record.body["shard"]), [int(slot) for slot in record.body["slots"]]
    keys = [str(key) for key in record.body["row_keys"]]
    last = connection.execute("SELECT max(shard) FROM rows").fetchone()[0]
    if shard > (last or 0) + _WIDEST_GAP:
        raise ValueError(f"shard: expected at most {_WIDEST_GAP} beyond the last, {last}, got {shard}")
    told = dict(zip(slots, keys, strict=True))
    for slot, key in connection.execute("SELECT slot, key FROM rows WHERE shard = ?", (shard,)):
        if told.get(slot, key) != key:
            raise ValueError(f"row_keys: slot {slot} of shard {shard} belongs to {key!r}, got {told[slot]!r:.200}")
    connection.executemany("INSERT INTO holes VALUES (?)", [(hole,) for hole in range(-1 if last is None else last, shard)][1:])
    connection.execute("DELETE FROM holes WHERE shard = ?", (shard,))
    lines = [(key, shard, slot, line_checksum(key, shard, slot)) for key, slot in zip(keys, slots, strict=True)]
    connection.executemany("INSERT OR IGNORE INTO rows VALUES (?, ?, ?, ?)", lines)
    mask = f"{sum(1 << slot for slot in slots):x}"
    for layer, files in record.body["layers"].items():
        entry = json.dumps({"record": record.number, "slots": slots, "files": files}, separators=(",", ":"))
        LayerEntry.from_json(json.loads(entry))
        line = (shard, layer, mask, line_checksum(shard, layer, mask), entry, line_checksum(shard, layer, entry))
        connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", line)
    connection.execute("INSERT OR IGNORE INTO dirty VALUES (?)", (shard,))
    connection.execute("DELETE FROM superseded WHERE shard = ?", (shard,))
    for old, old_slots in record.body.get("supersedes", ()):
        _supersede(connection, int(old), [int(slot) for slot in old_slots])
    return state


def _supersede(connection: sqlite3.Connection, shard: int, slots: list[int]) -> None:
    """Forget where rows lay. Their files are still listed, for readers that know the rows' numbers."""
    connection.executemany("DELETE FROM rows WHERE shard = ? AND slot = ?", [(shard, slot) for slot in slots])
    connection.execute("INSERT OR IGNORE INTO dirty VALUES (?)", (shard,))
    if connection.execute("SELECT 1 FROM rows WHERE shard = ? LIMIT 1", (shard,)).fetchone() is None:
        connection.execute("INSERT OR IGNORE INTO superseded VALUES (?)", (shard,))


def _apply_discard(connection: sqlite3.Connection, record: Record, state: StoreState) -> StoreState:
    shards = [(int(shard),) for shard in record.body["shards"]]
    connection.executemany("DELETE FROM files WHERE shard = ?", shards)
    connection.executemany("DELETE FROM superseded WHERE shard = ?", shards)
    return state


def _apply_retire(connection: sqlite3.Connection, record: Record, state: StoreState) -> StoreState:
    shard = int(record.body["shard"])
    connection.execute("DELETE FROM files WHERE shard = ? AND layer = ?", (shard, str(record.body["layer"])))
    connection.execute("INSERT OR IGNORE INTO dirty VALUES (?)", (shard,))
    return replace(state, withdrawals=state.withdrawals + 1)


def _apply_lost(_: sqlite3.Connection, __: Record, state: StoreState) -> StoreState:
    return replace(state, withdrawals=state.withdrawals + 1)


def _apply_fence(_: sqlite3.Connection, __: Record, state: StoreState) -> StoreState:
    return state


_APPLY = {
    "create": _apply_create,
    "layers": _apply_layers,
    "commit": _apply_commit,
    "retire": _apply_retire,
    "discard": _apply_discard,
    "lost": _apply_lost,
    "fence": _apply_fence,
}
