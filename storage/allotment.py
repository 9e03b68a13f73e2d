"""Handing shards out to writers, taking them back from the dead, and withdrawing what is damaged: all under the store's lock.

What to hand out is decided in `storage.claims`; who holds it is kept in `storage.leases`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.claims import Busy, Request, Work, conflicts, locate
from storage.core import StoreCore
from storage.leases import Lease
from storage.publish import PARTIAL_SUFFIX, ensure_folder, partial_path
from storage.tidying import tidy
from storage.writing import ShardWriter
from storage.zarr_metadata import roles

__all__ = ["bury", "claim", "clear_uncounted", "remove_uncounted", "retire", "set_aside"]

_APART_SECONDS = 0.2


def claim(core: StoreCore, request: Request, recorded: Mapping[str, Any]) -> ShardWriter | Busy | None:
    """Hand out the next work of a request.

    Returns:
        a writer; `Busy` if all that is missing is being written by others; None if nothing is missing.
    """
    while True:
        with core.locked():
            # Leases first: a writer that has none any more has committed, or given up, before the records are read.
            live, dead = core.leases.live_and_dead()
            core.refresh()
            core.derive(soon=True)
            bury(core, dead)
            work = _next_work(core, request, live)
            if work is not None and _is_taken(core, work):
                # The index, which is not the truth, has lost lines.
                core.index.rebuild()
                core.derive()
                request.start_over()
                work = _next_work(core, request, live)
            if work is None:
                core.derive(soon=bool(live))
                break
            if (lease := _granted(core, work)) is not None:
                return ShardWriter(core, lease, recorded)
        # Somebody elsewhere was as quick; apart in time, one of us comes first.
        time.sleep(random.uniform(0.01, _APART_SECONDS))
    return _busy(core, request, live) if request.pending else None


def retire(core: StoreCore, layer: str, shard: int, reason: str) -> None:
    """Append a record that a shard's layer no longer counts, and move its files to quarantine."""
    with core.locked():
        core.refresh()
        if core.backend.remote:
            # A copy, before others may write over it.
            _quarantine(core, layer, shard)
        if (shard, layer) in core.index.masks([shard]):
            core.append({"kind": "retire", "layer": layer, "shard": shard, "reason": reason})
        if not core.backend.remote:
            _quarantine(core, layer, shard)


def _next_work(core: StoreCore, request: Request, live: Sequence[Lease]) -> Work | None:
    return request.next_work(core.index, live, int(core.state.shard_images or 1), _free_shards(core, live))


def _is_taken(core: StoreCore, work: Work) -> bool:
    """Tell whether the records count what the index says is free: never overwrite on the index's word.

    The records are read only if there is a file where none should be, which a writer killed before its record may have left.
    In an object store that is asked when the object is written: there it must not be there.
    """
    if core.backend.remote:
        return False
    layers = work.layers if core.index.slot_keys(work.shard) else tuple(core.state.shapes)
    if not any(core.layout.shard(layer, work.shard, role).exists() for layer in layers for role in roles(core.dtype)):
        return False
    return core.counts(work)


def _granted(core: StoreCore, work: Work) -> Lease | None:
    """Take a lease for some work; None if somebody whom the lock does not keep out has taken or done it meanwhile."""
    lease = Lease(work.shard, work.layers, work.slots, work.row_keys, core.clock() + core.lease_seconds)
    if not core.backend.remote:
        for layer in work.layers:
            clear_uncounted(core, layer, work.shard)
        core.leases.grant(lease)
        return lease
    core.leases.grant(lease)
    # Whoever took one after us sees ours; leases again before records.
    others, _ = core.leases.live_and_dead()
    core.refresh()
    taken = any(
        other.name != lease.name and (other.shard == lease.shard or set(other.row_keys) & set(lease.row_keys))
        for other in others
    )
    if taken or conflicts(core.index, work) or locate(core.index, work.row_keys, work.layers):
        core.leases.remove(lease)
        return None
    return lease


def clear_uncounted(core: StoreCore, layer: str, shard: int) -> None:
    """Remove a file that no record counts: a writer died between publishing it and its record. It is made again."""
    for role in roles(core.dtype):
        core.layout.shard(layer, shard, role).unlink(missing_ok=True)


def remove_uncounted(core: StoreCore, layer: str, shard: int) -> bool:
    """Remove the objects of a shard's layer that no record counts; False if somebody writes or has committed them."""
    with core.locked():
        bury(core, core.leases.live_and_dead()[1])
        # With a lease of our own, nobody can begin to write what we remove.
        lease = _granted(core, Work(shard, (), (), (layer,)))
        if lease is None:
            return False
        try:
            if core.counts(lease):
                return False
            for role in roles(core.dtype):
                core.files.clear(core.layout.shard(layer, shard, role))
        finally:
            core.leases.remove(lease)
    return True


def bury(core: StoreCore, dead: Sequence[Lease]) -> None:
    """Remove dead leases with all that those who held them left unfinished. The caller holds the lock."""
    for lease in dead:
        if core.backend.remote:
            # Its holder may only seem dead, and no lock keeps it from committing; a record that comes first does.
            core.append({"kind": "fence", "lease": lease.name, "shard": lease.shard})
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
        if core.files.exists(path):
            set_aside(core, path, f"{path.parent.name}.{path.name}")


def set_aside(core: StoreCore, path: Path, name: str) -> None:
    """Move a file to quarantine, under a name of its own that begins with `name`. The caller holds the lock."""
    ensure_folder(core.layout.quarantine)
    unique = partial_path(core.layout.quarantine / name).name.removesuffix(PARTIAL_SUFFIX)
    core.files.set_aside(path, core.layout.quarantine / unique)
