"""Comparing everything on disk with the records: what is damaged, missing or superfluous, by name. Changes nothing.

The records are read anew, tolerating broken ones, into an index of their own; nothing derived is believed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storage.backends import ShardSpec, store_exists
from storage.core import StoreCore
from storage.encoding import stored_dtype
from storage.errors import DamagedError, FormatError, KeyMismatchError, VersionError
from storage.files import Files
from storage.index_lines import LayerEntry
from storage.layout import ROW_KEYS, VALID, StoreLayout
from storage.leases import Lease
from storage.publish import PARTIAL_SUFFIX
from storage.records import Record, RecordLog
from storage.rows_index import RowsIndex
from storage.shard_rows import ShardFileSummary, ShardRows
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

    def __init__(self, folder: Path, files: Files) -> None:
        super().__init__(folder, files)
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
        finding = Finding("record", None, None, (), what, self.name(number))
        if finding not in self.findings:
            self.findings.append(finding)


def verify_path(path: Path, *, deep: bool = True) -> list[Finding]:
    """Verify a store that perhaps cannot even be opened.

    Raises:
        FormatError: the folder is not that of a feature store.
        VersionError: it is one of another format version.
    """
    layout = StoreLayout(Path(path).resolve())
    if not store_exists(layout.root):
        raise FormatError(f"{path}: expected the folder of a feature store, found no records in it")
    core = StoreCore(layout, lease_seconds=0.0)
    refuse_other_versions(layout, core.files)
    core.occupy(create=False)
    return verify(core, deep=deep)


def verify(core: StoreCore, *, deep: bool = True) -> list[Finding]:
    """Compare everything on disk with the records. Writers may go on meanwhile.

    Args:
        core: the store.
        deep: read all bytes and compare all checksums; otherwise names, sizes and the files' own indexes.
    """
    log = _ReadableRecords(core.layout.records, core.files)
    truth = RowsIndex(None, log)
    with core.locked():
        # Under the lock, so that no writer is between its files and its record.
        state = truth.refresh()
        findings = log.findings
        if state.create is None:
            return [*findings, Finding("record", None, None, (), "no record creates the store", log.name(1))]
        entries = truth.entries(truth.shards())
        live, _ = core.leases.live_and_dead()
        # Files of superseded rows serve readers that know the rows' numbers; nobody else reads them.
        findings += _unexpected_files(core, truth, live, {*entries, *truth.entries(truth.superseded())})
        if not _goes_on(core, truth, live):
            findings += _derived(core, truth)
    # A layer without a shape was declared by a record that is lost, which is a finding already.
    for (shard, layer), entry in sorted(item for item in entries.items() if item[0][1] in state.shapes):
        keys = truth.slot_keys(shard)
        found = list(_damage(core, truth, shard, layer, entry, keys, deep=deep))
        if found and _still_counts(core, shard, layer, entry):
            findings += found
    truth.close()
    return findings


def _goes_on(core: StoreCore, truth: RowsIndex, live: Sequence[Lease]) -> bool:
    """Tell whether somebody whom the lock does not keep out writes now: then what is derived lags behind, as it may."""
    if core.backend.remote and not live:
        with contextlib.suppress(FormatError, KeyMismatchError):
            return core.refresh().number != truth.state.number
    return core.backend.remote and bool(live)


def _still_counts(core: StoreCore, shard: int, layer: str, entry: LayerEntry) -> bool:
    """Tell whether nobody withdrew or replaced a file while it was read."""
    with contextlib.suppress(FormatError):
        core.index.refresh()
        now = core.index.entries([shard], [layer]).get((shard, layer))
        return now is not None and now.record == entry.record
    return True


def _damage(
    core: StoreCore, truth: RowsIndex, shard: int, layer: str, entry: LayerEntry, keys: dict[int, str], *, deep: bool
) -> Iterator[Finding]:
    create = truth.state.create or {}
    for role, summary in entry.files.items():
        path = core.layout.shard(layer, shard, role)
        spec = ShardSpec(
            path,
            summary,
            int(truth.state.shard_images or 1),
            row_shape(truth.state.shapes[layer], role),
            stored_dtype(str(create["dtype"]) if role == "maps" else "float32"),
            compressed=create["compression"] == "zstd",
        )
        name = core.files.spell(path)
        everyone = tuple(keys[slot] for slot in entry.slots if slot in keys)
        if not core.files.exists(path):
            yield Finding("missing", shard, layer, everyone, "the file is gone", name)
            continue
        try:
            file = core.backend.examine_shard(spec, deep=deep)
        except DamagedError as error:
            yield Finding("damaged", shard, layer, everyone, str(error), name)
            continue
        hurt = tuple(keys[slot] for slot in _damaged_slots(file, entry, summary) if slot in keys) if deep else ()
        if hurt:
            what = f"the bytes of {len(hurt)} of {len(everyone)} rows are not those committed"
            yield Finding("damaged", shard, layer, hurt, what, name)


def _damaged_slots(file: ShardRows, entry: LayerEntry, summary: ShardFileSummary) -> Iterator[int]:
    for slot, crc32c in zip(entry.slots, summary.rows_crc32c, strict=True):
        if not file.is_whole(slot, crc32c):
            yield slot


def _unexpected_files(
    core: StoreCore, truth: RowsIndex, live: Sequence[Lease], counted: set[tuple[int, str]]
) -> Iterator[Finding]:
    writing = {lease.name for lease in live}
    leased = {(lease.shard, layer) for lease in live for layer in lease.layers}
    for layer in truth.state.shapes:
        for role in roles(str((truth.state.create or {})["dtype"])):
            folder = core.layout.array(layer, role)
            for name in core.files.names(folder):
                if not name.startswith("c."):
                    continue
                parts, place = name.split("."), core.files.spell(folder / name)
                shard = int(parts[1]) if parts[1].isdigit() else None
                if name.endswith(PARTIAL_SUFFIX):
                    if parts[-2] not in writing:
                        yield Finding("partial", shard, layer, (), "an unfinished file that nobody writes", place)
                elif (shard, layer) not in counted | leased and not _counts_by_now(core, shard, layer):
                    yield Finding("orphan", shard, layer, (), "a file that no record counts", place)


def _counts_by_now(core: StoreCore, shard: int | None, layer: str) -> bool:
    """Tell whether somebody whom the lock does not keep out has committed since the records were read."""
    if not core.backend.remote or shard is None:
        return False
    with contextlib.suppress(FormatError):
        core.index.refresh()
        return (shard, layer) in core.index.masks([shard])
    return False


def _derived(core: StoreCore, truth: RowsIndex) -> Iterator[Finding]:
    try:
        core.refresh()
        if core.index.lines() != truth.lines():
            yield Finding("index", None, None, (), "the index of rows does not agree with the records", str(core.layout.index))
    except (FormatError, KeyMismatchError) as error:
        yield Finding("record", None, None, (), str(error), core.files.spell(core.layout.records))
    for name, document in derived_documents(truth.state, core.key, row_count(truth)):
        path = core.layout.root / name
        if _json(core.files, path) != document:
            what = "the document does not say what the records say"
            yield Finding("metadata", None, None, (), what, core.files.spell(path))
    yield from _derived_arrays(core.files, core.layout, truth)


def _derived_arrays(files: Files, layout: StoreLayout, truth: RowsIndex) -> Iterator[Finding]:
    shard_images = int(truth.state.shard_images or 1)
    for block in sorted({block for shard in truth.shards() for block in blocks_of(shard, shard_images)}):
        valid, keys = derived_rows(truth, shard_images, block)
        for path, data in (
            (layout.root / VALID / f"c.{block}", valid),
            (layout.root / ROW_KEYS / f"c.{block}.0", keys),
        ):
            if not files.exists(path) or files.read(path) != data.tobytes():
                yield Finding("metadata", None, None, (), "the array does not say what the records say", files.spell(path))


def _json(files: Files, path: Path) -> Any:
    try:
        return json.loads(files.read(path))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
