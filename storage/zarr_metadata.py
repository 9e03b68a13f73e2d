"""The part of a store that exists for stock Zarr and Dask: `zarr.json` documents, the `valid` and the `row_keys` array.

All of it is derived from the records and replaced atomically under the store's lock. It is not flushed to the disk at each
commit: what a power loss takes is found and written anew when the store is next opened for writing, and flushed then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from storage.canonical import KEY_DIGITS
from storage.encoding import stored_dtype
from storage.files import Files
from storage.index_lines import StoreState
from storage.layout import FORMAT_NAME, FORMAT_VERSION, JOURNAL, ROW_KEY_BYTES, ROW_KEYS, VALID, StoreLayout, array_name
from storage.publish import flush_file, flush_folder
from storage.rows_index import RowsIndex

__all__ = [
    "ROW_KEY_BYTES",
    "blocks_of",
    "derived_documents",
    "derived_rows",
    "flush_derived",
    "roles",
    "row_count",
    "row_shape",
    "write_derived",
]

_BLOCK_ROWS = 1024
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
_FILL = {"float16": "NaN", "float32": "NaN", "bfloat16": 0x7FC0, "uint8": 0}


def roles(dtype: str) -> tuple[str, ...]:
    """Return the arrays each layer has: its maps, and for uint8 the quantiser's scale and offset."""
    return ("maps", "scale_offset") if dtype == "uint8" else ("maps",)


def row_shape(shape: tuple[int, int, int], role: str) -> tuple[int, int, int]:
    """Return the shape of one row of a layer's array."""
    return shape if role == "maps" else (2, 1, shape[2])


