"""Files of shards whose rows all lie elsewhere now: kept for readers that know the rows' numbers, until nobody is left.

Found in the index without listing files. They go when nobody has the store open: then nobody knows a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from storage.core import StoreCore
from storage.layout import StoreLayout
from storage.leftovers import Leftover
from storage.occupancy import alone_in
from storage.publish import flush_folder
from storage.zarr_metadata import roles

__all__ = ["discard_superseded", "superseded_files"]

_LEASE_SECONDS = 120.0


def superseded_files(core: StoreCore) -> list[Leftover]:
    """List the files whose rows all lie elsewhere now."""
    shards = core.index.superseded()
    return [
        Leftover("superseded", path, path.stat().st_size, "its rows lie in a full shard now")
        for path in _paths(core, shards)
        if path.is_file()
    ]


def discard_superseded(layout: StoreLayout) -> list[Leftover] | None:
    """Remove these files, unless somebody has the store open; those who open it meanwhile wait.

    Returns:
        what was removed; None if somebody has the store open (whoever calls this must not).

    Raises:
        StorageError: whether somebody has it open cannot be known; or the store is broken.
    """
    with alone_in(layout) as alone:
        if not alone:
            return None
        core = StoreCore(layout, _LEASE_SECONDS)
        with core.locked():
            core.refresh()
            shards, files = core.index.superseded(), superseded_files(core)
            for file in files:
                file.path.unlink(missing_ok=True)
            for folder in {file.path.parent for file in files}:
                flush_folder(folder)
            # Last, since the files are found by what this record ends.
            if shards:
                core.append({"kind": "discard", "shards": shards})
        core.index.close()
    return files


def _paths(core: StoreCore, shards: list[int]) -> Iterator[Path]:
    for layer in core.state.shapes:
        for role in roles(core.dtype):
            yield from (core.layout.shard(layer, shard, role) for shard in shards)
