"""gc during runs: a sweeper removes what no run uses, all the time, while processes run whole experiments, some of them killed.

May not remove anything that a run's record names; what nobody names must be gone in the end.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from chaos.experiments import extract, model_bytes, tiny_spec, write_images
from chaos.forking import Child, Ending, answer, start
from chaos.outcome import Case, Row, tallied
from chaos.watching import watched
from hypercolumns.specs import ExperimentSpec
from storage.features import FeatureStore
from storage.garbage import sweep
from storage.samples import SampleSet
from storage.workspace import Workspace
from tasks.extract import extract_features
from tasks.prepare import prepare_dataset
from tasks.pretrain import pretrain_classifier
from tasks.record import begin_run, finish_run, note_stage
from tasks.sample import sample_pixels
from tasks.train import train_dense

__all__ = ["swept"]

_IMAGES = 16


def swept(folder: Path, cases: int, seed: int) -> Row:
    """Run experiments that share a store while everything unnamed is removed again and again.

    Args:
        folder: Where the workspaces of the cases are made; must not exist.
        cases: How many.
        seed: Of the moments of the kills.
    """
    whole = tiny_spec(write_images(folder / "all", range(_IMAGES), _IMAGES // 2))
    part = tiny_spec(write_images(folder / "part", range(4, _IMAGES), _IMAGES // 2))
    specs = (whole, part)
    expected = [answer(partial(_run, spec, folder / f"alone-{number}"))["weights"] for number, spec in enumerate(specs)]
    answers = [_case(folder / f"case-{case}", specs, expected, case, seed) for case in range(cases)]
    figures = {name: sum(told["figures"][name] for told in answers) for name in ("sweeps", "removed", "killed")}
    return tallied("gc all the time, 2 processes run", answers, **figures)


def _case(root: Path, specs: Sequence[ExperimentSpec], expected: Sequence[str], case: int, seed: int) -> dict[str, Any]:
    choose = random.Random(f"{seed} swept {case}")
    workspace = root / "workspace"
    garbage = answer(partial(_leave_garbage, specs[0], workspace))
    with watched(partial(_sweep, workspace), root / "stop") as seen:
        children = [start(partial(_run, spec, workspace)) for spec in specs]
        if case % 2:
            time.sleep(choose.uniform(0.1, 1.5))
            children[0].kill()
        endings = _ended(children, specs, workspace)
    wrong = [ending.error.strip().splitlines()[-1] for _, ending in endings if ending.error] + list(seen.wrong)
    for number, ending in endings:
        if ending.value is not None:
            wrong += answer(partial(_missing, workspace, ending.value, expected[number]))
    if Path(garbage).exists():
        wrong.append(f"what nobody names is still there: {garbage}")
    shutil.rmtree(root)
    died = sum(bool(ending.signal) for _, ending in endings)
    figures = {"sweeps": float(seen.passes), "removed": float(seen.rows), "killed": float(died)}
    return asdict(Case(f"case {case} of seed {seed}, gc", None, not wrong, wrong, figures))


def _ended(children: Sequence[Child], specs: Sequence[ExperimentSpec], workspace: Path) -> list[tuple[int, Ending]]:
    """Wait for all; whoever was killed is run again."""
    endings = [(number, child.end()) for number, child in enumerate(children)]
    again = [number for number, ending in endings if ending.signal]
    return endings + [(number, start(partial(_run, specs[number], workspace)).end()) for number in again]


def _leave_garbage(spec: ExperimentSpec, workspace: Path) -> str:
    """Extract without a record, so that no run names the store."""
    other = spec.model_copy(update={"store": spec.store.model_copy(update={"dtype": "float32"})})
    return str(extract(other, workspace)[1].path)


def _sweep(workspace: Path) -> tuple[int, list[str]]:
    found = sweep(Workspace(workspace), 0.0, remove=True)
    return len(found.garbage), [f"gc was blocked: {reason}" for reason in found.blocked]


def _run(spec: ExperimentSpec, workspace: Path) -> dict[str, Any]:
    """Run an experiment with its record; return what must be there afterwards."""
    job = begin_run(spec, workspace)
    prepared = prepare_dataset(job)
    note_stage(job, "prepare", prepared)
    extracted = extract_features(job, prepared)
    note_stage(job, "extract", extracted)
    sampled = sample_pixels(job, prepared, extracted)
    note_stage(job, "sample", sampled)
    pretrained = pretrain_classifier(job, prepared, extracted, sampled)
    note_stage(job, "pretrain", pretrained)
    trained = train_dense(job, prepared, pretrained)
    note_stage(job, "train", trained)
    finish_run(job, None, None)
    paths = {name: str(stage.path) for name, stage in (("manifest", prepared), ("store", extracted), ("samples", sampled))}
    return {**paths, "model": str(trained.path), "weights": model_bytes(trained.path)}


def _missing(workspace: Path, made: dict[str, Any], weights: str) -> list[str]:
    """Say what a finished run names and is gone, damaged or other than it would be without a sweeper."""
    gone = [f"{name} is gone" for name in ("manifest", "store", "samples", "model") if not Path(made[name]).exists()]
    if gone:
        return gone
    wrong = [f"verify found {finding.kind}: {finding.what}" for finding in FeatureStore.open(Path(made["store"])).verify()]
    with SampleSet.open(Path(made["samples"])) as samples:
        wrong += [] if len(samples) else ["the sample set is empty"]
    if model_bytes(Path(made["model"])) != weights or made["weights"] != weights:
        wrong.append("other weights than without a sweeper")
    left = [item.path for item in sweep(Workspace(workspace), 0.0, remove=False).garbage]
    return wrong + [f"gc would remove {path}" for path in left if any(path in str(made[name]) for name in ("store", "model"))]
