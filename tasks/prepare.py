"""Prepare: generate or open the data set, read every file once, and write down by content what the experiment stands on.

Everything that can be wrong with images and masks is found here, before anything is computed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from hypercolumns.datasets import Dataset, ImageRecord, Rejection, check_dataset, open_dataset
from hypercolumns.datasets.decoding import image_hw, image_sha256
from hypercolumns.datasets.shapes import write_shapes
from hypercolumns.errors import DatasetError, ImageError
from hypercolumns.specs import DatasetSpec
from storage.canonical import digest
from storage.publish import replace_bytes
from tasks.jobs import Job, Prepared
from tasks.manifests import Entry, Manifest, RejectedFile, load_manifest
from tasks.record import note_use

__all__ = ["prepare_dataset"]

_THREADS = 4
_LISTED = 5


def prepare_dataset(job: Job) -> Prepared:
    """Check the data set and write its manifest; the same files give the same manifest, found again without decoding.

    Raises:
        DatasetError: the layout does not fit, no image is left, or (with `on_bad_image: fail`) some file is bad; the first few
            are named, all are listed in `rejected.json`.
    """
    start = time.perf_counter()
    dataset = _open(job)
    spec = job.spec.dataset
    records = {split: dataset.records(split) for split in dict.fromkeys((spec.train_split, spec.val_split))}
    contents = _contents(records)
    found = {s: [[r.image_id, str(r.image_path), *c] for r, c in zip(records[s], contents[s], strict=True)] for s in records}
    rules = spec.model_dump(mode="json", exclude={"shapes", "root"})
    key = digest([found, list(dataset.class_names), rules])
    note_use(job, key)
    path = job.places.datasets / f"{key}.json"
    cached = path.exists()
    if not cached:
        rejections = check_dataset(dataset, tuple(records))
        _refuse(rejections, job)
        manifest = _manifest(dataset, spec, records, contents, rejections)
        _refuse_changes(records, contents)
        replace_bytes(path, manifest.model_dump_json(indent=1).encode())
    manifest = load_manifest(path)
    if manifest.rejected:
        _list_rejected(manifest.rejected, job)
    images = {split: len(entries) for split, entries in manifest.splits.items()}
    return Prepared(
        key=key, path=path, cached=cached, seconds=time.perf_counter() - start, images=images, rejected=len(manifest.rejected)
    )


def _open(job: Job) -> Dataset:
    spec = job.spec.dataset
    if spec.kind != "shapes":
        return open_dataset(spec)
    shapes = spec.shapes
    root = job.places.datasets / f"shapes-{shapes.images}x{shapes.size}-seed{shapes.seed}"
    write_shapes(root, images=shapes.images, size=shapes.size, seed=shapes.seed)
    return open_dataset(spec, shapes_root=root)


def _contents(records: dict[str, tuple[ImageRecord, ...]]) -> dict[str, list[tuple[str | None, str | None]]]:
    with ThreadPoolExecutor(_THREADS) as executor:
        return {split: list(executor.map(_content, found)) for split, found in records.items()}


def _content(record: ImageRecord) -> tuple[str | None, str | None]:
    """Digest an image's and its mask's bytes; None for what cannot be read, which the check names later."""
    return _sha256(record.image_path), None if record.mask_path is None else _sha256(record.mask_path)


def _sha256(path: Path) -> str | None:
    try:
        return image_sha256(path)
    except ImageError:
        return None


def _refuse_changes(
    records: dict[str, tuple[ImageRecord, ...]], contents: dict[str, list[tuple[str | None, str | None]]]
) -> None:
    """Refuse files that were not the same before and after they were looked at: what was seen may belong to neither."""
    now = _contents(records)
    changed = [
        str(record.image_path if before[0] != after[0] else record.mask_path)
        for split, found in records.items()
        for record, before, after in zip(found, contents[split], now[split], strict=True)
        if before != after
    ]
    if changed:
        first = ", ".join(changed[:_LISTED]) + (f" and {len(changed) - _LISTED} more" if len(changed) > _LISTED else "")
        raise DatasetError(
            f"{len(changed)} files changed while they were read: {first}. Remedy: run again, when nobody writes to the data set"
        )


def _refuse(rejections: Sequence[Rejection], job: Job) -> None:
    if not rejections or job.spec.dataset.on_bad_image == "skip":
        return
    listing = _list_rejected([_rejected(rejection) for rejection in rejections], job)
    first = "; ".join(f"{r.path}: {r.reason}. Remedy: {r.remedy}" for r in rejections[:_LISTED])
    more = f" and {len(rejections) - _LISTED} more" if len(rejections) > _LISTED else ""
    raise DatasetError(
        f"{len(rejections)} files cannot be used: {first}{more}. All are listed in {listing}; nothing was computed. "
        "Repair them, or set dataset.on_bad_image=skip to go on without them"
    )


def _list_rejected(rejected: Sequence[RejectedFile], job: Job) -> Path:
    path = (job.run_dir or job.places.datasets) / "rejected.json"
    lines = ",\n".join(entry.model_dump_json() for entry in rejected)
    replace_bytes(path, f"[\n{lines}\n]\n".encode())
    return path


def _rejected(rejection: Rejection) -> RejectedFile:
    return RejectedFile(
        split=rejection.split,
        image_id=rejection.image_id,
        path=rejection.path,
        reason=rejection.reason,
        remedy=rejection.remedy,
    )


def _manifest(
    dataset: Dataset,
    spec: DatasetSpec,
    records: dict[str, tuple[ImageRecord, ...]],
    contents: dict[str, list[tuple[str | None, str | None]]],
    rejections: Sequence[Rejection],
) -> Manifest:
    bad = {(rejection.split, rejection.image_id) for rejection in rejections}
    splits = {}
    for split, found in records.items():
        good = [(r, c) for r, c in zip(found, contents[split], strict=True) if (split, r.image_id) not in bad]
        if not good:
            raise DatasetError(f"split {split!r}: expected at least one usable image, got none out of {len(found)}")
        with ThreadPoolExecutor(_THREADS) as executor:
            splits[split] = tuple(executor.map(lambda pair: _entry(dataset, spec, *pair), good))
    return Manifest(
        dataset=dataset.name,
        class_names=dataset.class_names,
        palette=tuple((int(r), int(g), int(b)) for r, g, b in dataset.palette),
        void_label=spec.void_label,
        max_megapixels=spec.max_megapixels,
        splits=splits,
        rejected=tuple(_rejected(rejection) for rejection in rejections),
    )


def _entry(dataset: Dataset, spec: DatasetSpec, record: ImageRecord, content: tuple[str | None, str | None]) -> Entry:
    labels = dataset.mask(record)
    counts = np.bincount(labels.reshape(-1), minlength=256)[: len(dataset.class_names)]
    return Entry(
        image_id=record.image_id,
        image_path=record.image_path,
        image_sha256=content[0] or image_sha256(record.image_path),
        image_hw=image_hw(record.image_path, max_megapixels=spec.max_megapixels),
        mask_path=record.mask_path,
        mask_sha256=content[1],
        class_pixels=tuple(int(count) for count in counts),
        group=record.group,
    )
