"""What is done to a store of so many rows, each time by a process that starts afresh: run as a program by `benchmarks.growth`.

`build` makes a workspace whose store holds the rows, `append` adds a few images to it, `ask` asks it the small questions.
Prints seconds by name, and bytes, as one line of JSON. Imports no torch, which would hide the memory that a store takes.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from storage.features import FeatureStore, ShardWriter
from storage.garbage import sweep
from storage.inspection import list_stores
from storage.references import note_use
from storage.runs import create_run
from storage.workspace import Workspace

__all__ = ["NEW", "fill", "key_of", "name_store"]

NEW = 20
"""Images that come in a night."""

LAYERS = {"fine": (2, 2, 4), "coarse": (1, 1, 8)}
_SHARD_IMAGES = 256


def key_of(number: int) -> str:
    """Name an image."""
    return f"{number:064x}:identity"


def fill(store: FeatureStore, keys: Sequence[str]) -> None:
    """Write a map of ones for each key that is missing."""
    layers = list(store.layers)
    while isinstance(writer := store.claim(keys, layers), ShardWriter):
        with writer:
            count = len(writer.row_keys)
            writer.write(0, {name: np.ones((count, *shape), np.float16) for name, shape in store.layers.items()})


def name_store(workspace: Workspace, run: str, key: str) -> None:
    """Begin a run that uses a store."""
    note_use(create_run(workspace.runs, run, {}), key)


def _build(workspace: Workspace, rows: int) -> dict[str, float]:
    store = FeatureStore.create_or_open(workspace.stores, {"made": "for a benchmark"}, shard_images=_SHARD_IMAGES)
    store.declare_layers(LAYERS)
    name_store(workspace, "run", store.key)
    keys = tuple(map(key_of, range(rows)))
    return {"build": _seconds(lambda: fill(store, keys))}


def _append(workspace: Workspace, _: int) -> dict[str, float]:
    (path,) = list_stores(workspace.stores)
    keys = _new_keys()
    start = time.perf_counter()
    store = FeatureStore.open(path)
    opened = time.perf_counter()
    fill(store, keys)
    return {"open": opened - start, "append": time.perf_counter() - opened, "peak_bytes": _peak_bytes()}


def _ask(workspace: Workspace, rows: int) -> dict[str, float]:
    (path,) = list_stores(workspace.stores)
    store = FeatureStore.open(path)
    chosen = [key_of(int(number)) for number in np.random.default_rng().integers(0, rows, NEW + 1)]
    layers, new = list(LAYERS), _new_keys()

    def read() -> None:
        row = store.rows(chosen[-1:], layers)
        reader = store.reader(layers)
        for name in layers:
            reader.read(name, row)

    return {
        "hits": _seconds(lambda: store.hits(chosen[:NEW], layers)),
        "read": _seconds(read),
        "info": _seconds(store.info),
        "du": _seconds(store.du),
        "gc": _seconds(lambda: sweep(workspace, 0, remove=False)),
        "missing": _seconds(lambda: store.missing([*map(key_of, range(rows)), *new], layers)),
    }


def _new_keys() -> tuple[str, ...]:
    return tuple(f"{uuid.uuid4().hex}:identity" for _ in range(NEW))


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _peak_bytes() -> float:
    """Return the most memory this program had; not getrusage's, which remembers the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return float(line.split()[1]) * 1024


_WORK: Mapping[str, Callable[[Workspace, int], dict[str, float]]] = {"build": _build, "append": _append, "ask": _ask}

if __name__ == "__main__":
    print(json.dumps(_WORK[sys.argv[1]](Workspace(Path(sys.argv[2])), int(sys.argv[3]))))
