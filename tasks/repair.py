"""Repair: take what is damaged out of an experiment's store and extract exactly that again."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from storage.features import FeatureStore
from storage.mending import mend
from tasks.extract import extract_features
from tasks.jobs import Extracted, Job, Prepared
from tasks.stores import experiment_backbone, experiment_store

__all__ = ["Repaired", "repair_store"]


class Repaired(BaseModel):
    """What was found damaged, and what the extraction after it computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lost_records: tuple[int, ...]
    retired: tuple[str, ...]
    extracted: Extracted


def repair_store(job: Job, prepared: Prepared) -> Repaired:
    """Retire every damaged shard of the experiment's store and extract it again; whole shards are not touched.

    Raises:
        FormatError: the store's first record is lost and cannot be made again from what is there.
    """
    store = experiment_store(job, experiment_backbone(job.spec))
    lost = mend(store.core)
    retired = _retire_damaged(store)
    return Repaired(lost_records=tuple(lost), retired=retired, extracted=extract_features(job, prepared))


def _retire_damaged(store: FeatureStore) -> tuple[str, ...]:
    done: dict[tuple[str, int], str] = {}
    for finding in store.damaged():
        if finding.layer is None or finding.shard is None or (finding.layer, finding.shard) in done:
            continue
        store.retire(finding.layer, finding.shard, finding.what)
        done[finding.layer, finding.shard] = f"layer {finding.layer}, shard {finding.shard}: {finding.what}"
    return tuple(done.values())
