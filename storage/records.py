"""The records of a store: numbered, chained by digest, and the only truth about what is committed.

Kinds: `create` (number 1: what the store's key was made of), `layers` (shapes declared), `commit` (a shard's layers are
there; it may name rows of other shards that it `supersedes`), `retire` (a shard's layer no longer counts), `discard` (shards
of which all rows were superseded have no files any more), `lost` (a record that could not be read is declared void) and, in
object stores, `fence` (what is written under a lease that ran out will not be counted any more). A record is a canonical JSON
object whose first member is the sha256 of all that follows; the next record repeats it as `previous`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.canonical import canonical_bytes
from storage.errors import FormatError, VersionError
from storage.files import Files, LocalFiles
from storage.layout import FORMAT_VERSION

__all__ = ["NO_RECORD", "REPAIR_HINT", "Record", "RecordLog", "other_version"]

REPAIR_HINT = "run `hypercolumns store verify`, then `hypercolumns store repair`"
NO_RECORD = ""
"""The digest that stands before the first record."""
_HEAD = b'{"sha256":"'
_HEAD_BYTES = len(_HEAD) + 64 + len(b'",')
_LOOK_AHEAD = 8
"""How many numbers after the last record are tried, so that a gap is noticed without listing the folder."""


@dataclass(frozen=True)
class Record:
    """One record that was read and whose own digest is right."""

    number: int
    sha256: str
    body: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """What the record says: see the module."""
        return str(self.body.get("kind"))

    @property
    def previous(self) -> str:
        """The digest of the record before."""
        return str(self.body.get("previous"))

    @property
    def link(self) -> str:
        """The digest that the next record must name as `previous`: a void record stands for the one that was lost."""
        return str(self.body.get("stands_for") or self.sha256)


class RecordLog:
    """The folder of records.

    Args:
        folder: where they lie.
        files: how they are read and written; by default as files of a disk.
    """

    def __init__(self, folder: Path, files: Files | None = None) -> None:
        self._folder = folder
        self._files = files or LocalFiles()
        self._flushed = 0

    def path(self, number: int) -> Path:
        """Return the file of a record."""
        return self._folder / f"{number:010d}.json"

    def name(self, number: int) -> str:
        """Name the file of a record for people."""
        return self._files.spell(self.path(number))

    def exists(self, number: int) -> bool:
        """Tell whether there is a record of that number, whole or not."""
        return self._files.exists(self.path(number))

    def append(self, body: Mapping[str, Any], after_number: int, after_link: str) -> Record:
        """Publish the record that follows `after_number`.

        Raises:
            AlreadyPublishedError: somebody appended first; read theirs and try again after it.
        """
        number = after_number + 1
        chained = {**body, "number": number, "previous": after_link, "format": FORMAT_VERSION}
        tail = canonical_bytes(chained)[1:]
        sha256 = hashlib.sha256(tail).hexdigest()
        self._files.publish(self.path(number), _head(sha256) + tail)
        self._flushed = number
        return Record(number, sha256, chained)

    def read(self, number: int) -> Record | None:
        """Read one record; None if there is none of that number.

        Raises:
            VersionError: it is whole, and of another format version.
            FormatError: it is torn, damaged or misnumbered.
        """
        path = self.name(number)
        try:
            data = self._files.read(self.path(number))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FormatError(f"{path}: expected a record, got {error.strerror or error}; {REPAIR_HINT}") from error
        tail = data[_HEAD_BYTES:]
        sha256 = data[len(_HEAD) : len(_HEAD) + 64].decode("latin-1")
        if data[:_HEAD_BYTES] != _head(sha256) or hashlib.sha256(tail).hexdigest() != sha256:
            raise FormatError(f"{path}: the record does not match its own sha256; {REPAIR_HINT}")
        body = _parsed(path, b"{" + tail)
        if body.get("format") != FORMAT_VERSION:
            raise other_version(path, body.get("format"), FORMAT_VERSION)
        if body.get("number") != number:
            raise FormatError(f"{path}: the record says it is number {body.get('number')}; {REPAIR_HINT}")
        return Record(number, sha256, body)

    def follow(self, number: int, link: str) -> Iterator[Record]:
        """Read all records after one, in order, checking the chain.

        Raises:
            FormatError: the chain is broken, or a record is missing while later ones exist.
        """
        self._files.expect(self.path(number))
        while (record := self.read(number + 1)) is not None:
            if record.previous != link:
                raise FormatError(
                    f"{self.name(record.number)}: follows record {record.previous[:12]}…, but the one before it is "
                    f"{link[:12]}…; {REPAIR_HINT}"
                )
            number, link = record.number, record.link
            yield record
        if self._files.exists_any([self.path(later) for later in range(number + 2, number + 2 + _LOOK_AHEAD)]):
            raise FormatError(f"{self.name(number + 1)}: the record is missing, later ones exist; {REPAIR_HINT}")

    def flush(self, number: int) -> None:
        """Have the disk keep the names of all records up to one, whoever wrote them: before anything counts on them.

        A writer that was killed between giving a record its name and flushing the folder leaves one that a power loss may take.
        """
        if number > self._flushed:
            self._files.settle(self._folder)
            self._flushed = number

    def numbers(self) -> list[int]:
        """List the numbers of all records, rising."""
        names = (Path(name) for name in self._files.names(self._folder))
        return sorted(int(name.stem) for name in names if name.suffix == ".json" and name.stem.isdigit())


def other_version(path: str, found: object, ours: int) -> VersionError:
    """Say that something is of another version of the format, and what to do."""
    age = "newer" if isinstance(found, int) and found > ours else "older"
    return VersionError(
        f"{path}: format version {found}, this program reads {ours}; extract the store anew (`hypercolumns extract CONFIG`), "
        f"or use the {age} release that wrote it. Nothing of it was changed"
    )


def _head(sha256: str) -> bytes:
    return _HEAD + sha256.encode("utf-8", "replace") + b'",'


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _parsed(path: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: expected a record, got bytes that do not parse; {REPAIR_HINT}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path}: expected a record, got {type(value).__name__}; {REPAIR_HINT}")
    return value
