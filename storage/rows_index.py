"""The index of rows: what the records say, kept in SQLite so that opening and asking stay fast.

Derived and rebuildable. It remembers the number and link of the last record it has seen and reads on from there; every line
carries a checksum of its own, because a flipped bit here must not give somebody else's columns. Deleted, damaged or not
writable, it is built anew from the records.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from storage.errors import FormatError
from storage.index_lines import (
    SCHEMA,
    SCHEMA_VERSION,
    DamagedIndexError,
    LayerEntry,
    StoreState,
    checked_lines,
    load_state,
    save_state,
)
from storage.index_totals import Total, apply_counted, load_totals
from storage.records import REPAIR_HINT, RecordLog

__all__ = ["Placement", "RowsIndex"]

T = TypeVar("T")
Placement = tuple[int, int]
"""(shard, slot)."""

_IN_MEMORY = ":memory:"
_BUSY_SECONDS = 120.0
_CREATION_SECONDS = 10.0


class RowsIndex:
    """Answer questions about rows from SQLite, in step with the records. Safe among threads, processes and forks.

    Args:
        path: the database file; None for one that is built from the records and forgotten.
        log: the records.
    """

    def __init__(self, path: Path | None, log: RecordLog) -> None:
        self._path = path
        self._log = log
        self._guard = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._inherited: list[sqlite3.Connection | None] = []
        self._process = 0
        self.state = StoreState()

    # --- keeping in step -------------------------------------------------------------------------------------------

    def refresh(self) -> StoreState:
        """Read the records that are new, and return what they say of the store as a whole.

        Raises:
            FormatError: the chain of records is broken, or the last record seen is gone.
        """
        self.state = self._run(self._follow)
        return self.state

    def rebuild(self) -> None:
        """Forget everything and read all records anew."""
        with self._guard:
            self._discard()
            self.refresh()

    def lines(self) -> set[tuple[Any, ...]]:
        """Return every line, to be compared with another index's."""

        def read(connection: sqlite3.Connection) -> set[tuple[Any, ...]]:
            rows = connection.execute("SELECT key, shard, slot, chk FROM rows")
            files = connection.execute("SELECT shard, layer, mask, mask_chk, entry, chk FROM files")
            totals = connection.execute("SELECT layer, row_count, shards, bytes, chk FROM totals")
            superseded = connection.execute("SELECT shard FROM superseded")
            return {*rows, *files, *totals, *superseded}

        return self._run(read)

    def last_number_seen(self) -> int:
        """Return the last record the index has seen, perhaps one that is gone since; 0 if there is no index to be read."""
        if self._path is None or not self._path.exists():
            return 0
        try:
            with contextlib.closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS)) as connection:
                return load_state(connection).number
        except (sqlite3.Error, DamagedIndexError):
            return 0

    def close(self) -> None:
        """Close the database; the next question opens it again."""
        with self._guard:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            self._connection = None

    def _follow(self, connection: sqlite3.Connection) -> StoreState:
        state = load_state(connection)
        if state.number and state == self.state and not self._log.exists(state.number + 1):
            return state
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            state = load_state(connection)
            self._check_last(state)
            for record in self._log.follow(state.number, state.link):
                state = apply_counted(connection, record, state)
            if self._path is not None:
                self._log.flush(state.number)
            save_state(connection, state)
        return state

    def _check_last(self, state: StoreState) -> None:
        record = self._log.read(state.number) if state.number else None
        if state.number and (record is None or record.link != state.link):
            raise FormatError(
                f"{self._log.name(state.number)}: record {state.number}, which the index has seen, is gone or is another one; "
                f"{REPAIR_HINT}"
            )

    # --- questions -------------------------------------------------------------------------------------------------

    def placements(self, keys: Iterable[str]) -> dict[str, list[Placement]]:
        """Return, per row key that has any, its rows from the oldest to the latest."""
        wanted = json.dumps(list(keys))

        def read(connection: sqlite3.Connection) -> dict[str, list[Placement]]:
            found: dict[str, list[Placement]] = {}
            query = "SELECT rows.key, shard, slot, chk FROM json_each(?) AS wanted CROSS JOIN rows ON rows.key = wanted.value"
            for key, shard, slot in checked_lines(connection.execute(query, (wanted,))):
                found.setdefault(key, []).append((shard, slot))
            for places in found.values():
                places.sort()
            return found

        return self._run(read)

    def entries(self, shards: Iterable[int], layers: Sequence[str] | None = None) -> dict[tuple[int, str], LayerEntry]:
        """Return what is committed of some shards (and layers), by (shard, layer)."""
        wanted = json.dumps(sorted(set(shards)))

        def read(connection: sqlite3.Connection) -> dict[tuple[int, str], LayerEntry]:
            query = "SELECT shard, layer, entry, chk FROM json_each(?) AS wanted CROSS JOIN files ON shard = wanted.value"
            return {
                (shard, layer): LayerEntry.from_json(json.loads(entry))
                for shard, layer, entry in checked_lines(connection.execute(query, (wanted,)))
                if layers is None or layer in layers
            }

        return self._run(read)

    def masks(self, shards: Iterable[int]) -> dict[tuple[int, str], int]:
        """Return which slots are committed of some shards, as bits, by (shard, layer)."""
        wanted = json.dumps(sorted(set(shards)))
        query = "SELECT shard, layer, mask, mask_chk FROM json_each(?) AS wanted CROSS JOIN files ON shard = wanted.value"
        return self._run(
            lambda connection: {
                (shard, layer): int(mask, 16) for shard, layer, mask in checked_lines(connection.execute(query, (wanted,)))
            }
        )

    def slot_keys(self, shard: int) -> dict[int, str]:
        """Return the row key of every slot of a shard that was ever committed."""
        query = "SELECT key, shard, slot, chk FROM rows WHERE shard = ? ORDER BY slot"
        return self._run(lambda connection: {slot: key for key, _, slot in checked_lines(connection.execute(query, (shard,)))})

    def shards(self) -> list[int]:
        """Return the numbers of all shards that were ever committed, rising."""
        return self._numbers("SELECT DISTINCT shard FROM rows ORDER BY shard")

    def short_shards(self, shard_images: int) -> list[int]:
        """Return the numbers of the shards that have fewer rows than they could, rising. Reads all lines."""
        return self._numbers("SELECT shard FROM rows GROUP BY shard HAVING count(*) < ? ORDER BY shard", shard_images)

    def superseded(self) -> list[int]:
        """Return the numbers of the shards of which no row counts any more, while their files are still there, rising."""
        return self._numbers("SELECT shard FROM superseded ORDER BY shard")

    def next_shard(self) -> int:
        """Return the number after that of any shard with rows or files."""
        (row,), (file,) = (self._numbers(f"SELECT ifnull(max(shard), -1) FROM {table}") for table in ("rows", "files"))
        return max(row, file) + 1

    def holes(self) -> list[int]:
        """Return the numbers below the last shard's under which nothing was ever committed, rising."""
        return self._numbers("SELECT shard FROM holes ORDER BY shard")

    def last_row(self) -> Placement | None:
        """Return the highest row that was ever committed."""
        query = "SELECT key, shard, slot, chk FROM rows ORDER BY shard DESC, slot DESC LIMIT 1"
        lines = self._run(lambda connection: list(checked_lines(connection.execute(query))))
        return (lines[0][1], lines[0][2]) if lines else None

    def totals(self) -> dict[str, Total]:
        """Return what is committed per layer, and under `WHOLE` of the store: kept, not counted anew."""
        return self._run(load_totals)

    # --- what the derived arrays still have to learn ----------------------------------------------------------------

    def dirty_shards(self) -> list[int]:
        """Return the shards of which the derived arrays do not know yet."""
        return self._numbers("SELECT shard FROM dirty ORDER BY shard")

    def mark_all_dirty(self) -> None:
        """Have the derived arrays of all shards written anew."""
        self._run(lambda connection: connection.execute("INSERT OR IGNORE INTO dirty SELECT DISTINCT shard FROM rows").close())

    def mark_clean(self, shards: Sequence[int]) -> None:
        """Note that the derived arrays know of some shards, as long as no power loss takes it back."""

        def move(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                chosen = "SELECT value FROM json_each(?)"
                connection.execute(f"INSERT OR IGNORE INTO unflushed {chosen}", (json.dumps(list(shards)),))
                connection.execute(f"DELETE FROM dirty WHERE shard IN ({chosen})", (json.dumps(list(shards)),))

        self._run(move)

    def doubt_unflushed(self) -> list[int]:
        """Have the derived arrays compared again wherever a power loss may have harmed them; return the shards."""
        self._run(lambda connection: connection.execute("INSERT OR IGNORE INTO dirty SELECT shard FROM unflushed").close())
        return self._numbers("SELECT shard FROM unflushed ORDER BY shard")

    def mark_flushed(self) -> None:
        """Note that the disk keeps all that the derived arrays say."""
        self._run(lambda connection: connection.execute("DELETE FROM unflushed").close())

    # --- the database ----------------------------------------------------------------------------------------------

    def _numbers(self, query: str, *values: int) -> list[int]:
        return self._run(lambda connection: [number for (number,) in connection.execute(query, values)])

    def _run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run an operation; where the database fails, build it anew, at last in memory, and run the operation on that."""
        with self._guard:
            for path in (self._path, self._path):
                try:
                    return operation(self._connected(path))
                except (sqlite3.Error, DamagedIndexError) as error:
                    if "locked" in str(error):
                        raise
                    self._discard()
            return operation(self._connected(None))

    def _connected(self, path: Path | None) -> sqlite3.Connection:
        if self._connection is None or self._process != os.getpid():
            # A connection must not cross a fork, nor be closed on this side of it.
            self._inherited.append(self._connection)
            self._process = os.getpid()
            self._connection = self._opened(_IN_MEMORY if path is None else str(path))
            weakref.finalize(self, _close_in, self._process, self._connection)
        return self._connection

    def _opened(self, name: str) -> sqlite3.Connection:
        connection = sqlite3.connect(name, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            _create_tables(connection)
            self.state = StoreState()
            self.state = self._follow(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _discard(self) -> None:
        self.close()
        if self._path is not None:
            # Where it cannot be removed, it is built in memory.
            with contextlib.suppress(OSError):
                for suffix in ("", "-wal", "-shm"):
                    Path(f"{self._path}{suffix}").unlink(missing_ok=True)


def _close_in(process: int, connection: sqlite3.Connection) -> None:
    """Close a connection whose index is no longer used, in the process that opened it."""
    if process == os.getpid():
        connection.close()


def _create_tables(connection: sqlite3.Connection) -> None:
    # Switching a new database to WAL fails at once, without waiting, while another process does the same.
    give_up = time.monotonic() + _CREATION_SECONDS
    while True:
        try:
            connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")
            if connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
                return
            if connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'state'").fetchone()[0]:
                raise DamagedIndexError("the index is of another version")
            connection.executescript(SCHEMA)
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            if time.monotonic() > give_up:
                raise DamagedIndexError("the index was replaced while somebody has it open") from error
            time.sleep(0.01)
