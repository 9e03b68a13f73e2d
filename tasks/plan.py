"""Plan: before anything is extracted, say what it costs, whether it fits, and when it pays.

Bytes follow from shapes; times, and how well maps compress, are measured here on a few images of the data set.
"""

from __future__ import annotations

import shutil
import time
from typing import Literal

from pydantic import Field

from storage.backends import is_remote
from storage.errors import DiskSpaceError
from storage.features import FeatureStore
from tasks.jobs import Job, Prepared, Stage
from tasks.manifests import Manifest, load_manifest
from tasks.stores import experiment_backbone, experiment_store, stays_cached
from tasks.trial import Costs, try_out
from tasks.work import wanted_work

__all__ = ["Planned", "check_plan", "plan_extraction"]

_SPARE_SHARE = 1.02
"""Room for zarr.json files, records and the index beside the maps."""


class Planned(Stage):
    """What extraction would cost, and when it pays."""

    images: int = Field(description="images and views the experiment reads")
    missing: int = Field(description="of these, how many have to be computed")
    bytes_per_image: int = Field(description="bytes an image takes in the store, uncompressed")
    bytes_needed: int = Field(description="bytes the missing images will take; with compression, as measured on a few of them")
    bytes_free: int = Field(description="bytes free on the workspace's disk")
    fits: bool
    extract_seconds_per_image: float | None = Field(description="measured: decode, backbone, store; None if nothing is missing")
    forward_seconds_per_image: float | None = Field(description="measured: decode and backbone")
    read_seconds_per_image: float | None = Field(description="measured: reading the maps back, as training will")
    eta_seconds: float | None = Field(description="estimated time of the extraction")
    reads: int = Field(description="how often this experiment reads an image's maps, in all")
    break_even_passes: int | None = Field(description="passes from which storing beats recomputing; None if it never does")
    recommends: Literal["store", "recompute"] | None = Field(description="what is quicker for this experiment alone")
    advice: str


def check_plan(job: Job, prepared: Prepared) -> Planned:
    """Refuse an extraction that the disk would not hold, before anything is computed.

    Raises:
        DiskSpaceError: says what is needed, what is free, and what to do.
    """
    planned = plan_extraction(job, prepared, measure=False)
    if not planned.fits:
        raise DiskSpaceError(
            f"{job.workspace}: extraction needs {planned.bytes_needed / 1e9:.2f} GB for {planned.missing} images, "
            f"{planned.bytes_free / 1e9:.2f} GB are free; nothing was computed. Free some space, or use another --workspace, "
            "fewer backbone.layers, a smaller store.canvas.size_hw, or store.dtype=uint8 (half the bytes)"
        )
    return planned


def plan_extraction(job: Job, prepared: Prepared, *, measure: bool = True, seconds: float = 3.0) -> Planned:
    """Reckon what the experiment's extraction costs.

    Args:
        job: The experiment.
        prepared: Its checked data set.
        measure: Whether to try it out on a few images; without, times are left out, and compression is not reckoned with.
        seconds: About how long each measurement takes.
    """
    start = time.perf_counter()
    manifest = load_manifest(prepared.path)
    backbone = experiment_backbone(job.spec)
    store = experiment_store(job, backbone)
    work = wanted_work(job, manifest)
    names = [layer.name for layer in backbone.layers]
    hits = store.hits(work.keys, names)
    missing = max(len(work.keys) - hit for hit in hits.values())
    needed = sum(store.bytes_of(name, len(work.keys) - hits[name]) for name in names)
    stores = job.places.stores
    free = shutil.disk_usage(stores).free
    # An object store says nothing of its room, and takes none of the disk but for a bounded cache.
    fits = is_remote(stores) or needed * _SPARE_SHARE <= free
    costs = None
    if measure and missing and (fits or store.compression != "none"):
        whole = sum(store.bytes_of(name, len(work.keys)) for name in names)
        keep = stays_cached(whole, 1 + job.spec.train.epochs)
        costs = try_out(job, manifest, images=missing, keep_cached=keep, seconds=seconds)
        needed = round(needed * costs.stored_share)
        fits = is_remote(stores) or needed * _SPARE_SHARE <= free
    reads = _reads(job, manifest)
    recommends = None if costs is None else _quicker(costs, missing, reads)
    return Planned(
        key=store.key,
        path=store.path,
        cached=missing == 0,
        seconds=time.perf_counter() - start,
        images=len(work.keys),
        missing=missing,
        bytes_per_image=sum(store.bytes_of(name, store.shard_images) for name in names) // store.shard_images,
        bytes_needed=needed,
        bytes_free=free,
        fits=fits,
        extract_seconds_per_image=None if costs is None else costs.extract_seconds,
        forward_seconds_per_image=None if costs is None else costs.forward_seconds,
        read_seconds_per_image=None if costs is None else costs.read_seconds,
        eta_seconds=None if costs is None else costs.extract_seconds * missing,
        reads=reads,
        break_even_passes=None if costs is None else costs.break_even_passes,
        recommends=recommends,
        advice=_advice(store, missing, reads, costs),
    )


def _reads(job: Job, manifest: Manifest) -> int:
    """Count an experiment's reads: samples and epochs of the training images, and the scores."""
    spec = job.spec
    train = len(manifest.splits[spec.dataset.train_split]) * (len(spec.store.views) + spec.train.epochs)
    return train + len(manifest.splits[spec.dataset.val_split]) * (2 if spec.evaluate.flip else 1)


def _quicker(costs: Costs, missing: int, reads: int) -> Literal["store", "recompute"]:
    stored = missing * costs.extract_seconds + reads * costs.read_seconds
    return "store" if stored <= reads * costs.forward_seconds else "recompute"


def _advice(store: FeatureStore, missing: int, reads: int, costs: Costs | None) -> str:
    if not missing:
        return f"everything is in store {store.key} already: nothing is extracted"
    if costs is None:
        return f"{missing} images are to be extracted"
    if costs.break_even_passes is None:
        return "reading is slower than recomputing here: keep fewer or smaller layers, or recompute"
    saved = reads * (costs.forward_seconds - costs.read_seconds) - missing * costs.extract_seconds
    passes = f"storing pays from {costs.break_even_passes} passes over the images on"
    if saved >= 0:
        return f"{passes}; this experiment reads {reads} maps and saves about {saved:.0f} s, every further one reads for free"
    return f"{passes}; this experiment alone would be {-saved:.0f} s quicker without, the next one reads for free"
