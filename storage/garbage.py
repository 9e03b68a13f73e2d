"""What no run and no champion uses: found by what their records name, taken away at once, then deleted.

Costs as much as there are runs and things in the workspace; what the things hold is looked at only to weigh what goes. Names
that are not ours are never touched.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from storage.backends import is_remote
from storage.canonical import is_key
from storage.champions import FOLDER, list_lines, needed_keys
from storage.errors import StorageError
from storage.features import FeatureStore
from storage.inspection import list_stores
from storage.layout import StoreLayout
from storage.leftovers import find_leftovers, remove_leftovers
from storage.occupancy import alone_in, last_used
from storage.publish import PARTIAL_SUFFIX
from storage.references import named_keys, sweeping
from storage.removal import TRASH, Removal, bytes_below, delete
from storage.runs import list_runs
from storage.superseded import discard_superseded, superseded_files
from storage.workspace import Workspace

__all__ = ["Item", "Sweep", "sweep"]

_SILENT_SECONDS = 3600.0
"""An unfinished file that was not written to for so long has no writer any more: here nobody holds leases."""


@dataclass(frozen=True)
class Item:
    """One thing that goes, or that stays although no run names it.

    Args:
        kind: `store`, `remote store`, `samples`, `model`, `evaluation`, `manifest`, `checkpoints`; `unfinished`, `trash`;
            inside a store `unfinished`, `uncounted`, `quarantined`, `superseded`.
        path: relative to the workspace.
        why: why it goes, or why it stays.
        bytes: what it weighs; 0 for what stays.
    """

    kind: str
    path: str
    why: str
    bytes: int = 0


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Args:
        removed: whether it was removed, or only found.
        garbage: what goes.
        kept: what no run names and stays all the same.
        blocked: records that cannot be read: while there are any, nothing that runs might use is removed.
    """

    removed: bool
    garbage: tuple[Item, ...]
    kept: tuple[Item, ...]
    blocked: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """What the garbage weighs."""
        return sum(item.bytes for item in self.garbage)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "bytes": self.bytes}


def sweep(workspace: Workspace, older_than_seconds: float, *, remove: bool, clock: Callable[[], float] = time.time) -> Sweep:
    """Find what no run uses, and remove it if asked to.

    Runs may start and go on meanwhile: whatever one of them names stays, or is made anew by it.

    Args:
        workspace: whose.
        older_than_seconds: what was used or made later stays, though no run names it; unfinished files stay for an hour in
            any case.
        remove: remove it; otherwise only say what would be.
        clock: seconds since the epoch.
    """
    latest = clock() - older_than_seconds
    removal = Removal()
    with sweeping(workspace.runs):
        views = list_runs(workspace.runs)
        champions, blocked = _champions(workspace)
        blocked += tuple(f"run {view.run_id}: {view.reason}" for view in views if view.status == "broken")
        found = [] if blocked else list(_unnamed(workspace, frozenset(champions).union(*map(named_keys, views))))
        judged = [(thing, _obstacle(thing, latest)) for thing in found]
        going = [thing for thing, obstacle in judged if not obstacle]
        taken = _taken(workspace, going, removal) if remove else [(thing.item(workspace), thing.path) for thing in going]
    garbage = [replace(item, bytes=bytes_below(path)) for item, path in taken]
    if remove:
        removal.finish()
    garbage += _strewn(workspace, min(latest, clock() - _SILENT_SECONDS), remove=remove)
    garbage += _in_stores(workspace, older_than_seconds, {thing.path for thing in going}, remove=remove)
    kept = tuple(Item(thing.kind, _name(workspace, thing.path), obstacle) for thing, obstacle in judged if obstacle)
    return Sweep(remove, tuple(garbage), kept, blocked)


@dataclass(frozen=True)
class _Thing:
    """Something with a key of its own."""

    kind: str
    path: Path
    used: float
    why: str

    def item(self, workspace: Workspace) -> Item:
        return Item(self.kind, _name(workspace, self.path), self.why)


