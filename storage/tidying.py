"""Removing what writers that died left unfinished: files that nobody will ever give their names.

Bookkeeping is written under the store's lock, so whoever holds it finds no unfinished file of the living there; the partial
files of shards belong to leases, and stay as long as these.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from storage.core import StoreCore
from storage.layout import ROW_KEYS, VALID
from storage.publish import PARTIAL_SUFFIX
from storage.zarr_metadata import roles

__all__ = ["tidy"]


def tidy(core: StoreCore) -> None:
    """Remove unfinished files that no lease names. The caller holds the store's lock."""
    live, dead = core.leases.live_and_dead()
    # A lease that has expired may still be renewed, as long as nobody has taken its shard over.
    writing = {lease.name for lease in (*live, *dead)}
    for path in _unfinished(core):
        if path.name.split(".")[-2] not in writing:
            path.unlink(missing_ok=True)


def _unfinished(core: StoreCore) -> Iterator[Path]:
    layout = core.layout
    arrays = [layout.array(layer, role) for layer in core.state.shapes for role in roles(core.dtype)]
    for folder in (
        layout.root,
        layout.journal,
        layout.records,
        layout.leases,
        layout.root / VALID,
        layout.root / ROW_KEYS,
        *arrays,
    ):
        yield from folder.glob(f"*{PARTIAL_SUFFIX}")
