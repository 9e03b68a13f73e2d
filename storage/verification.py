"""Comparing everything on disk with the records: what is damaged, missing or superfluous, by name. Changes nothing.

The records are read anew, tolerating broken ones, into an index of their own; nothing derived is believed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storage.core import StoreCore
from storage.encoding import stored_dtype
from storage.errors import DamagedError, FormatError, KeyMismatchError, VersionError
from storage.index_lines import LayerEntry
from storage.layout import ROW_KEYS, VALID, StoreLayout
from storage.publish import PARTIAL_SUFFIX
from storage.records import Record, RecordLog
from storage.rows_index import RowsIndex
from storage.shards import ShardFile, ShardFileSummary
from storage.versions import refuse_other_versions
from storage.zarr_metadata import blocks_of, derived_documents, derived_rows, roles, row_count, row_shape

__all__ = ["Finding", "verify", "verify_path"]


@dataclass(frozen=True)
class Finding:
    """One thing that is not as the records say.

    Args:
        kind: `record`, `missing`, `damaged` (these need `store repair`), `orphan`, `partial`, `index` or `metadata` (these are
            put right by the next extraction, and count for nothing until then). The command line adds `version`.
        shard: the shard's number, if it is about one.
        layer: the layer's name, if it is about one.
        row_keys: the images that are hurt.
        what: what was expected and what is there.
        path: the file.
    """

    kind: str
    shard: int | None
    layer: str | None
    row_keys: tuple[str, ...]
    what: str
    path: str

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "row_keys": list(self.row_keys)}


class _ReadableRecords(RecordLog):
    """Records as far as they can be read: what is wrong with the others is kept in `findings`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.findings: list[Finding] = []

    def follow(self, number: int, link: str) -> Iterator[Record]:
        """Read all records after one that can be read, noting gaps and wrong links."""
        expected: str | None = link
        for later in self.numbers():
            if later <= number:
                continue
            for lost in range(number + 1, later):
                self._note(lost, "the record is missing")
                expected = None
            number = later
            try:
                record = self.read(later)
            except VersionError:
                raise
            except FormatError as error:
                record = None
                self._note(later, str(error))
            if record is not None and expected is not None and record.previous != expected:
                self._note(later, f"follows record {record.previous[:12]}…, but the one before it is {expected[:12]}…")
            expected = None if record is None else record.link
            if record is not None:
                yield record

    def _note(self, number: int, what: str) -> None:
        finding = Finding("record", None, None, (), what, str(self.path(number)))
        if finding not in self.findings:
            self.findings.append(finding)


def verify_path(path: Path, *, deep: bool = True) -> list[Finding]:
    """Verify a store that perhaps cannot even be opened.

    Raises:
        FormatError: the folder is not that of a feature store.
        VersionError: it is one of another format version.
    """
    layout = StoreLayout(Path(path).resolve())
    if not layout.records.is_dir():
        raise FormatError(f"{path}: expected the folder of a feature store, found no records in it")
    refuse_other_versions(layout)
    core = StoreCore(layout, lease_seconds=0.0)
    core.occupy(create=False)
    return verify(core, deep=deep)


def verify(core: StoreCore, *, deep: bool = True) -> list[Finding]:
    """Compare everything on disk with the records. Writers may go on meanwhile.

    Args:
        core: the store.
        deep: read all bytes and compare all checksums; otherwise names, sizes and the files' own indexes.
    """
    log = _ReadableRecords(core.layout.records)
    truth = RowsIndex(None, log)
    with core.locked():
        # Under the lock, so that no writer is between its files and its record.
        state = truth.refresh()
        findings = log.findings
        if state.create is None:
            return [*findings, Finding("record", None, None, (), "no record creates the store", str(log.path(1)))]
        entries = truth.entries(truth.shards())
        # Files of superseded rows serve readers that know the rows' numbers; nobody else reads them.
        findings += _unexpected_files(core, truth, {*entries, *truth.entries(truth.superseded())})
        findings += _derived(core, truth)
    # A layer without a shape was declared by a record that is lost, which is a finding already.
    for (shard, layer), entry in sorted(item for item in entries.items() if item[0][1] in state.shapes):
        keys = truth.slot_keys(shard)
        found = list(_damage(core.layout, truth, shard, layer, entry, keys, deep=deep))
        if found and _still_counts(core, shard, layer, entry):
            findings += found
    truth.close()
    return findings


