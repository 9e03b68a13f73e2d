"""What a store is and holds, told as JSON: nothing is changed, and only small files are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from storage.core import StoreCore
from storage.layout import JOURNAL, StoreLayout, array_name
from storage.zarr_metadata import roles

__all__ = ["disk_usage", "info", "list_stores"]


def info(core: StoreCore) -> dict[str, Any]:
    """Return what a store is and holds."""
    state = core.refresh()
    create = state.create or {}
    counts = core.index.row_counts()
    usage = disk_usage(core)
    return {
        "key": core.key,
        "path": str(core.layout.root),
        "key_fields": create["key_fields"],
        "recorded": create["recorded"],
        "dtype": create["dtype"],
        "compression": create["compression"],
        "shard_images": state.shard_images,
        "records": state.number,
        "shards": len(core.index.shards()),
        "rows": max(counts.values(), default=0),
        "layers": {
            layer: {
                "shape": list(shape),
                "rows": counts.get(layer, 0),
                "bytes": usage["layers"][layer],
                "array": array_name(layer, "maps"),
            }
            for layer, shape in state.shapes.items()
        },
        "bytes": usage["total"],
    }


def disk_usage(core: StoreCore) -> dict[str, Any]:
    """Return the bytes of files: per layer, of quarantine and unfinished files, of the rest, and in all."""
    layers = {
        layer: sum(_bytes_below(core.layout.array(layer, role)) for role in roles(core.dtype)) for layer in core.state.shapes
    }
    quarantine = _bytes_below(core.layout.quarantine)
    total = _bytes_below(core.layout.root)
    return {"layers": layers, "quarantine": quarantine, "overhead": total - sum(layers.values()) - quarantine, "total": total}


def list_stores(stores_root: Path) -> list[Path]:
    """Return the folders below `stores_root` that are feature stores, by name; broken ones too: opening says what is wrong."""
    if not stores_root.is_dir():
        return []
    return sorted(path for path in stores_root.iterdir() if StoreLayout(path).records.is_dir() and path.name != JOURNAL)


def _bytes_below(folder: Path) -> int:
    return sum(size for size in _sizes(folder))


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                yield path.stat().st_size
        except FileNotFoundError:
            # Removed by a writer while we look.
            continue
