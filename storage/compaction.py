"""Compaction: the rows of short shards, which nightly appends leave, are copied into full ones; their keys stay.

Each full shard is written like any other, under leases; its commit record also names the rows it `supersedes`, so that one
record, published whole or not at all, puts the new rows in the old ones' place. Whoever asks by row key is told of the new ones
from then on; readers that know the old numbers go on reading, because the old files stay until nobody has the store open.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storage.allotment import bury
from storage.backends import refuse_remote
from storage.core import StoreCore
from storage.errors import DamagedError
from storage.features import FeatureStore
from storage.layout import StoreLayout
from storage.packing import Batch, pack
from storage.rewriting import batch_bytes, rewrite
from storage.superseded import discard_superseded, superseded_files
from storage.tidying import tidy

__all__ = ["Compaction", "compact_store"]


@dataclass(frozen=True)
class Compaction:
    """What was moved, or would be.

    Args:
        key: the store's key.
        done: whether it was moved, or only reckoned.
        rows: rows that were copied.
        bytes: about how many bytes these are.
        short_shards: how many short shards there were.
        new_shards: how many shards they were copied into.
        skipped: why some of them were left as they are.
        bytes_removed: what the old files weighed that are gone.
        bytes_waiting: what the old files weigh that go when nobody has the store open: by `gc`, or the next compaction.
    """

    key: str
    done: bool
    rows: int
    bytes: int
    short_shards: int
    new_shards: int
    skipped: tuple[str, ...]
    bytes_removed: int
    bytes_waiting: int

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def compact_store(path: Path, *, rewrite_rows: bool) -> Compaction:
    """Pack the rows of a store's short shards into full ones, and remove the old files if nobody has the store open.

    May be killed at any moment and run again; writers and readers may go on meanwhile.

    Args:
        path: the store's folder.
        rewrite_rows: do it; otherwise only reckon what it would come to.

    Raises:
        StorageError: it lies in an object store.
        FormatError: it is no feature store, broken, or of another version.
        DiskSpaceError: the disk is full; what was moved stays moved, nothing is lost.
    """
    refuse_remote(Path(path).resolve().parent, "compacted in")
    store = FeatureStore.open(path)
    core = store.core
    short = len(core.index.short_shards(core.state.shard_images or 1))
    if rewrite_rows:
        with core.locked():
            # What a compaction that was killed after its last record left.
            core.derive()
            tidy(core)
            bury(core, core.leases.live_and_dead()[1])
    live, _ = core.leases.live_and_dead()
    batches = pack(core.index, tuple(core.state.shapes), core.state.shard_images or 1, {lease.shard for lease in live})
    weights = [batch_bytes(core, batch) for batch in batches]
    skipped = [_rewritten(core, batch) for batch in batches] if rewrite_rows else ["" for _ in batches]
    done = [(batch, weight) for batch, weight, reason in zip(batches, weights, skipped, strict=True) if not reason]
    core.refresh()
    waiting, layout, key = sum(file.bytes for file in superseded_files(core)), core.layout, store.key
    core.index.close()
    core.leave()
    removed = _removed(layout) if rewrite_rows else 0
    return Compaction(
        key=key,
        done=rewrite_rows,
        rows=sum(len(batch.rows) for batch, _ in done),
        bytes=sum(weight for _, weight in done),
        short_shards=short,
        new_shards=len(done),
        skipped=tuple(filter(None, skipped)),
        bytes_removed=removed,
        bytes_waiting=waiting - removed,
    )


def _rewritten(core: StoreCore, batch: Batch) -> str:
    """Rewrite a batch; say why not, if not."""
    try:
        return "" if rewrite(core, batch) else f"shards {sorted(batch.supersedes)}: somebody is writing them, or changed them"
    except DamagedError as error:
        return f"shards {sorted(batch.supersedes)}: {error}; run `hypercolumns store repair`"


def _removed(layout: StoreLayout) -> int:
    return sum(file.bytes for file in discard_superseded(layout) or ())
