"""Which rows of short shards are to lie together in full ones. Pure decisions over the index; writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from storage.rows_index import Placement, RowsIndex

__all__ = ["Batch", "Row", "pack"]


@dataclass(frozen=True)
class Row:
    """One row of a short shard, and the layers it has."""

    key: str
    shard: int
    slot: int
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Batch:
    """What one new shard is made of.

    Args:
        rows: the rows to be copied, in the order of their new slots; all have the same layers, no two the same key.
        superfluous: rows that are given up with them: those that a later row repeats, and those without any layer.
    """

    rows: tuple[Row, ...]
    superfluous: tuple[Row, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that all rows have."""
        return self.rows[0].layers

    @property
    def supersedes(self) -> dict[int, list[int]]:
        """The slots, by shard, that no longer count once the new shard does."""
        slots: dict[int, list[int]] = {}
        for row in sorted((*self.rows, *self.superfluous), key=_place):
            slots.setdefault(row.shard, []).append(row.slot)
        return slots


def pack(index: RowsIndex, layers: Sequence[str], shard_images: int, busy: Iterable[int]) -> list[Batch]:
    """Pack the rows of all short shards into as few full shards as can be; nothing if that would not be fewer.

    Args:
        index: what is committed.
        layers: all layers, in order.
        shard_images: slots per shard.
        busy: shards that somebody writes now; they are left alone.
    """
    short = [shard for shard in index.short_shards(shard_images) if shard not in set(busy)]
    masks = index.masks(short)
    rows = [
        Row(key, shard, slot, tuple(layer for layer in layers if masks.get((shard, layer), 0) >> slot & 1))
        for shard in short
        for slot, key in index.slot_keys(shard).items()
    ]
    counts = Counter(row.shard for row in rows)
    superfluous = _superfluous(index, rows)
    alike: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row not in superfluous:
            alike.setdefault(row.layers, []).append(row)
    chunks = [tuple(group[at : at + shard_images]) for group in alike.values() for at in range(0, len(group), shard_images)]
    # A chunk that is one shard as it lies would only be written again.
    chunks = [chunk for chunk in chunks if len({row.shard for row in chunk}) > 1 or len(chunk) < counts[chunk[0].shard]]
    batches = [Batch(chunk, () if number else tuple(sorted(superfluous, key=_place))) for number, chunk in enumerate(chunks)]
    moved = Counter(row.shard for batch in batches for row in (*batch.rows, *batch.superfluous))
    emptied = sum(moved[shard] == counts[shard] for shard in moved)
    return batches if len(batches) < emptied else []


def _superfluous(index: RowsIndex, rows: Sequence[Row]) -> set[Row]:
    """Return the rows without any layer, and those whose layers a later row of the same key has too."""
    places = index.placements({row.key for row in rows})
    masks = index.masks(shard for found in places.values() if len(found) > 1 for shard, _ in found)
    return {row for row in rows if any(_has(masks, later, row.layers) for later in places[row.key] if later > _place(row))} | {
        row for row in rows if not row.layers
    }


def _has(masks: Mapping[tuple[int, str], int], place: Placement, layers: Iterable[str]) -> bool:
    shard, slot = place
    return all(masks.get((shard, layer), 0) >> slot & 1 for layer in layers)


def _place(row: Row) -> Placement:
    return row.shard, row.slot
