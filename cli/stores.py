"""`hypercolumns store`: what the feature stores hold, what it weighs, and whether it is whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.config import load_experiment
from cli.context import JsonOption, WorkspaceOption, command, emit
from cli.places import register_places
from cli.quantities import spell_bytes
from cli.selection import KeyArgument, store_paths
from cli.statistics import register_statistics
from cli.upkeep import register_upkeep

if TYPE_CHECKING:
    from storage.features import FeatureStore
    from tasks.jobs import Job

__all__ = ["register_stores"]

OverridesArgument = Annotated[list[str] | None, typer.Argument(help="Overrides of the experiment, key.path=value.")]


def register_stores(app: typer.Typer) -> None:
    """Add `store ls`, `info`, `du`, `verify`, `repair`, and what `cli.upkeep` has."""
    stores = typer.Typer(help="Look at, check and look after feature stores.", no_args_is_help=True)
    for name, function in (("ls", _list), ("info", _info), ("du", _disk_usage), ("verify", _verify), ("repair", _repair)):
        stores.command(name)(function)
    register_upkeep(stores)
    register_places(stores)
    register_statistics(stores)
    app.add_typer(stores, name="store")


@command
def _list(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List the feature stores of the workspace; one that cannot be opened is listed with the reason."""
    from storage.errors import StorageError
    from storage.features import FeatureStore

    found, lines = [], []
    for path in store_paths(workspace, None):
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
    key: Annotated[
        str | None, typer.Argument(help="The store's key, or its beginning; with --against-backbone the experiment file.")
    ] = None,
    overrides: OverridesArgument = None,
    quick: Annotated[bool, typer.Option("--quick", help="Sizes, names and indexes only; do not read the maps.")] = False,
    against_backbone: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="Extract K images of an experiment's store again, and compare.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses these images.")] = 0,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare everything on disk with the commit records; exit code 1 if anything is damaged.

    With --against-backbone compare stored maps with what the backbone gives today: exit code 1 if these differ by more than
    rounding explains although the records name this torch, device and processor, and as many threads.
    """
    if against_backbone is not None:
        _verify_drift(key, overrides or [], against_backbone, seed, workspace, as_json)
        return
    if overrides:
        from hypercolumns.errors import SpecError

        raise SpecError(f"expected at most one store's key, got {overrides} too; overrides belong to --against-backbone")
    findings = {path.name: _findings(path, deep=not quick) for path in store_paths(workspace, key)}
    lines = [line for name, found in findings.items() for line in _found(name, found)]
    emit(findings, as_json, "\n".join(lines) or "no stores yet")
    if any(findings.values()):
        raise typer.Exit(1)


def _findings(path: Path, *, deep: bool) -> list[dict[str, Any]]:
    from storage.errors import VersionError
    from storage.verification import Finding, verify_path

    try:
        return [finding.as_json() for finding in verify_path(path, deep=deep)]
    except VersionError as error:
        return [Finding("version", None, None, (), str(error), str(path)).as_json()]


def _verify_drift(
    config: str | None, overrides: list[str], images: int, seed: int, workspace: Path | None, as_json: bool
) -> None:
    from tasks.drift import measure_drift
    from tasks.prepare import prepare_dataset

    job = _job(None if config is None else Path(config), overrides, workspace)
    drift = measure_drift(job, prepare_dataset(job), images, seed)
    lines = [f"{drift.key}: {len(drift.row_keys)} images extracted again"]
    for name, layer in drift.layers.items():
        how = "identical" if layer.identical else f"max |difference| {layer.max_abs:.3g} ({layer.max_ulp} ulp)"
        lines.append(f"  {name:60s} {how}, tolerance {layer.tolerance:.3g}")
    lines.append(f"bytes are{'' if drift.expected_identical else ' not'} expected to be the same: {drift.why}")
    emit({**drift.model_dump(mode="json"), "is_defect": drift.is_defect}, as_json, "\n".join(lines))
    if drift.is_defect:
        raise typer.Exit(1)


@command
def _repair(
    config: Annotated[Path, typer.Argument(help="The experiment whose store is damaged: its images are read again.")],
    overrides: OverridesArgument = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take damaged shards of an experiment's store out of use (into quarantine) and extract exactly them again."""
    from tasks.prepare import prepare_dataset
    from tasks.repair import plan_repair, repair_store

    job = _job(config, overrides or [], workspace)
    prepared = prepare_dataset(job)
    if dry_run:
        plan = plan_repair(job, prepared)
        lines = [*_found("the experiment's store", plan.findings), *(f"would retire {name}" for name in plan.retire)]
        lines += [f"would extract {plan.extract} images", *_others(plan.other_images)]
        emit(plan.model_dump(mode="json"), as_json, "\n".join(lines))
        return
    repaired = repair_store(job, prepared)
    lines = [*(f"record {number}: lost, declared void" for number in repaired.lost_records), *repaired.retired]
    lines += [f"{path}: removed, or set aside" for path in repaired.removed]
    lines += [f"{repaired.extracted.images_computed} images extracted again", *_others(repaired.other_images)]
    emit(repaired.model_dump(mode="json"), as_json, "\n".join(lines))


def _found(name: str, found: Sequence[dict[str, Any]]) -> list[str]:
    lines = [f"{name}: {'whole' if not found else f'{len(found)} findings'}"]
    for finding in found:
        where = f"layer {finding['layer']} shard {finding['shard']}" if finding["layer"] else "the store"
        lines.append(f"  {where}: {finding['what']} ({len(finding['row_keys'])} images) {finding['path']}")
    return lines


def _others(count: int) -> list[str]:
    return [f"{count} images are no part of this experiment: their own extract them again when they run"] if count else []


def _job(config: Path | None, overrides: list[str], workspace: Path | None) -> Job:
    from storage.workspace import resolve_workspace
    from tasks.jobs import Job

    return Job(spec=load_experiment(config, overrides), workspace=resolve_workspace(workspace))


def _stores(workspace: Path | None, key: str | None) -> list[FeatureStore]:
    from storage.features import FeatureStore

    return [FeatureStore.open(path) for path in store_paths(workspace, key)]
