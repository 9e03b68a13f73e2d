"""Readers that look all the time while others write, are killed and write again: they may see old or new, never half.

They compare bytes with those of an undisturbed run, checksums switched off: what a checksum has to catch is already wrong.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from chaos.experiments import Prints, store_of
from chaos.forking import ChildError, start
from storage.errors import StorageError
from storage.features import FeatureStore

__all__ = ["Seen", "look_at_store", "watched"]

_PAUSE_SECONDS = 0.004


class Seen:
    """What a reader saw: filled when its block is left."""

    passes = 0
    rows = 0
    wrong: tuple[str, ...] = ()


@contextmanager
def watched(look: Callable[[], tuple[int, list[str]]], stop: Path) -> Iterator[Seen]:
    """Have a child look again and again until the block is left.

    Args:
        look: Returns how many rows were read and what was wrong with them.
        stop: A file that tells the child to stop; must not exist.

    Raises:
        ChildError: the reader itself failed.
    """

    def watch() -> dict[str, Any]:
        passes, rows, wrong = 0, 0, []
        while True:
            last = stop.exists()
            count, found = look()
            passes, rows = passes + 1, rows + count
            wrong += found
            if last or len(wrong) > 20:
                return {"passes": passes, "rows": rows, "wrong": wrong}
            time.sleep(_PAUSE_SECONDS)

    child, seen = start(watch), Seen()
    try:
        yield seen
    finally:
        stop.touch()
        ending = child.end()
    if ending.value is None:
        raise ChildError(f"the reader failed: {ending.error or ending.signal}")
    seen.passes, seen.rows, seen.wrong = ending.value["passes"], ending.value["rows"], tuple(ending.value["wrong"])


def look_at_store(workspace: Path, expected: Prints) -> tuple[int, list[str]]:
    """Read everything committed in a workspace's store, by our reader and every so often by stock Zarr."""
    path = store_of(workspace)
    if path is None:
        return 0, []
    layers = sorted({name.partition(" ")[0] for name in expected})
    keys = sorted({name.partition(" ")[2] for name in expected})
    try:
        store = FeatureStore.open(path)
        declared = [layer for layer in layers if layer in store.layers]
        wrong, count = [], 0
        for layer in declared:
            absent = set(store.missing(keys, [layer]))
            there = [key for key in keys if key not in absent]
            reader = store.reader([layer], verify_reads="never")
            for key, row in zip(there, store.rows(there, [layer]).tolist(), strict=True):
                count += 1
                if hashlib.sha256(reader.read(layer, [row]).tobytes()).hexdigest() != expected[f"{layer} {key}"]:
                    wrong.append(f"{layer} {key[:8]} read other bytes")
    except StorageError as error:
        # A store that has a first record must be readable at every moment.
        return 0, [f"a reader was refused: {type(error).__name__}: {error}"]
    return count, wrong + _stock(path, declared, expected)


def _stock(path: Path, layers: list[str], expected: Prints) -> list[str]:
    """Read by stock Zarr all rows that `valid` says exist: of each layer the expected map, or none yet (NaN)."""
    if not (path / "zarr.json").exists():
        return []
    group: Any = zarr.open_group(path, mode="r")
    wrong = []
    # In this order: a row that exists has had its name before.
    valid = group["valid"][:]
    names = group["row_keys"][:]
    for layer in layers:
        if layer not in group:
            continue
        maps = group[layer][:]
        for row in np.flatnonzero(valid[: len(maps)]):
            key = bytes(names[row]).rstrip(b"\0").decode()
            nothing = bool(np.isnan(maps[row]).all())
            if not nothing and hashlib.sha256(maps[row].tobytes()).hexdigest() != expected.get(f"{layer} {key}"):
                wrong.append(f"stock Zarr: row {row} of {layer} is not that of {key[:8]}")
    return wrong
