"""Cutting what a store lacks into portions, as writers would claim them one after the other: for those who share work out.

Pure decisions over the index; writes nothing, and promises nothing: what each portion's writer gets is decided when it claims.
"""

from __future__ import annotations

from collections.abc import Sequence

from storage.claims import locate, may_be_completed
from storage.rows_index import RowsIndex

__all__ = ["portions"]


def portions(index: RowsIndex, row_keys: Sequence[str], layers: Sequence[str], shard_images: int) -> list[tuple[str, ...]]:
    """Group the row keys that lack a layer by the shard that is going to hold it.

    Args:
        index: what is committed.
        row_keys: what must be there; repetitions are ignored.
        layers: the layers each of them must have.
        shard_images: slots per shard.

    Returns:
        per shard the row keys, in the order asked: first those whose rows exist and are to be completed, by shard, then new
        images, a shard's worth each.
    """
    wanted = list(dict.fromkeys(row_keys))
    done = locate(index, wanted, layers)
    lacking = [key for key in wanted if key not in done]
    places = index.placements(lacking)
    masks = index.masks(shard for rows in places.values() for shard, _ in rows)
    existing: dict[int, list[str]] = {}
    new: list[str] = []
    for key in lacking:
        row = next((row for row in reversed(places.get(key, [])) if may_be_completed(row, layers, masks)), None)
        if row is None:
            new.append(key)
        else:
            existing.setdefault(row[0], []).append(key)
    fresh = [tuple(new[first : first + shard_images]) for first in range(0, len(new), shard_images)]
    return [*(tuple(keys) for _, keys in sorted(existing.items())), *fresh]
