"""Drift: extract a few images of a store again, and compare what is stored with what would be stored today.

Bytes are expected to be the same when the store's records name this version of torch, this device and processor, and as many
threads. Even then the last digit may differ, because an image's maps may round otherwise beside other images of its batch: so
what counts as a defect is a difference of more than one step of the stored type at the layer's largest value.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from hypercolumns.extraction import Batch, extract_maps
from hypercolumns.specs import StoreSpec
from storage.backends import store_exists
from storage.core import store_key
from storage.encoding import decode, encode, quantise, stored_dtype
from storage.errors import NonFiniteError, RowsMissingError
from storage.features import FeatureStore
from storage.reading import MapReader
from tasks.arrays import as_array, cast_numbers
from tasks.device import compute_device
from tasks.jobs import Job, Prepared
from tasks.manifests import load_manifest
from tasks.record import computed_by
from tasks.stores import canvas_loader, experiment_backbone, key_fields
from tasks.work import wanted_work

__all__ = ["Drift", "LayerDrift", "measure_drift"]

_STEP = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "uint8": 2.0 / 255, "float32": 2.0**-16}
"""One step of each type, of the layer's largest magnitude; for float32 what the order of sums may change."""
_BFLOAT16_COMPUTED = 2.0**-5
"""The same, where the backbone computes in bfloat16: its own rounding is coarser than the store's."""


class LayerDrift(BaseModel):
    """How far a layer's stored maps are from what is computed today."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_abs: float = Field(description="largest difference")
    max_ulp: int = Field(description="the same in steps of the stored type at each value")
    identical: bool
    tolerance: float = Field(description="what max_abs may be where bytes are expected to be the same")


class Drift(BaseModel):
    """What was compared, and how far it is off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    path: Path
    row_keys: tuple[str, ...] = Field(description="images and views that were extracted again")
    expected_identical: bool
    why: str = Field(description="what is the same as when they were stored, or what is not")
    layers: dict[str, LayerDrift]

    @property
    def is_defect(self) -> bool:
        """Whether bytes that were expected to be the same are further off than rounding explains."""
        return self.expected_identical and any(layer.max_abs > layer.tolerance for layer in self.layers.values())


def measure_drift(job: Job, prepared: Prepared, images: int, seed: int = 0) -> Drift:
    """Extract some images of the experiment's store again, at random, and compare.

    Args:
        job: The experiment.
        prepared: Its checked data set.
        images: How many images and views; fewer if there are fewer.
        seed: Chooses them.

    Raises:
        RowsMissingError: the experiment has nothing in the store.
        DamagedError: a chosen row's bytes are not those committed.
    """
    manifest, backbone = load_manifest(prepared.path), experiment_backbone(job.spec)
    work, names = wanted_work(job, manifest), [layer.name for layer in backbone.layers]
    store = _open(job, key_fields(backbone, job.spec.store))
    missing = set(store.missing(work.keys, names))
    there = [key for key in work.keys if key not in missing]
    if not there:
        raise RowsMissingError(
            f"{store.path}: expected images of the experiment with all its layers, found none; extract first"
        )
    picks = np.random.default_rng(seed).choice(len(there), min(images, len(there)), replace=False)
    chosen = [there[pick] for pick in sorted(picks)]
    comparison = _Comparison(store, names, chosen)
    size, items = job.spec.store.batch_images, [work.items[key] for key in chosen]
    batches = [Batch(items[first : first + size], names) for first in range(0, len(items), size)]
    for part in extract_maps(backbone, canvas_loader(manifest, work.entries, job.spec), batches):
        comparison.compare(part.batch * size + part.first, {name: as_array(values) for name, values in part.maps.items()})
    why = comparison.what_differs()
    return Drift(
        key=store.key,
        path=store.path,
        row_keys=tuple(chosen),
        expected_identical=not why,
        why=why or "torch, device, processor and threads are those of the records",
        layers=comparison.result(job.spec.store),
    )


def _open(job: Job, fields: dict[str, Any]) -> FeatureStore:
    path = job.places.stores / store_key(fields, job.spec.store.dtype)
    if not store_exists(path):
        raise RowsMissingError(f"{path}: expected the experiment's store, found none; extract first: `hypercolumns extract`")
    return FeatureStore.open(path)