def _still_counts(core: StoreCore, shard: int, layer: str, entry: LayerEntry) -> bool:
    """Tell whether nobody withdrew or replaced a file while it was read."""
    with contextlib.suppress(FormatError):
        core.index.refresh()
        now = core.index.entries([shard], [layer]).get((shard, layer))
        return now is not None and now.record == entry.record
    return True


def _damage(
    layout: StoreLayout, truth: RowsIndex, shard: int, layer: str, entry: LayerEntry, keys: dict[int, str], *, deep: bool
) -> Iterator[Finding]:
    create = truth.state.create or {}
    for role, summary in entry.files.items():
        path = layout.shard(layer, shard, role)
        everyone = tuple(keys[slot] for slot in entry.slots if slot in keys)
        if not path.exists():
            yield Finding("missing", shard, layer, everyone, "the file is gone", str(path))
            continue
        try:
            file = ShardFile(
                path,
                summary,
                int(truth.state.shard_images or 1),
                row_shape(truth.state.shapes[layer], role),
                stored_dtype(str(create["dtype"]) if role == "maps" else "float32"),
                compressed=create["compression"] == "zstd",
                keep_cached=False,
            )
        except DamagedError as error:
            yield Finding("damaged", shard, layer, everyone, str(error), str(path))
            continue
        hurt = tuple(keys[slot] for slot in _damaged_slots(file, entry, summary) if slot in keys) if deep else ()
        if hurt:
            what = f"the bytes of {len(hurt)} of {len(everyone)} rows are not those committed"
            yield Finding("damaged", shard, layer, hurt, what, str(path))


def _damaged_slots(file: ShardFile, entry: LayerEntry, summary: ShardFileSummary) -> Iterator[int]:
    for slot, crc32c in zip(entry.slots, summary.rows_crc32c, strict=True):
        if not file.is_whole(slot, crc32c):
            yield slot


def _unexpected_files(core: StoreCore, truth: RowsIndex, counted: set[tuple[int, str]]) -> Iterator[Finding]:
    live, _ = core.leases.live_and_dead()
    writing = {lease.name for lease in live}
    leased = {(lease.shard, layer) for lease in live for layer in lease.layers}
    for layer in truth.state.shapes:
        for role in roles(str((truth.state.create or {})["dtype"])):
            for path in sorted(core.layout.array(layer, role).glob("c.*")):
                parts = path.name.split(".")
                shard = int(parts[1]) if parts[1].isdigit() else None
                if path.name.endswith(PARTIAL_SUFFIX):
                    if parts[-2] not in writing:
                        yield Finding("partial", shard, layer, (), "an unfinished file that nobody writes", str(path))
                elif (shard, layer) not in counted and (shard, layer) not in leased:
                    yield Finding("orphan", shard, layer, (), "a file that no record counts", str(path))


def _derived(core: StoreCore, truth: RowsIndex) -> Iterator[Finding]:
    try:
        core.refresh()
        if core.index.lines() != truth.lines():
            yield Finding("index", None, None, (), "the index of rows does not agree with the records", str(core.layout.index))
    except (FormatError, KeyMismatchError) as error:
        yield Finding("record", None, None, (), str(error), str(core.layout.records))
    for name, document in derived_documents(truth.state, core.key, row_count(truth)):
        if _json(core.layout.root / name) != document:
            yield Finding(
                "metadata", None, None, (), "the document does not say what the records say", str(core.layout.root / name)
            )
    yield from _derived_arrays(core.layout, truth)


def _derived_arrays(layout: StoreLayout, truth: RowsIndex) -> Iterator[Finding]:
    shard_images = int(truth.state.shard_images or 1)
    for block in sorted({block for shard in truth.shards() for block in blocks_of(shard, shard_images)}):
        valid, keys = derived_rows(truth, shard_images, block)
        for path, data in (
            (layout.root / VALID / f"c.{block}", valid),
            (layout.root / ROW_KEYS / f"c.{block}.0", keys),
        ):
            if not path.exists() or path.read_bytes() != data.tobytes():
                yield Finding("metadata", None, None, (), "the array does not say what the records say", str(path))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
