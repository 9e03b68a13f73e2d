"""A pretended extraction: maps are made from the row key, so that anybody can tell what is right without a network."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from storage.encoding import decode, encode, quantise, stored_dtype
from storage.features import Busy, FeatureStore, ShardWriter

__all__ = ["FIELDS", "LAYERS", "SHAPES", "extract", "fill", "keys_of", "opened", "stored_map", "wrong_rows"]

SHAPES = {"features.3": (4, 5, 6), "features.6.expand1x1+features.6.expand3x3": (2, 3, 8), "classifier/fc 7": (1, 1, 16)}
LAYERS = tuple(SHAPES)
FIELDS = {"backbone": "vgg11", "canvas_hw": [32, 32]}

Array = np.ndarray[Any, np.dtype[Any]]


@cache
def _key(image: int) -> str:
    return f"{hashlib.sha256(str(image).encode()).hexdigest()}:identity"


def keys_of(first: int, last: int) -> tuple[str, ...]:
    """Name the rows of images `first` to `last`."""
    return tuple(_key(image) for image in range(first, last))


@cache
def _map(key: str, layer: str) -> Array:
    seed = int.from_bytes(hashlib.sha256(f"{key}{layer}".encode()).digest()[:8], "little")
    return np.random.default_rng(seed).normal(0, 3, SHAPES[layer]).astype(np.float32)


@cache
def stored_map(key: str, layer: str, dtype: str) -> Array:
    """Return what a reader must get of a row in a store of this type."""
    out, scale_offset = np.empty(SHAPES[layer], stored_dtype(dtype)), np.empty((2, 1, SHAPES[layer][2]), np.float32)
    if dtype == "uint8":
        quantise(_map(key, layer), out, scale_offset)
    else:
        encode(dtype, _map(key, layer).ravel(), out.ravel())
    return decode(dtype, out, scale_offset)


def opened(root: Path, layers: Sequence[str] = LAYERS, **options: Any) -> FeatureStore:
    """Open (or create) the pretended store below a folder; its layers are declared."""
    store = FeatureStore.create_or_open(root, FIELDS, **{"shard_images": 4, **options})
    store.declare_layers({layer: SHAPES[layer] for layer in layers})
    return store


def fill(writer: ShardWriter, pause: float = 0.0, batch: int = 3) -> list[tuple[str, str]]:
    """Write all that a writer asks for; return (layer, row key) of what was computed."""
    done = []
    with writer:
        for first in range(0, len(writer.row_keys), batch):
            keys = writer.row_keys[first : first + batch]
            writer.write(first, {layer: np.stack([_map(key, layer) for key in keys]) for layer in writer.layers})
            done += [(layer, key) for layer in writer.layers for key in keys]
            time.sleep(pause)
    return done


def extract(
    store: FeatureStore,
    keys: Sequence[str],
    layers: Sequence[str] = LAYERS,
    pause: float = 0.0,
    ack: Callable[[list[tuple[str, str]]], None] = lambda done: None,
) -> list[tuple[str, str]]:
    """Do all that is missing, waiting where others do it; `ack` is told what is committed as soon as it is."""
    done = []
    while (claimed := store.claim(keys, layers)) is not None:
        if isinstance(claimed, Busy):
            time.sleep(0.02)
            continue
        done.append(fill(claimed, pause))
        ack(done[-1])
    return [one for some in done for one in some]


def wrong_rows(store: FeatureStore, keys: Sequence[str], layers: Sequence[str] = LAYERS) -> list[str]:
    """Read rows of all layers, checksums compared; return which are not what they must be."""
    rows = store.rows(keys, layers).tolist()
    wrong = ["two images share a row"] if len(set(rows)) < len(rows) else []
    for layer in layers:
        maps = store.reader([layer], verify_reads="always").read(layer, rows)
        for key, found in zip(keys, maps, strict=True):
            if not np.array_equal(found, stored_map(key, layer, store.dtype)):
                wrong.append(f"{layer} of {key[:8]} is wrong")
    return wrong
