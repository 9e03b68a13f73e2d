"""What the fields of a record must be: types and ranges, checked before anything is made of them.

A record's digest says that it is whole, not that it is sensible: whoever can write a file can write a digest. Checks what a
record says by itself and against the state before it; what follows from it is decided in `storage.index_lines`. Fields that are
not known here are passed over: a later kind of record brings its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from storage.encoding import DTYPES
from storage.layout import ROW_KEY_BYTES

__all__ = ["MOST_SHARD_IMAGES", "check_fields"]

MOST_SHARD_IMAGES = 4096
_LONGEST_SIDE = 1 << 24
_MOST_BYTES = 1 << 62
_MOST_SHARDS = 1 << 40
_CRC = 1 << 32
_ROLES = ({"maps"}, {"maps", "scale_offset"})


class Known(Protocol):
    """What the records up to one say of the store: see `storage.index_lines.StoreState`."""

    @property
    def create(self) -> Mapping[str, Any] | None:
        """The body of the first record."""
        ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, int, int]]:
        """(h, w, C) of each declared layer."""
        ...

    @property
    def shard_images(self) -> int | None:
        """Images per shard, once that is decided."""
        ...


def check_fields(body: Mapping[str, Any], known: Known) -> None:
    """Refuse a record whose fields this program would not have written.

    Args:
        body: the record.
        known: what the records before it say.

    Raises:
        ValueError: says which field, what was expected and what came.
    """
    check = _CHECKS.get(str(body.get("kind")))
    if check is not None:
        check(body, known)


def _create(body: Mapping[str, Any], known: Known) -> None:
    _expect(isinstance(body.get("key_fields"), Mapping), "key_fields", "a mapping", body.get("key_fields"))
    _expect(body.get("dtype") in tuple(DTYPES), "dtype", f"one of {', '.join(DTYPES)}", body.get("dtype"))
    _expect(body.get("compression") in ("none", "zstd"), "compression", "none or zstd", body.get("compression"))
    _shard_images(body.get("shard_images"), optional=True)
    first = known.create
    if first is not None:
        # Where a lock does not hold, two may create one store; they must have meant the same.
        same = all(body.get(name) == first.get(name) for name in ("key_fields", "dtype", "compression", "shard_images"))
        _expect(same, "kind", "a store to be created once", "another record that creates it")


def _layers(body: Mapping[str, Any], known: Known) -> None:
    _shard_images(body.get("shard_images"), optional=False)
    decided = known.shard_images
    _expect(decided in (None, body["shard_images"]), "shard_images", f"{decided}, as decided before", body["shard_images"])
    shapes = body.get("shapes")
    pairs = isinstance(shapes, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in shapes)
    _expect(pairs, "shapes", "pairs of a layer and its shape", shapes)
    for layer, shape in shapes or ():
        _expect(isinstance(layer, str) and bool(layer), "shapes", "a layer's name", layer)
        sides = isinstance(shape, list) and len(shape) == 3 and all(_whole(side, 1, _LONGEST_SIDE) for side in shape)
        _expect(sides, f"shapes of {layer!r:.80}", "three positive numbers", shape)
        before = known.shapes.get(layer)
        _expect(before is None or list(before) == shape, f"shapes of {layer!r:.80}", f"{before}, as declared before", shape)


def _commit(body: Mapping[str, Any], known: Known) -> None:
    _expect(_whole(body.get("shard"), 0, _MOST_SHARDS), "shard", "a number from 0", body.get("shard"))
    slots, keys, layers = body.get("slots"), body.get("row_keys"), body.get("layers")
    most = known.shard_images or MOST_SHARD_IMAGES
    rising = isinstance(slots, list) and all(_whole(slot, 0, most - 1) for slot in slots) and sorted(set(slots)) == slots
    _expect(rising, "slots", f"rising numbers from 0 to {most - 1}", slots)
    texts = isinstance(keys, list) and all(isinstance(key, str) and _is_row_key(key) for key in keys)
    _expect(texts, "row_keys", f"texts of 1 to {ROW_KEY_BYTES} bytes", keys)
    _expect(len(set(keys or ())) == len(slots or ()) == len(keys or ()), "row_keys", "a key of its own for each slot", keys)
    _expect(isinstance(layers, Mapping), "layers", "a mapping", layers)
    for layer, files in (layers or {}).items():
        _expect(isinstance(files, Mapping) and set(files) in _ROLES, f"layers of {layer!r:.80}", "its files by role", files)
        for role, file in files.items():
            _file(f"{role} of {layer!r:.80}", file, len(slots or ()))

    moved = body.get("supersedes", [])
    pairs = isinstance(moved, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in moved)
    _expect(pairs, "supersedes", "pairs of a shard and its slots", moved)
    for shard, old_slots in moved:
        _expect(_whole(shard, 0, _MOST_SHARDS), "supersedes", "a shard's number from 0", shard)
        fine = isinstance(old_slots, list) and all(_whole(slot, 0, most - 1) for slot in old_slots)
        _expect(fine, "supersedes", f"slots from 0 to {most - 1}", old_slots)


def _file(what: str, file: Any, rows: int) -> None:
    _expect(isinstance(file, Mapping), what, "a mapping", file)
    _expect(_whole(file.get("bytes"), 0, _MOST_BYTES), f"bytes of {what}", "a number from 0", file.get("bytes"))
    _expect(_whole(file.get("index_crc32c"), 0, _CRC - 1), f"index_crc32c of {what}", "a checksum", file.get("index_crc32c"))
    found = file.get("rows_crc32c")
    sums = isinstance(found, list) and len(found) == rows and all(_whole(value, 0, _CRC - 1) for value in found)
    _expect(sums, f"rows_crc32c of {what}", f"{rows} checksums", found)


def _retire(body: Mapping[str, Any], _: Known) -> None:
    _expect(_whole(body.get("shard"), 0, _MOST_SHARDS), "shard", "a number from 0", body.get("shard"))
    _expect(isinstance(body.get("layer"), str), "layer", "a layer's name", body.get("layer"))


def _discard(body: Mapping[str, Any], _: Known) -> None:
    shards = body.get("shards")
    fine = isinstance(shards, list) and all(_whole(shard, 0, _MOST_SHARDS) for shard in shards)
    _expect(fine, "shards", "shards' numbers from 0", shards)


def _shard_images(value: Any, *, optional: bool) -> None:
    fine = (optional and value is None) or _whole(value, 1, MOST_SHARD_IMAGES)
    _expect(fine, "shard_images", f"1 to {MOST_SHARD_IMAGES}", value)


def _whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_row_key(key: str) -> bool:
    return 0 < len(key.encode("utf-8", "surrogatepass")) <= ROW_KEY_BYTES and "\0" not in key


def _expect(fine: bool, field: str, expected: str, received: Any) -> None:
    if not fine:
        raise ValueError(f"{field}: expected {expected}, got {received!r:.200}")


_CHECKS: dict[str, Callable[[Mapping[str, Any], Known], None]] = {
    "create": _create,
    "layers": _layers,
    "commit": _commit,
    "retire": _retire,
    "discard": _discard,
}
