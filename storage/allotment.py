"""Handing shards out to writers, taking them back from the dead, and withdrawing what is damaged: all under the store's lock.

What to hand out is decided in `storage.claims`; who holds it is kept in `storage.leases`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.claims import Busy, Request, Work
from storage.core import StoreCore
from storage.leases import Lease
from storage.publish import PARTIAL_SUFFIX, ensure_folder, partial_path
from storage.rows_index import RowsIndex
from storage.tidying import tidy
from storage.writing import ShardWriter
from storage.zarr_metadata import roles

__all__ = ["bury", "claim", "clear_uncounted", "retire", "set_aside"]


def claim(core: StoreCore, request: Request, recorded: Mapping[str, Any]) -> ShardWriter | Busy | None:
    """Hand out the next work of a request.

    Returns:
        a writer; `Busy` if all that is missing is being written by others; None if nothing is missing.
    """
    with core.locked():
        core.refresh()
        core.derive()
        live, dead = core.leases.live_and_dead()
        bury(core, dead)
        work = _next_work(core, request, live)
        if work is not None and _is_taken(core, work):
            # The index, which is not the truth, has lost lines.
            core.index.rebuild()
            core.derive()
            request.start_over()
            work = _next_work(core, request, live)
        if work is not None:
            return _grant(core, work, recorded)
    return _busy(core, request, live) if request.pending else None


def retire(core: StoreCore, layer: str, shard: int, reason: str) -> None:
    """Append a record that a shard's layer no longer counts, and move its files to quarantine."""
    with core.locked():
        core.refresh()
        if (shard, layer) in core.index.masks([shard]):
            core.append({"kind": "retire", "layer": layer, "shard": shard, "reason": reason})
        _quarantine(core, layer, shard)


def _next_work(core: StoreCore, request: Request, live: Sequence[Lease]) -> Work | None:
    return request.next_work(core.index, live, int(core.state.shard_images or 1), _free_shards(core, live))


def _is_taken(core: StoreCore, work: Work) -> bool:
    """Tell whether the records count what the index says is free: never overwrite on the index's word.

    The records are read only if there is a file where none should be, which a writer killed before its record may have left.
    """
    layers = work.layers if core.index.slot_keys(work.shard) else tuple(core.state.shapes)
    if not any(core.layout.shard(layer, work.shard, role).exists() for layer in layers for role in roles(core.dtype)):
        return False
    truth = RowsIndex(None, core.log)
    truth.refresh()
    keys = truth.slot_keys(work.shard)
    counted = any((work.shard, layer) in truth.masks([work.shard]) for layer in work.layers)
    truth.close()
    return counted or any(keys.get(slot, key) != key for slot, key in zip(work.slots, work.row_keys, strict=True))


def _grant(core: StoreCore, work: Work, recorded: Mapping[str, Any]) -> ShardWriter:
    for layer in work.layers:
        clear_uncounted(core, layer, work.shard)
    lease = Lease(work.shard, work.layers, work.slots, work.row_keys, core.clock() + core.lease_seconds)
    core.leases.grant(lease)
    return ShardWriter(core, lease, recorded)


def clear_uncounted(core: StoreCore, layer: str, shard: int) -> None:
    """Remove a file that no record counts: a writer died between publishing it and its record. It is made again."""
    for role in roles(core.dtype):
        core.layout.shard(layer, shard, role).unlink(missing_ok=True)


def bury(core: StoreCore, dead: Sequence[Lease]) -> None:
    """Remove dead leases with all that those who held them left unfinished. The caller holds the lock."""
    for lease in dead:
        core.leases.remove(lease)
    if dead:
        tidy(core)


def _free_shards(core: StoreCore, live: Sequence[Lease]) -> list[int]:
    """Return numbers that new images may take: those that others gave up first, so that no hole stays."""
    last = core.index.last_row()
    first = 0 if last is None else last[0] + 1
    taken = {lease.shard for lease in live}
    return [shard for shard in (*core.index.holes(), *range(first, first + len(live) + 1)) if shard not in taken]


def _busy(core: StoreCore, request: Request, live: Sequence[Lease]) -> Busy:
    pending = set(request.pending)
    theirs = [lease for lease in live if pending & set(lease.row_keys)] or live
    seconds = min((core.leases.seconds_left(lease) for lease in theirs), default=0.0)
    return Busy(seconds, tuple(lease.owner for lease in theirs), len(pending))


def _quarantine(core: StoreCore, layer: str, shard: int) -> None:
    for role in roles(core.dtype):
        path = core.layout.shard(layer, shard, role)
        if path.exists():
            set_aside(core, path, f"{path.parent.name}.{path.name}")


def set_aside(core: StoreCore, path: Path, name: str) -> None:
    """Move a file to quarantine, under a name of its own that begins with `name`. The caller holds the lock."""
    ensure_folder(core.layout.quarantine)
    unique = partial_path(core.layout.quarantine / name).name.removesuffix(PARTIAL_SUFFIX)
    aside = path.replace(core.layout.quarantine / unique)
    # From now on it waits for somebody to look at it.
    os.utime(aside)
