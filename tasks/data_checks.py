"""Check the data before anything is trained on them: against each other, and against what the champion was trained on.

What is found is a warning, or stops the night, as the parameters say. Labels are compared by content, never by date.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hypercolumns.datasets.lookalikes import difference_hash, lookalikes
from hypercolumns.errors import DatasetError
from hypercolumns.nights import ChecksSpec, Reaction
from storage.canonical import read_json
from storage.errors import FormatError
from storage.publish import replace_bytes
from tasks.jobs import Job, Message, Prepared, Stage
from tasks.manifests import Entry, Manifest, load_manifest

__all__ = ["Checked", "Finding", "check_data"]

_logger = logging.getLogger("hypercolumns.tasks")
_THREADS = 4
_NAMED = 3
_HASHES = "lookalikes.json"
"""Perceptual hashes by the images' sha256: derived, so that an image is decoded for them once."""


class Finding(Message):
    """Something about the data that may spoil a training."""

    check: str
    reaction: Reaction
    message: str


class Checked(Stage):
    """What was found; nothing of it stopped the night."""

    findings: tuple[Finding, ...]


def check_data(job: Job, prepared: Prepared, former_path: Path | None, spec: ChecksSpec) -> Checked:
    """Check an experiment's data.

    Args:
        job: The experiment.
        prepared: Its data set.
        former_path: The manifest that the champion was trained on; None where there is none to compare with.
        spec: What to look for, and what to do about it.

    Raises:
        DatasetError: something was found that stops by parameter; names all of it.
    """
    start = time.perf_counter()
    manifest = load_manifest(prepared.path)
    former = None if former_path is None else load_manifest(former_path)
    found = [*_of_classes(job, manifest, former, spec), *_of_splits(job, manifest, former, spec)]
    for finding in found:
        _logger.warning("data check %s: %s", finding.check, finding.message)
    stopping = [finding for finding in found if finding.reaction == "stop"]
    if stopping:
        told = "; ".join(f"{finding.message} (checks.{finding.check})" for finding in stopping)
        raise DatasetError(f"{told}. Nothing was trained. Remedy: correct the data, or set the check to `warn` to go on")
    return Checked(
        key=prepared.key, path=prepared.path, cached=False, seconds=time.perf_counter() - start, findings=tuple(found)
    )


def _of_classes(job: Job, manifest: Manifest, former: Manifest | None, spec: ChecksSpec) -> list[Finding]:
    if former is None:
        return []
    now, before = _pixels(manifest, job.spec.dataset.train_split), _pixels(former, next(iter(former.splits)))
    found = []
    vanished = [f"{name} (had {count} pixels)" for name, count in before.items() if count and not now.get(name)]
    if vanished and spec.class_vanished != "off":
        text = f"no labelled train pixel any more of {', '.join(vanished)}"
        found.append(Finding(check="class_vanished", reaction=spec.class_vanished, message=text))
    new = [f"{name} ({count} pixels)" for name, count in now.items() if count and not before.get(name)]
    if new and spec.new_class != "off":
        text = f"labelled train pixels of what the champion never learned: {', '.join(new)}"
        found.append(Finding(check="new_class", reaction=spec.new_class, message=text))
    if spec.label_drift != "off" and (text := _drift(now, before, spec.max_label_drift)):
        found.append(Finding(check="label_drift", reaction=spec.label_drift, message=text))
    return found


def _drift(now: dict[str, int], before: dict[str, int], most: float) -> str:
    """Say how far the classes' shares moved, in total variation; nothing if no further than `most`."""
    totals = sum(now.values()), sum(before.values())
    if not all(totals):
        return ""
    names = dict.fromkeys((*now, *before))
    moved = {name: now.get(name, 0) / totals[0] - before.get(name, 0) / totals[1] for name in names}
    distance = sum(map(abs, moved.values())) / 2
    if distance <= most:
        return ""
    largest = sorted(moved, key=lambda name: -abs(moved[name]))[:_NAMED]
    told = ", ".join(f"{name} {100 * moved[name]:+.1f} points" for name in largest)
    return f"{100 * distance:.1f} % of the labelled train pixels moved from one class to another, most: {told}"


def _pixels(manifest: Manifest, split: str) -> dict[str, int]:
    counts = [sum(column) for column in zip(*(entry.class_pixels for entry in manifest.splits[split]), strict=True)]
    return dict(zip(manifest.class_names, counts or [0] * manifest.classes, strict=True))


def _of_splits(job: Job, manifest: Manifest, former: Manifest | None, spec: ChecksSpec) -> list[Finding]:
    train, val = (manifest.splits[name] for name in (job.spec.dataset.train_split, job.spec.dataset.val_split))
    found = []
    if spec.duplicates != "off":
        known = {entry.image_sha256: entry.image_id for entry in train}
        pairs = [f"{known[e.image_sha256]} = {e.image_id}" for e in val if e.image_sha256 in known]
        if pairs:
            text = f"{len(pairs)} images are in train and in val: {_some(pairs)}"
            found.append(Finding(check="duplicates", reaction=spec.duplicates, message=text))
        learned = _learned(former) - set(known)
        seen = [entry.image_id for entry in val if entry.image_sha256 in learned]
        if seen:
            text = f"{len(seen)} val images are among those that the champion learned from, which flatters it: {_some(seen)}"
            found.append(Finding(check="duplicates", reaction=spec.duplicates, message=text))
    if spec.near_duplicates != "off":
        same = {entry.image_sha256 for entry in train} & {entry.image_sha256 for entry in val}
        hashes = _hashes(job, manifest, (*train, *val))
        left, right = ([None if e.image_sha256 in same else hashes[e.image_sha256] for e in side] for side in (train, val))
        pairs = [f"{train[a].image_id} ~ {val[b].image_id}" for a, b in lookalikes(left, right, spec.max_hash_distance)]
        if pairs:
            text = f"{len(pairs)} pairs of a train and a val image look alike: {_some(pairs)}"
            found.append(Finding(check="near_duplicates", reaction=spec.near_duplicates, message=text))
    return found


def _learned(former: Manifest | None) -> set[str]:
    """Return the images that a champion was trained on."""
    return set() if former is None else {entry.image_sha256 for entry in next(iter(former.splits.values()))}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _hashes(job: Job, manifest: Manifest, entries: Sequence[Entry]) -> dict[str, int | None]:
    """Return the images' perceptual hashes by content, reckoning those that no earlier night reckoned."""
    path = job.places.datasets / _HASHES
    known = _kept_hashes(path)
    missing = {entry.image_sha256: entry for entry in entries if entry.image_sha256 not in known}
    if missing:
        with ThreadPoolExecutor(_THREADS) as executor:
            values = executor.map(lambda entry: difference_hash(manifest.image(entry)), missing.values())
            known |= dict(zip(missing, values, strict=True))
        lines = ",\n".join(f'"{key}": {"null" if value is None else value}' for key, value in sorted(known.items()))
        replace_bytes(path, f"{{\n{lines}\n}}\n".encode())
    return known


def _kept_hashes(path: Path) -> dict[str, int | None]:
    if not path.exists():
        return {}
    try:
        kept = read_json(path)
    except FormatError:
        # Derived: reckoned again.
        return {}
    return {key: value for key, value in kept.items() if value is None or (type(value) is int and 0 <= value < 2**64)}
