"""`hypercolumns store gc | evict | compact`: giving disk space back.

What deletes or rewrites says what it would do, and does it with `--yes` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import JsonOption, WorkspaceOption, command, emit
from cli.quantities import parse_bytes, parse_seconds, spell_bytes
from cli.selection import KeyArgument, store_paths

if TYPE_CHECKING:
    from storage.compaction import Compaction
    from storage.eviction import Eviction
    from storage.garbage import Sweep

__all__ = ["register_upkeep"]

YesOption = Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be done.")]


def register_upkeep(stores: typer.Typer) -> None:
    """Add `store gc`, `evict` and `compact`."""
    for name, function in (("gc", _gc), ("evict", _evict), ("compact", _compact)):
        stores.command(name)(function)


@command
def _gc(
    yes: YesOption = False,
    older_than: Annotated[
        str, typer.Option(help="What was used or made since then stays, though no run names it: 12h, 1d, 2w, 0.")
    ] = "1d",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove what no run's record names, and what writers that died left: stores, sample sets, models, evaluations, manifests.

    What a run names stays for as long as its folder in `runs` does. Nothing that a process has open is removed.
    """
    from storage.garbage import sweep
    from storage.workspace import Workspace, resolve_workspace

    swept = sweep(Workspace(resolve_workspace(workspace)), parse_seconds(older_than), remove=yes)
    emit(swept.as_json(), as_json, _swept(swept))
    if swept.blocked:
        raise typer.Exit(1)


@command
def _evict(
    max_bytes: Annotated[str, typer.Option(help="What all stores may weigh together: 50GB, 1.5TB, 200GiB.")],
    named_too: Annotated[
        bool, typer.Option("--named-too", help="Also stores that runs name, after all others: they can be extracted again.")
    ] = False,
    yes: YesOption = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove whole stores, least recently used first, until the rest weighs no more than a cap; exit code 1 if it still does.

    Stores that no run names go first. What a process has open, or a run in progress names, never goes.
    """
    from storage.eviction import evict
    from storage.workspace import Workspace, resolve_workspace

    evicted = evict(Workspace(resolve_workspace(workspace)), parse_bytes(max_bytes), named_too=named_too, remove=yes)
    emit(evicted.as_json(), as_json, _evicted(evicted))
    if yes and not evicted.is_within:
        raise typer.Exit(1)


@command
def _compact(
    key: KeyArgument = None, yes: YesOption = False, workspace: WorkspaceOption = None, as_json: JsonOption = False
) -> None:
    """Pack the images of short shards, which nightly appends leave, into full ones; readers and writers may go on meanwhile.

    The old files go when nobody has the store open: at once, or by `store gc` later.
    """
    from storage.compaction import compact_store

    compacted = [compact_store(path, rewrite_rows=yes) for path in store_paths(workspace, key)]
    lines = [line for one in compacted for line in _compacted(one)]
    emit([one.as_json() for one in compacted], as_json, "\n".join(lines) or "no stores yet")
    if any(one.skipped for one in compacted):
        raise typer.Exit(1)


def _swept(swept: Sweep) -> str:
    lines = [f"{item.kind:12s} {spell_bytes(item.bytes):>10s}  {item.path}: {item.why}" for item in swept.garbage]
    lines += [f"{item.kind:12s} {'stays':>10s}  {item.path}: {item.why}" for item in swept.kept]
    lines += [f"cannot be read: {reason}" for reason in swept.blocked]
    if swept.blocked:
        lines.append(
            "what runs use cannot be known, so nothing that they might use is removed; restore the record, or remove the run's "
            "folder: what it named goes with it"
        )
    count = f"{len(swept.garbage)} things, {spell_bytes(swept.bytes)}"
    lines.append(f"removed: {count}" if swept.removed else f"would be removed with --yes: {count}")
    return "\n".join(lines)


def _evicted(evicted: Eviction) -> str:
    lines = []
    for store in evicted.evicted:
        named = f"named by {len(store.runs)} runs; their experiments extract it again" if store.runs else "no run names it"
        lines.append(f"{store.key}  {spell_bytes(store.bytes):>10s}  used {_day(store.last_used)}  goes: {named}")
    for store in evicted.kept:
        lines.append(f"{store.key}  {spell_bytes(store.bytes):>10s}  used {_day(store.last_used)}  stays: {store.stays}")
    cap, left = spell_bytes(evicted.max_bytes), spell_bytes(evicted.bytes_left)
    lines.append(f"{'left' if evicted.removed else 'would be left with --yes'}: {left} of {cap}")
    if not evicted.is_within:
        lines.append("that is above the cap; --named-too evicts stores that runs name: nothing but the time to extract is lost")
    return "\n".join(lines)


def _day(seconds: float) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def _compacted(one: Compaction) -> list[str]:
    weight, removed, waiting = (spell_bytes(count) for count in (one.bytes, one.bytes_removed, one.bytes_waiting))
    what = f"{one.rows} images ({weight}) of {one.short_shards} short shards into {one.new_shards}"
    if not one.done:
        return [f"{one.key}: would pack {what} with --yes" if one.rows else f"{one.key}: nothing to pack"]
    lines = [f"{one.key}: packed {what}; {removed} of old files removed"]
    if one.bytes_waiting:
        lines.append(f"  {waiting} of old files stay until nobody has the store open: `hypercolumns store gc --yes`")
    return [*lines, *(f"  left as it was: {reason}" for reason in one.skipped)]
