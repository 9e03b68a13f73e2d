"""Experiments so small that a whole one takes a second or two, and all stages of one in a row, without Prefect."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from hypercolumns.specs import ExperimentSpec, parse_spec
from tasks.evaluate import evaluate_model
from tasks.extract import extract_features
from tasks.jobs import Evaluated, Extracted, Job, Prepared, Pretrained, Sampled, Trained
from tasks.plan import check_plan
from tasks.prepare import prepare_dataset
from tasks.pretrain import pretrain_classifier
from tasks.report import Written, write_report
from tasks.sample import sample_pixels
from tasks.train import train_dense

REPOSITORY = Path(__file__).parents[1]
LAYERS = ("features.1", "features.4.cat")


def tiny_values(root: Path, **overrides: Any) -> dict[str, Any]:
    """Describe an experiment on a `folder` data set; overrides are `section__key=value`."""
    values: dict[str, Any] = {
        "name": "tiny",
        "dataset": {"kind": "folder", "root": str(root)},
        "backbone": {"name": "squeezenet1_1", "weights": "random:0", "layers": list(LAYERS)},
        "store": {"canvas": {"size_hw": [64, 64]}},
        "sample": {"pixels_per_class": 8},
        "head": {"hidden": 16},
        "pretrain": {"epochs": 2, "batch": 64},
        "train": {"epochs": 1},
        "evaluate": {"bootstrap": 20, "panels": 1, "baselines": ["majority", "prior"]},
    }
    for path, value in overrides.items():
        *sections, key = path.split("__")
        below = values
        for section in sections:
            below = below.setdefault(section, {})
        below[key] = value
    return values


def tiny_spec(root: Path, **overrides: Any) -> ExperimentSpec:
    """Check the description of an experiment into a spec."""
    return parse_spec(ExperimentSpec, tiny_values(root, **overrides))


def write_config(path: Path, values: Mapping[str, Any]) -> Path:
    """Write an experiment file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(values)), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Outcome:
    """What each stage of an experiment handed back."""

    job: Job
    prepared: Prepared
    extracted: Extracted
    sampled: Sampled
    pretrained: Pretrained
    trained: Trained
    evaluated: Evaluated

    @property
    def stages(self) -> tuple[Any, ...]:
        """All of them, in order."""
        return self.prepared, self.extracted, self.sampled, self.pretrained, self.trained, self.evaluated

    @property
    def misses(self) -> dict[str, int]:
        """How many rows of each layer were computed."""
        return {name: count.misses for name, count in self.extracted.cache.items()}

    def report(self) -> Written:
        """Write the report."""
        return write_report(self.job, *self.stages)


def run_tasks(spec: ExperimentSpec, workspace: Path) -> Outcome:
    """Run all stages but the report."""
    job = Job(spec=spec, workspace=workspace)
    prepared = prepare_dataset(job)
    check_plan(job, prepared)
    extracted = extract_features(job, prepared)
    sampled = sample_pixels(job, prepared, extracted)
    pretrained = pretrain_classifier(job, prepared, extracted, sampled)
    trained = train_dense(job, prepared, pretrained)
    evaluated = evaluate_model(job, prepared, extracted, sampled, pretrained, trained)
    return Outcome(job, prepared, extracted, sampled, pretrained, trained, evaluated)


def extract_only(spec: ExperimentSpec, workspace: Path) -> Extracted:
    """Prepare and extract."""
    job = Job(spec=spec, workspace=workspace)
    return extract_features(job, prepare_dataset(job))


def digests(folder: Path) -> dict[str, str]:
    """Digest every file under a folder, by path; what is rebuilt on opening (SQLite's index, locks) is left out."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("index.sqlite") and path.suffix != ".lock"
    }


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a picture as it is stored: the labels of a palette mask, or (H, W, 3)."""
    with Image.open(path) as picture:
        return np.array(picture)


def python_environment(**more: str) -> dict[str, str]:
    """Return an environment in which a child process finds this checkout, uses one thread, and no settings of the user's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "HYPERCOLUMNS"))}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1", **more}


@contextmanager
def started(arguments: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a process, and end exactly it (asking first) when the block is left."""
    process = subprocess.Popen(arguments, text=True, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        process.communicate()


def python(code: str, *arguments: str) -> list[str]:
    """Return the command that runs code in a fresh interpreter."""
    return [sys.executable, "-c", code, *arguments]