class _Comparison:
    """The largest differences per layer, so far."""

    def __init__(self, store: FeatureStore, names: Sequence[str], chosen: Sequence[str]) -> None:
        self._store, self._names = store, names
        self._rows = store.rows(chosen, names)
        self._keys = chosen
        # Not by `store.reader`: looking is no use of a store.
        self._reader = MapReader(store.core, tuple(names), "always", keep_cached=False)
        self._max_abs = dict.fromkeys(names, 0.0)
        self._max_ulp = dict.fromkeys(names, 0)
        self._largest = dict.fromkeys(names, 0.0)

    def compare(self, first: int, maps: dict[str, NDArray[Any]]) -> None:
        """Compare the maps (B, h, w, C) of images from `first` on with those stored."""
        for name, batch in maps.items():
            for place, fresh in enumerate(batch, start=first):
                stored, scale_offset = self._reader.read_stored(name, [self._rows[place]])
                self._compare_row(name, place, stored[0], None if scale_offset is None else scale_offset[:, 0], fresh)

    def _compare_row(
        self, name: str, place: int, stored: NDArray[Any], scale_offset: NDArray[np.float32] | None, fresh: NDArray[Any]
    ) -> None:
        dtype = self._store.dtype
        today, ranges = np.empty(stored.shape, stored_dtype(dtype)), np.empty((2, 1, stored.shape[-1]), np.float32)
        if dtype == "uint8":
            fits = quantise(fresh, today, ranges)
        else:
            fits = encode(dtype, fresh.reshape(-1), today.reshape(-1), cast_numbers)
        if not fits:
            raise NonFiniteError(f"layer {name}, row {self._keys[place]}: a value computed today is not finite as {dtype}")
        before = decode(dtype, stored, scale_offset).astype(np.float64)
        now = decode(dtype, today, ranges if scale_offset is not None else None).astype(np.float64)
        difference = np.abs(before - now)
        if scale_offset is None:
            steps = int(np.abs(_ordered(stored) - _ordered(today)).max())
        else:
            step = np.maximum(scale_offset[0], ranges[0]).astype(np.float64)
            steps = int(np.ceil(np.divide(difference, step, out=np.zeros_like(difference), where=step > 0)).max())
        self._max_abs[name] = max(self._max_abs[name], float(difference.max()))
        self._max_ulp[name] = max(self._max_ulp[name], steps)
        self._largest[name] = max(self._largest[name], float(np.abs(before).max()))

    def what_differs(self) -> str:
        """Say in what the records name another place of computing than this one; nothing if they do not."""
        core = self._store.core
        entries = core.index.entries({int(row) // self._store.shard_images for row in self._rows}, self._names)
        here = computed_by(compute_device())
        differing: dict[str, tuple[Any, Any]] = {}
        for number in sorted({entry.record for entry in entries.values()}):
            record = core.log.read(number)
            said = {} if record is None else dict(record.body.get("recorded", {}))
            differing |= {name: (said.get(name), value) for name, value in here.items() if said.get(name) != value}
        return "; ".join(f"{name} was {then!r}, is {now!r}" for name, (then, now) in differing.items())

    def result(self, spec: StoreSpec) -> dict[str, LayerDrift]:
        """Return what was found."""
        step = max(_STEP[self._store.dtype], _BFLOAT16_COMPUTED if spec.precision == "bfloat16" else 0.0)
        return {
            name: LayerDrift(
                max_abs=self._max_abs[name],
                max_ulp=self._max_ulp[name],
                identical=self._max_abs[name] == 0,
                tolerance=step * self._largest[name],
            )
            for name in self._names
        }


def _ordered(values: NDArray[Any]) -> NDArray[np.int64]:
    """Number the values of a floating-point type in their order, so that neighbours differ by one."""
    bits = values.view(np.dtype(f"i{values.itemsize}")).astype(np.int64)
    # Negative numbers count down from the sign bit; both zeros get the number 0.
    return np.where(bits < 0, -(bits + (1 << (8 * values.itemsize - 1))), bits)
