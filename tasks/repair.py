"""Repair: take what is damaged out of an experiment's store and extract exactly that again."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from hypercolumns.backbones import Backbone
from storage.backends import store_exists
from storage.core import StoreCore, store_key
from storage.features import FeatureStore
from storage.layout import StoreLayout
from storage.leftovers import remove_strays
from storage.mending import mend
from storage.verification import Finding, verify_path
from tasks.extract import extract_features
from tasks.jobs import Extracted, Job, Prepared
from tasks.manifests import load_manifest
from tasks.stores import experiment_backbone, experiment_store, key_fields
from tasks.work import wanted_work

__all__ = ["RepairPlan", "Repaired", "plan_repair", "repair_store"]

_LEASE_SECONDS = 120.0


class RepairPlan(BaseModel):
    """What is wrong with a store, and what repairing it would do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    findings: tuple[dict[str, object], ...] = Field(description="what `verify` finds")
    retire: tuple[str, ...] = Field(description="layers of shards that would be taken out of use")
    extract: int = Field(description="images and views of the experiment that would be extracted again, or for the first time")
    other_images: int = Field(description="images and views that would go too, until their own experiments extract them again")


class Repaired(BaseModel):
    """What was found damaged, and what the extraction after it computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lost_records: tuple[int, ...]
    retired: tuple[str, ...]
    removed: tuple[str, ...] = Field(description="files without a writer or a record, removed or set aside")
    other_images: int = Field(description="images and views that wait for their own experiments to extract them again")
    extracted: Extracted


def plan_repair(job: Job, prepared: Prepared) -> RepairPlan:
    """Say what `repair_store` would do; changes nothing.

    What a lost record committed is not counted: nobody knows it any more.

    Raises:
        VersionError: the store is of another format version.
    """
    work = wanted_work(job, load_manifest(prepared.path))
    backbone = experiment_backbone(job.spec)
    layout = _layout(job, backbone)
    if not store_exists(layout.root):
        return RepairPlan(findings=(), retire=(), extract=len(work.keys), other_images=0)
    findings = verify_path(layout.root)
    if any(finding.kind == "record" for finding in findings):
        return RepairPlan(findings=_json(findings), retire=_named(findings), extract=0, other_images=0)
    store = FeatureStore.open(layout.root)
    hurt = _keys_of(store, findings)
    declared = [layer.name for layer in backbone.layers if layer.name in store.layers]
    missing = set(store.missing(work.keys, declared)) if len(declared) == len(backbone.layers) else set(work.keys)
    wanted = set(work.keys)
    return RepairPlan(
        findings=_json(findings),
        retire=_named(findings),
        extract=len(missing | (hurt & wanted)),
        other_images=len(hurt - wanted),
    )


def repair_store(job: Job, prepared: Prepared) -> Repaired:
    """Retire every damaged shard of the experiment's store and extract it again; whole shards are not touched.

    Raises:
        FormatError: the store's first record is lost and cannot be made again from what is there.
        VersionError: the store is of another format version.
    """
    backbone = experiment_backbone(job.spec)
    layout = _layout(job, backbone)
    lost: list[int] = []
    if store_exists(layout.root):
        # Before the store is opened: a broken chain of records cannot be.
        core = StoreCore(layout, _LEASE_SECONDS)
        core.occupy(create=False)
        lost = mend(core)
    store = experiment_store(job, backbone)
    findings = store.verify()
    hurt = _keys_of(store, findings)
    for layer, shard, what in _damaged(findings):
        store.retire(layer, shard, what)
    removed = remove_strays(store.core, findings)
    return Repaired(
        lost_records=tuple(lost),
        retired=_named(findings),
        removed=tuple(removed),
        other_images=len(hurt - set(wanted_work(job, load_manifest(prepared.path)).keys)),
        extracted=extract_features(job, prepared),
    )


def _layout(job: Job, backbone: Backbone) -> StoreLayout:
    return StoreLayout(job.places.stores / store_key(key_fields(backbone, job.spec.store), job.spec.store.dtype))


def _damaged(findings: Iterable[Finding]) -> list[tuple[str, int, str]]:
    """Return each damaged layer of a shard once, with what is wrong with it."""
    found: dict[tuple[str, int], str] = {}
    for finding in findings:
        if finding.kind in ("damaged", "missing") and finding.layer is not None and finding.shard is not None:
            found.setdefault((finding.layer, finding.shard), finding.what)
    return [(layer, shard, what) for (layer, shard), what in found.items()]


def _named(findings: Iterable[Finding]) -> tuple[str, ...]:
    return tuple(f"layer {layer}, shard {shard}: {what}" for layer, shard, what in _damaged(findings))


def _keys_of(store: FeatureStore, findings: Iterable[Finding]) -> set[str]:
    """Return the images and views that lie in damaged layers of shards: all of them, since a file is written as a whole."""
    keys: set[str] = set()
    for layer, shard, _ in _damaged(findings):
        entry = store.core.index.entries([shard], [layer]).get((shard, layer))
        placed = store.core.index.slot_keys(shard)
        keys |= {placed[slot] for slot in (entry.slots if entry else ()) if slot in placed}
    return keys


def _json(findings: Iterable[Finding]) -> tuple[dict[str, object], ...]:
    return tuple(finding.as_json() for finding in findings)
