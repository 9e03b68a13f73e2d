"""Which store an experiment reads and writes, and the map source that reads it."""

from __future__ import annotations

import copy
import resource
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypercolumns.backbones import Backbone, LayerInfo, build_backbone
from hypercolumns.columns import Frame, gather_kept
from hypercolumns.sources import CanvasLoader, Item, LayerMap, select_layers
from hypercolumns.specs import BackboneSpec, ExperimentSpec, Precision, StoreSpec
from storage.core import store_key
from storage.features import FeatureStore
from storage.reading import MapReader
from tasks.arrays import as_tensor, dequantise
from tasks.device import compute_device
from tasks.jobs import Job
from tasks.manifests import Entry, Manifest, row_keys
from tasks.record import computed_by, note_use

__all__ = [
    "EXTRACTOR_VERSION",
    "StoreSource",
    "canvas_loader",
    "experiment_backbone",
    "experiment_store",
    "open_source",
    "read_tensor",
    "stays_cached",
    "wanted_items",
]

EXTRACTOR_VERSION = 1
"""Raised when the same inputs would give other bytes."""

_IMAGES_KEPT = 2
"""Decoded images that are kept for their next crop: one for each thread that decodes."""

_FEW_PASSES = 2
"""Up to this many, reading from the disk each time costs less than filling the page cache once."""

_CACHE_SHARE = 0.5
"""Of the memory that is available, how much of it maps may take as page cache."""

_lock = threading.Lock()


def experiment_backbone(spec: ExperimentSpec) -> Backbone:
    """Build the experiment's backbone, or hand out the one this process has built already."""
    with _lock:
        return _build(spec.backbone, spec.store.canvas.size_hw, spec.store.precision, compute_device())


@lru_cache(maxsize=2)
def _build(backbone: BackboneSpec, canvas_hw: tuple[int, int], precision: Precision, device: torch.device) -> Backbone:
    return build_backbone(backbone, canvas_hw, precision=precision).to(device)


def key_fields(backbone: Backbone, spec: StoreSpec) -> dict[str, Any]:
    """Spell out everything that decides a store's bytes, except its layers, its type and its rows."""
    return {
        "extractor_version": EXTRACTOR_VERSION,
        "backbone": backbone.identity,
        "weights_sha256": backbone.weights_sha256,
        "canvas": spec.canvas.model_dump(mode="json"),
        "preprocessing": {"mean_rgb": list(backbone.spec.mean_rgb), "std_rgb": list(backbone.spec.std_rgb)},
        "precision": spec.precision,
    }


def experiment_store(job: Job, backbone: Backbone) -> FeatureStore:
    """Create or open the experiment's store and declare its layers."""
    spec = job.spec.store
    fields = key_fields(backbone, spec)
    note_use(job, store_key(fields, spec.dtype))
    store = FeatureStore.create_or_open(
        job.places.stores,
        fields,
        dtype=spec.dtype,
        compression=spec.compression,
        shard_images=spec.shard_images,
        recorded=computed_by(backbone.device),
    )
    store.declare_layers({layer.name: (*layer.map_hw, layer.channels) for layer in backbone.layers})
    return store


def canvas_loader(manifest: Manifest, entries: Sequence[Entry], spec: ExperimentSpec) -> CanvasLoader:
    """Return a function that decodes image `i` of the entries and fits it into the canvas."""
    canvas, mean_rgb = spec.store.canvas, spec.backbone.mean_rgb
    if not any(entry.crop for entry in entries):
        return lambda index: manifest.canvas(entries[index], canvas, mean_rgb)

    # Crops of an image follow each other: it is decoded once for all of them.
    @lru_cache(maxsize=_IMAGES_KEPT)
    def decoded(entry: Entry) -> NDArray[np.uint8]:
        return manifest.image(entry)

    def load(index: int) -> NDArray[np.uint8]:
        entry = entries[index]
        return manifest.fitted(decoded(entry.model_copy(update={"crop": None})), entry, canvas, mean_rgb)

    return load


def wanted_items(spec: ExperimentSpec, entries: Sequence[Entry], split: str) -> list[Item]:
    """List the images and views of a split that the experiment reads."""
    views: tuple[str, ...] = spec.store.views if split == spec.dataset.train_split else ("identity",)
    if spec.evaluate.flip and split == spec.dataset.val_split and "hflip" not in views:
        views = (*views, "hflip")
    return [(index, view) for view in views for index in range(len(entries))]