def _champions(workspace: Workspace) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return what champions need, and which of their logs cannot be read."""
    needed: set[str] = set()
    blocked = []
    for line in list_lines(workspace):
        try:
            needed |= needed_keys(workspace, line)
        except StorageError as error:
            blocked.append(f"champions of line {line}: {error}")
    return frozenset(needed), tuple(blocked)


def _unnamed(workspace: Workspace, named: frozenset[str]) -> Iterator[_Thing]:
    remote = is_remote(workspace.stores)
    for path in list_stores(workspace.stores):
        if is_key(path.name) and path.name not in named and not path.is_symlink():
            kind = "remote store" if remote else "store"
            yield _Thing(kind, path, last_used(StoreLayout(path)), "no run names it")
    for kind, folder, suffix in (
        ("samples", workspace.samples, ".h5"),
        ("model", workspace.models, ""),
        ("evaluation", workspace.evaluations, ""),
        ("manifest", workspace.datasets, ".json"),
        ("manifest", workspace.datasets, "-images.json"),
        ("checkpoints", workspace.checkpoints, ""),
    ):
        for path in sorted(folder.iterdir()):
            key = path.name.removesuffix(suffix)
            if not path.name.endswith(suffix) or not is_key(key) or path.is_symlink():
                continue
            if key not in named:
                yield from _there(kind, path, "no run names it")
            elif kind == "checkpoints" and (workspace.models / key).is_dir():
                yield from _there(kind, path, "its training has ended")


def _there(kind: str, path: Path, why: str) -> Iterator[_Thing]:
    """Name a thing, unless the run that made it or another sweeper has removed it meanwhile."""
    try:
        changed = path.stat().st_mtime
    except FileNotFoundError:
        return
    yield _Thing(kind, path, changed, why)


def _obstacle(thing: _Thing, latest: float) -> str:
    """Say why something stays that no run names; nothing if it may go."""
    if thing.used > latest:
        return f"{thing.why}, but it was used or made a short while ago"
    if thing.kind == "remote store":
        return f"{thing.why}, but other workspaces may use it; what lies in an object store is removed with its own tools"
    if thing.kind != "store":
        return ""
    try:
        with alone_in(StoreLayout(thing.path)) as alone:
            return "" if alone else "no run names it, but a process has it open"
    except StorageError as error:
        return str(error)


def _taken(workspace: Workspace, going: list[_Thing], removal: Removal) -> list[tuple[Item, Path]]:
    """Take things away; a store that was opened since it was judged stays, and is not among them."""
    taken = []
    for thing in going:
        item = thing.item(workspace)
        if thing.kind != "store":
            # A run removes the checkpoints of its ended training itself, and may come first.
            with contextlib.suppress(FileNotFoundError):
                taken.append((item, removal.take_away(thing.path)))
            continue
        with alone_in(StoreLayout(thing.path)) as alone:
            if alone:
                taken.append((item, removal.take_away(thing.path)))
    return taken


def _strewn(workspace: Workspace, latest: float, *, remove: bool) -> Iterator[Item]:
    """Yield what writers that died left in the workspace's folders, and what earlier removals did not delete."""
    folders = (workspace.stores, workspace.samples, workspace.models, workspace.evaluations, workspace.datasets, workspace.runs)
    for folder in (*folders, workspace.root / FOLDER, workspace.checkpoints, *workspace.checkpoints.iterdir()):
        trash = sorted((folder / TRASH).iterdir()) if (folder / TRASH).is_dir() else []
        unfinished = (
            [path for path in sorted(folder.iterdir()) if path.name.endswith(PARTIAL_SUFFIX)] if folder.is_dir() else []
        )
        for path in (*trash, *(path for path in unfinished if _changed(path) <= latest)):
            is_trash = path.parent.name == TRASH
            why = "taken away before, and not deleted" if is_trash else "its writer did not come to its end"
            item = Item("trash" if is_trash else "unfinished", _name(workspace, path), why, bytes_below(path))
            if remove:
                delete(path)
            yield item


def _name(workspace: Workspace, path: Path) -> str:
    """Spell a path in the workspace; a folder of it may be a link to another disk."""
    return path.relative_to(workspace.root).as_posix()


def _changed(path: Path) -> float:
    """Return when a file, or anything in a folder, was last written."""
    try:
        return max(float(entry.lstat().st_mtime) for entry in (path, *(path.iterdir() if path.is_dir() else ())))
    except FileNotFoundError:
        # Published by its writer while we look.
        return math.inf


def _in_stores(workspace: Workspace, older_than_seconds: float, gone: set[Path], *, remove: bool) -> Iterator[Item]:
    """Yield what lies in stores that stay, and serves nobody."""
    look = remove_leftovers if remove else find_leftovers
    for path in list_stores(workspace.stores):
        if path in gone:
            continue
        try:
            core = FeatureStore.open(path).core
            leftovers, superseded = look(core, older_than_seconds), superseded_files(core)
            core.leave()
            if superseded:
                leftovers += (discard_superseded(core.layout) or []) if remove else superseded
        except StorageError:
            # What is broken is `verify`'s to name: nothing is removed from it.
            continue
        for leftover in leftovers:
            yield Item(leftover.kind, _name(workspace, leftover.path), leftover.why, leftover.bytes)
