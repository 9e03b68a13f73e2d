"""What a store is and holds, told as JSON: nothing is changed, and only small files are read."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.backends import backend_of
from storage.core import StoreCore
from storage.index_totals import WHOLE, Total
from storage.layout import array_name
from storage.occupancy import last_used
from storage.publish import PARTIAL_SUFFIX
from storage.zarr_metadata import roles

__all__ = ["disk_usage", "info", "list_stores"]


def info(core: StoreCore) -> dict[str, Any]:
    """Return what a store is and holds; costs the same however many rows that are. Bytes are those of committed maps."""
    state = core.refresh()
    create = state.create or {}
    totals = core.index.totals()
    whole = totals.get(WHOLE, Total())
    return {
        "key": core.key,
        "path": core.place,
        "key_fields": create["key_fields"],
        "recorded": create["recorded"],
        "dtype": create["dtype"],
        "compression": create["compression"],
        "shard_images": state.shard_images,
        "records": state.number,
        "shards": whole.shards,
        "rows": whole.rows,
        "layers": {
            layer: {
                "shape": list(shape),
                "rows": totals.get(layer, Total()).rows,
                "bytes": totals.get(layer, Total()).bytes,
                "array": array_name(layer, "maps"),
            }
            for layer, shape in state.shapes.items()
        },
        "bytes": whole.bytes,
        "last_used": datetime.fromtimestamp(last_used(core.layout), UTC).isoformat(timespec="seconds"),
    }


def disk_usage(core: StoreCore) -> dict[str, Any]:
    """Return the bytes of all files: per layer, of quarantine, of unfinished files, of the rest, and in all."""
    layers = {array_name(layer, role): layer for layer in core.state.shapes for role in roles(core.dtype)}
    usage: dict[str, Any] = {"layers": dict.fromkeys(core.state.shapes, 0), "quarantine": 0, "unfinished": 0, "overhead": 0}
    for path, size in core.files.sizes(core.layout.root):
        layer = layers.get(path.relative_to(core.layout.root).parts[0])
        if path.name.endswith(PARTIAL_SUFFIX):
            usage["unfinished"] += size
        elif layer is not None:
            usage["layers"][layer] += size
        else:
            usage["quarantine" if path.parent == core.layout.quarantine else "overhead"] += size
    rest = sum(usage[name] for name in ("quarantine", "unfinished", "overhead"))
    return {**usage, "total": sum(usage["layers"].values()) + rest}


def list_stores(stores_root: Path) -> list[Path]:
    """Return the folders below `stores_root` that are feature stores, by name; broken ones too: opening says what is wrong."""
    return backend_of(stores_root).store_paths()
