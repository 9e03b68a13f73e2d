"""Experiments so small that a whole one takes half a second, and what decides whether two of their results are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tqdm
from PIL import Image

from hypercolumns.specs import ExperimentSpec, parse_spec
from storage.features import FeatureStore
from storage.models import load_model
from tasks.extract import extract_features
from tasks.jobs import Extracted, Job, Prepared
from tasks.prepare import prepare_dataset
from tasks.stores import experiment_backbone

__all__ = ["Prints", "extract", "fingerprints", "model_bytes", "prepare_process", "store_of", "tiny_spec", "write_images"]

Prints = dict[str, str]
"""sha256 of a row's bytes, by "layer row-key"."""

_SIDE = 40


def prepare_process(spec: ExperimentSpec) -> None:
    """Have this process ready to fork: one thread, the backbone built once for all children."""
    torch.set_num_threads(1)
    # Its monitor would be a thread.
    tqdm.tqdm.monitor_interval = 0
    experiment_backbone(spec)


def write_images(root: Path, names: Sequence[int], train: int) -> Path:
    """Write a data set of small pictures with masks: picture `n` has the same bytes in every data set.

    Args:
        root: Its folder.
        names: Numbers of the pictures; the first `train` of them are the train split, the others val.
        train: How many.
    """
    root.mkdir(parents=True)
    (root / "classes.txt").write_text("ground\nbox\n", encoding="utf-8")
    for place, name in enumerate(names):
        split = "train" if place < train else "val"
        random = np.random.default_rng(name)
        mask = np.zeros((_SIDE, _SIDE), np.uint8)
        y, x = random.integers(0, _SIDE // 2, 2)
        mask[y : y + 12, x : x + 15] = 1
        picture = random.normal(90, 25, (_SIDE, _SIDE, 3)) + 70.0 * mask[..., None]
        for kind, values in (("images", picture.clip(0, 255).astype(np.uint8)), ("masks", mask)):
            folder = root / kind / split
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(folder / f"{name:04d}.png")
    return root


def tiny_spec(root: Path, **overrides: Any) -> ExperimentSpec:
    """Describe an experiment on such a data set; overrides are `section__key=value`."""
    values: dict[str, Any] = {
        "name": "chaos",
        "dataset": {"kind": "folder", "root": str(root)},
        "backbone": {"name": "squeezenet1_1", "weights": "random:0", "layers": ["features.1", "features.4.cat"]},
        "store": {"canvas": {"size_hw": [32, 32]}, "shard_images": 4, "batch_images": 2},
        "sample": {"pixels_per_class": 8},
        "head": {"hidden": 8, "dropout": 0.2},
        "pretrain": {"epochs": 1, "batch": 64},
        "train": {"epochs": 6, "batch": 2, "loss_stride": 1},
    }
    for path, value in overrides.items():
        section, key = path.split("__")
        values.setdefault(section, {})[key] = value
    return parse_spec(ExperimentSpec, values)


def extract(spec: ExperimentSpec, workspace: Path) -> tuple[Prepared, Extracted]:
    """Prepare and extract."""
    job = Job(spec=spec, workspace=workspace)
    prepared = prepare_dataset(job)
    return prepared, extract_features(job, prepared)


def store_of(workspace: Path) -> Path | None:
    """Return the folder of a workspace's only store; None as long as it has none."""
    found = sorted(workspace.glob("stores/*/journal/records/0000000001.json"))
    return found[0].parents[2] if found else None


def fingerprints(store: FeatureStore, keys: Sequence[str], layers: Sequence[str]) -> Prints:
    """Digest the committed bytes of each row, checksums compared."""
    prints = {}
    for layer in layers:
        absent = set(store.missing(keys, [layer]))
        there = [key for key in keys if key not in absent]
        reader = store.reader([layer], verify_reads="always")
        for key, row in zip(there, store.rows(there, [layer]).tolist(), strict=True):
            stored, scale_offset = reader.read_stored(layer, [row])
            companion = b"" if scale_offset is None else scale_offset.tobytes()
            prints[f"{layer} {key}"] = hashlib.sha256(stored.tobytes() + companion).hexdigest()
    return prints


def model_bytes(folder: Path) -> str:
    """Digest the names and bits of a model's tensors."""
    tensors, _ = load_model(folder)
    checksum = hashlib.sha256()
    for name in sorted(tensors):
        checksum.update(name.encode() + b"\0" + tensors[name].tobytes())
    return checksum.hexdigest()
