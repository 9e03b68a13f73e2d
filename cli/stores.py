"""`hypercolumns store`: what the feature stores hold, what it weighs, and whether it is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.config import load_experiment
from cli.context import JsonOption, WorkspaceOption, command, emit
from cli.quantities import spell_bytes
from cli.upkeep import register_upkeep

if TYPE_CHECKING:
    from storage.features import FeatureStore

__all__ = ["register_stores"]

KeyArgument = Annotated[str | None, typer.Argument(help="The store's key, or its beginning; all stores by default.")]


def register_stores(app: typer.Typer) -> None:
    """Add `store ls`, `info`, `du`, `verify`, `repair`, and what `cli.upkeep` has."""
    stores = typer.Typer(help="Look at, check and look after feature stores.", no_args_is_help=True)
    for name, function in (("ls", _list), ("info", _info), ("du", _disk_usage), ("verify", _verify), ("repair", _repair)):
        stores.command(name)(function)
    register_upkeep(stores)
    app.add_typer(stores, name="store")


@command
def _list(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List the feature stores of the workspace; one that cannot be opened is listed with the reason."""
    from storage.errors import StorageError
    from storage.features import FeatureStore

    found, lines = [], []
    for path in _paths(workspace, None):
        try:
            info = FeatureStore.open(path).info()
        except StorageError as error:
            found.append({"key": path.name, "path": str(path), "broken": str(error)})
            lines.append(f"{path.name}  {error}")
            continue
        backbone = info["key_fields"].get("backbone", {})
        name = backbone.get("name", "?") if isinstance(backbone, dict) else backbone
        weight, used = spell_bytes(info["bytes"]), str(info["last_used"])[:10]
        lines.append(f"{info['key']}  {info['rows']:7d} images  {weight:>10s}  {info['dtype']:8s} used {used}  {name}")
        found.append(info)
    emit(found, as_json, "\n".join(lines) or "no stores yet")


@command
def _info(key: KeyArgument = None, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Show what a store was made from, its layers and its rows."""
    found = [store.info() for store in _stores(workspace, key)]
    emit(found, as_json, "\n".join(json.dumps(info, indent=2) for info in found) or "no stores yet")


@command
def _disk_usage(key: KeyArgument = None, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Show the bytes of each layer, of the bookkeeping, and of what `gc` would remove."""
    found: dict[str, Any] = {store.key: store.du() for store in _stores(workspace, key)}
    lines = []
    for name, usage in found.items():
        lines.append(f"{name}  {usage['total'] / 1e6:10.1f} MB")
        rest = {
            "records, index, metadata": usage["overhead"],
            "quarantine (damaged files)": usage["quarantine"],
            "unfinished files": usage["unfinished"],
        }
        lines += [f"  {part:60s} {count / 1e6:10.1f} MB" for part, count in {**usage["layers"], **rest}.items()]
    if len(found) > 1:
        lines.append(f"{'all stores':62s} {sum(usage['total'] for usage in found.values()) / 1e6:10.1f} MB")
    emit(found, as_json, "\n".join(lines) or "no stores yet")


@command
def _verify(
    key: KeyArgument = None,
    quick: Annotated[bool, typer.Option("--quick", help="Sizes, names and indexes only; do not read the maps.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare everything on disk with the commit records; exit code 1 if anything is damaged."""
    findings = {store.key: [finding.as_json() for finding in store.verify(deep=not quick)] for store in _stores(workspace, key)}
    lines = []
    for name, found in findings.items():
        lines.append(f"{name}: {'whole' if not found else f'{len(found)} findings'}")
        for finding in found:
            where = f"layer {finding['layer']} shard {finding['shard']}" if finding["layer"] else "the store"
            lines.append(f"  {where}: {finding['what']} ({len(finding['row_keys'])} images) {finding['path']}")
    emit(findings, as_json, "\n".join(lines) or "no stores yet")
    if any(findings.values()):
        raise typer.Exit(1)


@command
def _repair(
    config: Annotated[Path, typer.Argument(help="The experiment whose store is damaged: its images are read again.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Overrides, key.path=value.")] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take damaged shards of an experiment's store out of use (into quarantine) and extract exactly them again."""
    from storage.workspace import resolve_workspace
    from tasks.jobs import Job
    from tasks.prepare import prepare_dataset
    from tasks.repair import repair_store

    job = Job(spec=load_experiment(config, overrides or []), workspace=resolve_workspace(workspace))
    repaired = repair_store(job, prepare_dataset(job))
    lines = [*repaired.retired, f"{repaired.extracted.images_computed} images extracted again"]
    emit(repaired.model_dump(mode="json"), as_json, "\n".join(lines))


def _stores(workspace: Path | None, key: str | None) -> list[FeatureStore]:
    from storage.features import FeatureStore

    return [FeatureStore.open(path) for path in _paths(workspace, key)]


def _paths(workspace: Path | None, key: str | None) -> list[Path]:
    """Return the folders of the stores whose key begins so."""
    from hypercolumns.errors import SpecError
    from storage.inspection import list_stores
    from storage.workspace import Workspace, resolve_workspace

    root = Workspace(resolve_workspace(workspace)).stores
    paths = list_stores(root)
    if key is None:
        return paths
    chosen = [path for path in paths if path.name.startswith(key)]
    if len(chosen) != 1:
        names = ", ".join(path.name for path in paths) or "none"
        raise SpecError(f"expected the key of one store in {root}, got {key!r}, which fits {len(chosen)}; there are: {names}")
    return chosen
