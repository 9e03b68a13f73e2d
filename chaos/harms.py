"""Harms: what bit rot, a careless copy or a bad disk does to a file; seeded, and always another file than before."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["HARMS", "KINDS", "do_harm", "files_of"]

KINDS: dict[str, tuple[str, ...]] = {
    "shard": ("features*/c.*.0.0.0", "classifier*/c.*.0.0.0"),
    "record": ("journal/records/*.json",),
    "document": ("zarr.json", "*/zarr.json"),
    "derived array": ("valid/c.*", "row_keys/c.*"),
    "index": ("journal/index.sqlite*",),
}
"""Kinds of files in a store, by where they lie. Checksums lie within shards, records and the index."""


def files_of(store: Path, kind: str) -> list[Path]:
    """List the files of a kind that hold anything, by name."""
    return sorted({path for pattern in KINDS[kind] for path in store.glob(pattern) if path.is_file() and path.stat().st_size})


def _flip(data: bytearray, choose: random.Random) -> None:
    data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)


def _flip_many(data: bytearray, choose: random.Random) -> None:
    for _ in range(choose.randint(2, 20)):
        _flip(data, choose)


def _truncate(data: bytearray, choose: random.Random) -> None:
    del data[choose.randrange(len(data)) :]


def _zero(data: bytearray, choose: random.Random) -> None:
    size = choose.choice([16, 512, 4096])
    start = choose.randrange(len(data)) // size * size
    data[start : start + size] = bytes(len(data[start : start + size]))


def _append(data: bytearray, choose: random.Random) -> None:
    data += choose.choice([b"\0", b"\n", bytes(choose.randrange(256) for _ in range(choose.randint(1, 600)))])


def _shift(data: bytearray, choose: random.Random) -> None:
    """Lose a byte: everything after it moves."""
    del data[choose.randrange(len(data))]


_IN_PLACE: dict[str, Callable[[bytearray, random.Random], None]] = {
    "bit flipped": _flip,
    "bits flipped": _flip_many,
    "truncated": _truncate,
    "block zeroed": _zero,
    "bytes appended": _append,
    "byte lost": _shift,
}

HARMS = (*_IN_PLACE, "deleted", "swapped", "copied over")


def do_harm(harm: str, victim: Path, others: Sequence[Path], choose: random.Random) -> tuple[Path, ...]:
    """Harm a file; return the files that hold other bytes than before.

    Args:
        harm: one of `HARMS`.
        victim: the file.
        others: files to swap it with, or to copy over it.
        choose: what decides.
    """
    before = victim.read_bytes()
    if harm == "deleted":
        victim.unlink()
        return (victim,)
    if harm in ("swapped", "copied over"):
        others = [path for path in others if path != victim and path.read_bytes() != before]
        if not others:
            return ()
        other = choose.choice(others)
        data = other.read_bytes()
        victim.write_bytes(data)
        if harm == "copied over":
            return (victim,)
        other.write_bytes(before)
        return victim, other
    changed = bytearray(before)
    _IN_PLACE[harm](changed, choose)
    victim.write_bytes(changed)
    return (victim,) if bytes(changed) != before else ()