def derived_documents(state: StoreState, key: str, rows: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every `zarr.json` by its path inside the group, in the order in which they are written.

    A reader may come between any two of them: what one says exists, those before it have.
    """
    create = state.create or {}
    about = {name: create.get(name) for name in ("key_fields", "dtype", "compression", "recorded")}
    layers = {layer: array_name(layer, "maps") for layer in state.shapes}
    attributes = {
        "format": FORMAT_NAME,
        "format_version": FORMAT_VERSION,
        "key": key[:KEY_DIGITS],
        **about,
        "shard_images": state.shard_images,
        "layers": layers,
    }
    yield f"{JOURNAL}/zarr.json", _array([0], [1], "uint8", 0, {"about": "the store's bookkeeping, not an array"})
    for layer, shape in state.shapes.items():
        for role in roles(str(create["dtype"])):
            document = _layer_document(state, layer, role, row_shape(shape, role), rows)
            yield f"{array_name(layer, role)}/zarr.json", document
    shape_of_keys = [rows, ROW_KEY_BYTES]
    about_keys = {"about": "each row's key: UTF-8, padded with zero bytes"}
    yield f"{ROW_KEYS}/zarr.json", _array(shape_of_keys, [_BLOCK_ROWS, ROW_KEY_BYTES], "uint8", 0, about_keys)
    yield f"{VALID}/zarr.json", _array([rows], [_BLOCK_ROWS], "bool", False, {"about": "which rows any layer has"})
    yield "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def derived_rows(index: RowsIndex, shard_images: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one block of the `valid` and of the `row_keys` array."""
    valid = np.zeros(_BLOCK_ROWS, bool)
    keys = np.zeros((_BLOCK_ROWS, ROW_KEY_BYTES), np.uint8)
    first = block * _BLOCK_ROWS
    shards = range(first // shard_images, -(-(first + _BLOCK_ROWS) // shard_images))
    present: dict[int, int] = {}
    for (shard, _), mask in index.masks(shards).items():
        present[shard] = present.get(shard, 0) | mask
    for shard, mask in present.items():
        for slot, key in index.slot_keys(shard).items():
            row = shard * shard_images + slot - first
            if mask >> slot & 1 and 0 <= row < _BLOCK_ROWS:
                valid[row] = True
                text = key.encode()
                keys[row, : len(text)] = np.frombuffer(text, np.uint8)
    return valid, keys


def write_derived(files: Files, layout: StoreLayout, key: str, index: RowsIndex) -> None:
    """Bring all derived files in step with the index. The caller holds the store's lock."""
    state = index.state
    dirty = index.dirty_shards()
    # Rows that are gone, names of rows, then that they exist, then the documents that make them visible: a reader may come at
    # any moment, and we may be killed at any.
    for block in sorted({block for shard in dirty for block in blocks_of(shard, int(state.shard_images or 1))}):
        valid, keys = derived_rows(index, int(state.shard_images or 1), block)
        _retract(files, layout.root / VALID / f"c.{block}", valid)
        _replace(files, layout.root / ROW_KEYS / f"c.{block}.0", keys.tobytes())
        _replace(files, layout.root / VALID / f"c.{block}", valid.tobytes())
    for name, document in derived_documents(state, key, row_count(index)):
        _replace(files, layout.root / name, json.dumps(document, ensure_ascii=False).encode())
    index.mark_clean(dirty)


def flush_derived(files: Files, layout: StoreLayout, index: RowsIndex) -> None:
    """Have the disk keep the derived arrays, after comparing those that were written since the last time.

    The caller holds the store's lock and has the index in step with the records.
    """
    doubtful = index.doubt_unflushed()
    if not doubtful:
        return
    write_derived(files, layout, layout.root.name, index)
    for block in sorted({block for shard in doubtful for block in blocks_of(shard, int(index.state.shard_images or 1))}):
        for path in (layout.root / VALID / f"c.{block}", layout.root / ROW_KEYS / f"c.{block}.0"):
            flush_file(path)
    for name in (VALID, ROW_KEYS):
        flush_folder(layout.root / name)
    index.mark_flushed()


def row_count(index: RowsIndex) -> int:
    """Return N: one more than the highest row that was ever committed."""
    last = index.last_row()
    return 0 if last is None else last[0] * int(index.state.shard_images or 1) + last[1] + 1


def blocks_of(shard: int, shard_images: int) -> range:
    """Return the blocks of the `valid` and `row_keys` arrays that know of a shard."""
    return range(shard * shard_images // _BLOCK_ROWS, ((shard + 1) * shard_images - 1) // _BLOCK_ROWS + 1)


def _layer_document(state: StoreState, layer: str, role: str, shape: tuple[int, int, int], rows: int) -> dict[str, Any]:
    create = state.create or {}
    dtype = str(create["dtype"]) if role == "maps" else "float32"
    codecs: list[Mapping[str, Any]] = [_LITTLE if dtype != "uint8" else {"name": "bytes"}]
    if create["compression"] == "zstd":
        codecs.append({"name": "zstd", "configuration": {"level": 1, "checksum": False}})
    codecs.append({"name": "crc32c"})
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [1, *shape],
            "codecs": codecs,
            "index_codecs": [_LITTLE, {"name": "crc32c"}],
            "index_location": "end",
        },
    }
    attributes: dict[str, Any] = {"layer": layer, "values": dtype}
    if "scale_offset" in roles(str(create["dtype"])) and role == "maps":
        attributes["scale_offset"] = array_name(layer, "scale_offset")
        attributes["decode"] = "value = scale_offset[:, 0:1] * byte + scale_offset[:, 1:2]"
    if dtype == "bfloat16":
        attributes["decode"] = "value = (bits << 16) as float32"
    return _array(
        [rows, *shape],
        [state.shard_images, *shape],
        stored_dtype(dtype).name,
        _FILL[dtype],
        attributes,
        [sharding],
        ["row", "y", "x", "channel"],
    )


def _array(
    shape: list[Any],
    chunk: list[Any],
    data_type: str,
    fill_value: Any,
    attributes: Mapping[str, Any],
    codecs: list[Any] | None = None,
    dimension_names: list[str] | None = None,
) -> dict[str, Any]:
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": fill_value,
        "codecs": codecs or [{"name": "bytes"}],
        "attributes": dict(attributes),
        "storage_transformers": [],
    }
    return document | ({"dimension_names": dimension_names} if dimension_names else {})


def _retract(files: Files, path: Path, valid: np.ndarray) -> None:
    """Take rows that exist no more out of a block of the `valid` array."""
    before = np.frombuffer(_there(files, path), np.uint8)
    if len(before) == len(valid):
        _replace(files, path, (before.astype(bool) & valid).tobytes())


def _replace(files: Files, path: Path, data: bytes) -> None:
    """Replace a derived file whole, if it differs."""
    if _there(files, path) != data:
        files.replace(path, data)


def _there(files: Files, path: Path) -> bytes:
    try:
        return files.read(path)
    except FileNotFoundError:
        return b""
