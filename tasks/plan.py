"""Plan: before anything is extracted, say what it costs, whether it fits, and when it pays.

Bytes follow from shapes; times are measured here, on a few images of the data set, and are estimates.
"""

from __future__ import annotations

import math
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from pydantic import Field

from hypercolumns.canvas import normalise
from storage.errors import DiskSpaceError
from storage.features import FeatureStore
from tasks.jobs import Job, Prepared, Stage
from tasks.manifests import Manifest, load_manifest
from tasks.stores import experiment_backbone, experiment_store
from tasks.work import wanted_work

__all__ = ["Costs", "Planned", "check_plan", "measure_costs", "plan_extraction"]

_SPARE_SHARE = 1.02
"""Room for zarr.json files, records and the index beside the maps."""

_PROBE_BYTES = 64 * 2**20


class Planned(Stage):
    """What extraction would cost, and when it pays."""

    images: int = Field(description="images and views the experiment reads")
    missing: int = Field(description="of these, how many have to be computed")
    bytes_per_image: int = Field(description="bytes an image takes in the store, uncompressed")
    bytes_needed: int = Field(description="bytes the missing images will take")
    bytes_free: int = Field(description="bytes free on the workspace's disk")
    fits: bool
    forward_seconds_per_image: float | None = Field(description="measured: the backbone alone; None when nothing is missing")
    eta_seconds: float | None = Field(description="estimated time of the extraction")
    read_seconds_per_image: float | None = Field(description="measured: reading as many bytes from the page cache")
    break_even_epochs: int | None = Field(description="passes from which storing beats recomputing; None if it never does")
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


def plan_extraction(job: Job, prepared: Prepared, *, measure: bool = True) -> Planned:
    """Reckon what the experiment's extraction costs.

    Args:
        job: The experiment.
        prepared: Its checked data set.
        measure: Whether to time the backbone and a read; without, times are left out.
    """
    start = time.perf_counter()
    manifest = load_manifest(prepared.path)
    backbone = experiment_backbone(job.spec)
    store = experiment_store(job, backbone)
    work = wanted_work(job, manifest)
    names = [layer.name for layer in backbone.layers]
    hits = store.hits(work.keys, names)
    needed = sum((len(work.keys) - hits[name]) * store.row_bytes(name) for name in names)
    free = shutil.disk_usage(job.places.stores).free
    missing = max(len(work.keys) - hit for hit in hits.values())
    row_bytes = sum(store.row_bytes(name) for name in names)
    costs = measure_costs(job, manifest, row_bytes) if measure and missing else None
    return Planned(
        key=store.key,
        path=store.path,
        cached=missing == 0,
        seconds=time.perf_counter() - start,
        images=len(work.keys),
        missing=missing,
        bytes_per_image=row_bytes,
        bytes_needed=needed,
        bytes_free=free,
        fits=needed * _SPARE_SHARE <= free,
        forward_seconds_per_image=None if costs is None else costs.forward_seconds,
        eta_seconds=None if costs is None else costs.forward_seconds * missing,
        read_seconds_per_image=None if costs is None else costs.read_seconds,
        break_even_epochs=None if costs is None else costs.break_even_epochs,
        advice=_advice(store, missing, costs),
    )


@dataclass(frozen=True)
class Costs:
    """What an image costs, measured on this machine: through the backbone, and read back from the page cache."""

    forward_seconds: float
    read_seconds: float

    @property
    def break_even_epochs(self) -> int | None:
        """The smallest number of passes E with forward + write + E·read < E·forward; None if reading is no faster.

        A write is reckoned as two reads.
        """
        if self.read_seconds >= self.forward_seconds:
            return None
        return math.floor((self.forward_seconds + 2 * self.read_seconds) / (self.forward_seconds - self.read_seconds)) + 1


def measure_costs(job: Job, manifest: Manifest, row_bytes: int) -> Costs:
    """Time the backbone on a few images of the experiment, and the read of as many bytes as an image takes in the store."""
    return Costs(_forward_seconds(job, manifest), _read_seconds(row_bytes, job.places.stores))


def _advice(store: FeatureStore, missing: int, costs: Costs | None) -> str:
    if not missing:
        return f"everything is in store {store.key} already: nothing is extracted"
    if costs is None:
        return f"{missing} images are to be extracted"
    if costs.break_even_epochs is None:
        return "reading is slower than recomputing here: keep fewer or smaller layers, or recompute"
    passes = costs.break_even_epochs
    return f"storing pays from {passes} passes over the images on; every further experiment on these layers reads for free"


def _forward_seconds(job: Job, manifest: Manifest) -> float:
    spec = job.spec
    backbone = experiment_backbone(spec)
    entries = next(iter(manifest.splits.values()))[: spec.store.batch_images]
    canvases = np.stack([manifest.canvas(entry, spec.store.canvas, spec.backbone.mean_rgb) for entry in entries])
    images = normalise(torch.from_numpy(canvases), spec.backbone.mean_rgb, spec.backbone.std_rgb)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        backbone(images)
        times.append((time.perf_counter() - start) / len(entries))
    return statistics.median(times[1:])


def _read_seconds(count: int, folder: Path) -> float:
    """Time the read of `count` bytes, from a file that was just written."""
    with TemporaryDirectory(dir=folder, prefix="probe-") as name:
        path = Path(name) / "probe"
        np.zeros(_PROBE_BYTES, np.uint8).tofile(path)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            np.fromfile(path, np.uint8)
            times.append(time.perf_counter() - start)
    return statistics.median(times) * count / _PROBE_BYTES
