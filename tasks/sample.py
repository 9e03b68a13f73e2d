"""Sample: draw sparse labelled pixels of every training image and keep their hypercolumns in one HDF5 file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from hypercolumns.columns import Frame
from hypercolumns.errors import SamplingError
from hypercolumns.read_ahead import read_ahead
from hypercolumns.sampling import sample_points
from hypercolumns.sources import MapSource
from storage.canonical import digest
from storage.errors import AlreadyPublishedError
from storage.sample_writer import SampleSetWriter
from storage.samples import SampleSet
from storage.unfinished import was_published
from tasks.jobs import Extracted, Job, Prepared, Sampled
from tasks.manifests import Manifest, load_manifest, row_key
from tasks.record import note_use
from tasks.stores import open_source

__all__ = ["sample_pixels", "write_samples"]

_READERS = 2
"""Threads that read: one waits for the disk while the other one works, each with one of torch's: operations are small."""


def sample_pixels(job: Job, prepared: Prepared, extracted: Extracted) -> Sampled:
    """Write the experiment's sample set, or find it.

    Raises:
        SamplingError: no training image has a labelled pixel.
    """
    manifest = load_manifest(prepared.path)
    origin = {"store": extracted.key, "layers": list(extracted.cache)}
    return write_samples(job, manifest, origin, lambda: open_source(job, manifest, job.spec.dataset.train_split, passes=1))


def write_samples(job: Job, manifest: Manifest, origin: dict[str, Any], open_maps: Callable[[], MapSource]) -> Sampled:
    """Sample a map source, or find the sample set that was made of it.

    Args:
        job: The experiment.
        manifest: Its images.
        origin: What decides the maps: part of the key.
        open_maps: Opens the maps of the train split; called only when something is to be done.
    """
    start = time.perf_counter()
    fields = {
        "origin": origin,
        "sample": job.spec.sample.model_dump(mode="json"),
        "canvas": job.spec.store.canvas.model_dump(mode="json"),
        "alignment": job.spec.head.alignment,
        "protocol": job.spec.evaluate.protocol,
        "images": manifest.content_key(job.spec.dataset.train_split, labels=True),
    }
    path = job.places.samples / f"{digest(fields)}.h5"
    note_use(job, path.stem)
    cached = was_published(path)
    if not cached:
        # Whoever publishes first wins; the same fields give the same samples.
        with contextlib.suppress(AlreadyPublishedError):
            _write(job, manifest, path, fields, open_maps())
    with SampleSet.open(path) as samples:
        count = len(samples)
    return Sampled(key=path.stem, path=path, cached=cached, seconds=time.perf_counter() - start, samples=count)


def _write(job: Job, manifest: Manifest, path: Path, fields: dict[str, Any], source: MapSource) -> None:
    spec = job.spec
    entries = manifest.splits[spec.dataset.train_split]
    frame = Frame(source.canvas_hw, spec.head.alignment)
    dims = sum(layer.channels for layer in source.layers)
    drawn = 0
    keys = [row_key(entry, "identity") for entry in entries]

    def draw(index: int) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]:
        """Return the columns (m, D), labels (m,) and positions (m, 2) of an image's samples."""
        points, labels = sample_points(manifest.canvas_mask(entries[index], spec), keys[index], spec.sample)
        if not len(points):
            return np.empty((0, dims), np.float32), labels, points
        return source.gather((index, "identity"), torch.from_numpy(points), frame).numpy(), labels, points

    with SampleSetWriter(path, fields, keys, dims) as writer:
        samples = read_ahead(range(len(entries)), draw, threads=_READERS, ahead=2 * _READERS, torch_threads=1)
        for index, (columns, labels, points) in enumerate(
            tqdm(samples, total=len(entries), unit="img", desc="sample", disable=None)
        ):
            writer.append(columns, labels, np.full(len(labels), index), points)
            drawn += len(labels)
        if not drawn:
            raise SamplingError(
                f"expected labelled pixels in the {len(entries)} images of split {spec.dataset.train_split!r}, got only void; "
                "check dataset.void_label and the masks"
            )
