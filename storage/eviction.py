"""A cap on what the stores weigh: whole stores go, least recently used first, until the rest is below it.

Stores that no run names go first. One that a run names goes only if the caller says so: nothing but time is lost, since a
store can be extracted again from the images. One that somebody has open, that a run in progress names, or that a champion
stands on (or a former one that a rollback can reach), never goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storage.backends import refuse_remote
from storage.canonical import is_key
from storage.champions import list_lines, needed_keys
from storage.errors import StorageError
from storage.inspection import list_stores
from storage.layout import StoreLayout
from storage.occupancy import alone_in, last_used
from storage.references import named_keys, sweeping
from storage.removal import Removal, bytes_below
from storage.runs import RunView, list_runs
from storage.workspace import Workspace

__all__ = ["Eviction", "StoreUse", "evict"]


@dataclass(frozen=True)
class StoreUse:
    """One store, what it weighs and who uses it.

    Args:
        key: the store's key.
        bytes: what its folder weighs.
        last_used: seconds since the epoch.
        runs: the runs whose records name it.
        stays: why it stays; empty where it goes.
    """

    key: str
    bytes: int
    last_used: float
    runs: tuple[str, ...]
    stays: str = ""


@dataclass(frozen=True)
class Eviction:
    """What goes and what stays.

    Args:
        removed: whether it was removed, or only chosen.
        max_bytes: the cap.
        evicted: what goes, in the order in which it goes.
        kept: what stays, and why.
    """

    removed: bool
    max_bytes: int
    evicted: tuple[StoreUse, ...]
    kept: tuple[StoreUse, ...]

    @property
    def bytes_left(self) -> int:
        """What the stores weigh afterwards."""
        return sum(store.bytes for store in self.kept)

    @property
    def is_within(self) -> bool:
        """Whether that is below the cap."""
        return self.bytes_left <= self.max_bytes

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "bytes_left": self.bytes_left, "is_within": self.is_within}


def evict(workspace: Workspace, max_bytes: int, *, named_too: bool, remove: bool) -> Eviction:
    """Choose the stores that have to go, and remove them if asked to.

    Args:
        workspace: whose stores.
        max_bytes: what all stores may weigh together.
        named_too: also stores that the records of runs name, after all others.
        remove: remove them; otherwise only say which.

    Raises:
        StorageError: the stores lie in an object store; or the record of a run or of champions cannot be read, so that whether
            they use a store cannot be known.
    """
    refuse_remote(workspace.stores, "evicted from")
    removal = Removal()
    # Weighed before the runs are kept waiting.
    stores = [path for path in list_stores(workspace.stores) if is_key(path.name) and not path.is_symlink()]
    weights = {path: bytes_below(path) for path in stores}
    with sweeping(workspace.runs):
        uses = list(_uses(weights, list_runs(workspace.runs), _champions(workspace)))
        over = sum(use.bytes for use in uses) - max_bytes
        evicted, kept = [], []
        for use in sorted(uses, key=lambda use: (bool(use.runs), use.last_used)):
            stays = use.stays or _reason_to_stay(use, over, named_too=named_too)
            if not stays:
                stays = _take_away(workspace.stores / use.key, removal if remove else None)
            if stays:
                kept.append(StoreUse(use.key, use.bytes, use.last_used, use.runs, stays))
            else:
                evicted.append(use)
                over -= use.bytes
    removal.finish()
    return Eviction(remove, max_bytes, tuple(evicted), tuple(kept))


def _champions(workspace: Workspace) -> dict[str, str]:
    """Return the line whose champions stand on a store, by the store's key."""
    return {key: line for line in list_lines(workspace) for key in needed_keys(workspace, line)}


def _uses(weights: dict[Path, int], views: list[RunView], champions: dict[str, str]) -> Iterator[StoreUse]:
    broken = [view for view in views if view.status == "broken"]
    if broken:
        raise StorageError(
            f"run {broken[0].run_id}: expected a record that can be read, got {broken[0].reason}; which stores it uses cannot "
            "be known, so none is evicted. Remedy: restore the record, or remove the run's folder"
        )
    named = {view.run_id: (named_keys(view), view.status == "running") for view in views}
    for path, weight in weights.items():
        runs = tuple(run_id for run_id, (keys, _) in named.items() if path.name in keys)
        running = [run_id for run_id in runs if named[run_id][1]]
        stays = f"run {running[0]} is in progress" if running else ""
        if path.name in champions:
            stays = f"champions of line {champions[path.name]} stand on it"
        yield StoreUse(path.name, weight, last_used(StoreLayout(path)), runs, stays)


def _reason_to_stay(use: StoreUse, over: int, *, named_too: bool) -> str:
    if over <= 0:
        return "the rest is below the cap"
    if use.runs and not named_too:
        return f"named by {len(use.runs)} runs, the latest {use.runs[0]}"
    return ""


def _take_away(path: Path, removal: Removal | None) -> str:
    """Take a store away, unless it is only asked about; return why it stays if it does."""
    try:
        with alone_in(StoreLayout(path)) as alone:
            if alone and removal is not None:
                removal.take_away(path)
            return "" if alone else "a process has it open"
    except StorageError as error:
        return str(error)
