"""What an experiment wants extracted: row keys of all its images and views, each once."""

from __future__ import annotations

from dataclasses import dataclass

from hypercolumns.sources import Item
from tasks.jobs import Job
from tasks.manifests import Entry, Manifest, row_keys
from tasks.stores import wanted_items

__all__ = ["Work", "wanted_work"]


@dataclass(frozen=True)
class Work:
    """Images and views by row key; two splits that share an image share its row.

    Attributes:
        entries: The images of all splits.
        items: For each row key, which entry and which view of it.
        keys: The row keys, in the order in which they are extracted.
    """

    entries: tuple[Entry, ...]
    items: dict[str, Item]
    keys: tuple[str, ...]


def wanted_work(job: Job, manifest: Manifest) -> Work:
    """List the rows an experiment reads."""
    entries: list[Entry] = []
    items: dict[str, Item] = {}
    for split, members in manifest.splits.items():
        wanted = wanted_items(job.spec, members, split)
        for key, (index, view) in zip(row_keys(members, wanted), wanted, strict=True):
            items.setdefault(key, (len(entries) + index, view))
        entries += members
    return Work(tuple(entries), items, tuple(items))