def open_source(job: Job, manifest: Manifest, split: str, *, passes: int) -> StoreSource:
    """Open the maps of a split, which must have been extracted.

    Args:
        job: The experiment.
        manifest: Its images.
        split: Name of the split.
        passes: How often each map is going to be read.
    """
    backbone = experiment_backbone(job.spec)
    store = experiment_store(job, backbone)
    entries = manifest.splits[split]
    items = wanted_items(job.spec, entries, split)
    total = sum(store.bytes_of(layer.name, len(items)) for layer in backbone.layers)
    keep = stays_cached(total, passes)
    return StoreSource(store, backbone.layers, entries, items, backbone.canvas_hw, keep_cached=keep)


def stays_cached(count: int, passes: int) -> bool:
    """Tell whether maps of `count` bytes that are read `passes` times are to be left in the page cache."""
    return passes > _FEW_PASSES and count < _available_memory() * _CACHE_SHARE


def _available_memory() -> int:
    """Return the bytes that may be taken: of the machine's, and of this process's own limits, in which mapped files count."""
    used = psutil.Process().memory_info()
    available = [int(psutil.virtual_memory().available)]
    for limit, taken in ((resource.RLIMIT_AS, used.vms), (resource.RLIMIT_DATA, getattr(used, "data", used.vms))):
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY:
            available.append(max(0, most - taken))
    return min(available)


class StoreSource:
    """A map source that reads a feature store: rows of images and views, found by content."""

    def __init__(
        self,
        store: FeatureStore,
        layers: Sequence[LayerInfo],
        entries: tuple[Entry, ...],
        items: list[Item],
        canvas_hw: tuple[int, int],
        *,
        keep_cached: bool,
    ) -> None:
        self.layers = tuple(layers)
        self.canvas_hw = canvas_hw
        names = [layer.name for layer in layers]
        self._reader: MapReader = store.reader(names, keep_cached=keep_cached)
        rows = store.rows(row_keys(entries, items), names)
        self._rows = {item: int(row) for item, row in zip(items, rows, strict=True)}

    def maps(self, items: Sequence[Item]) -> list[Tensor]:
        """Return one map per layer, each (len(items), h, w, C), in the type they are kept in (float32 for uint8)."""
        rows = np.array([self._rows[item] for item in items])
        return [read_tensor(self._reader, layer.name, rows) for layer in self.layers]

    def maps_apart(self, items: Sequence[Item]) -> list[LayerMap]:
        """Return the same, one map for each image where rows are mapped: nothing is copied, or read before it is looked at."""
        if len(items) == 1 or not self._reader.gives_views:
            return list(self.maps(items))
        rows = [self._rows[item] for item in items]
        return [[read_tensor(self._reader, layer.name, [row])[0] for row in rows] for layer in self.layers]

    def gather(self, item: Item, points_xy: Tensor, frame: Frame) -> Tensor:
        """Return the hypercolumns of one image at canvas positions, reading only the cells around them."""
        row = self._rows[item]
        stored, scales = zip(*(self._reader.read_row(layer.name, row) for layer in self.layers), strict=True)
        columns = gather_kept(stored, points_xy, self.layers, frame)
        if scales[0] is None:
            return columns
        # The four weights of a point sum to one: what is added to each cell is added to the point.
        scale, offset = torch.from_numpy(np.concatenate([values.reshape(2, -1) for values in scales], axis=1))
        return columns.mul_(scale).add_(offset)

    def select(self, names: Sequence[str]) -> StoreSource:
        """Return a source of some of the layers, which alone are read."""
        chosen = copy.copy(self)
        chosen.layers = select_layers(self.layers, names)
        return chosen


def read_tensor(reader: MapReader, layer: str, rows: Sequence[int] | np.ndarray) -> Tensor:
    """Read whole maps (B, h, w, C) as a tensor of the type they are kept in; float32 for uint8."""
    stored, scale_offset = reader.read_stored(layer, rows)
    return _tensor(stored) if scale_offset is None else dequantise(stored, scale_offset)


def _tensor(values: np.ndarray) -> Tensor:
    # torch takes no read-only memory; a copy also moves the page-cache read to where the caller wants it.
    return as_tensor(values if values.flags.writeable else np.array(values))
