"""The kill campaign: what is killed (an extraction, a sampling, a dense training), and what must be true afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from chaos import moments
from chaos.experiments import (
    Prints,
    extract,
    fingerprints,
    model_bytes,
    prepare_process,
    store_of,
    tiny_spec,
    write_images,
)
from chaos.forking import answer, in_parallel
from chaos.killing import Killing, Undisturbed, killed_once, measured
from chaos.outcome import Row, scaled, scratch, tallied
from chaos.watching import look_at_store
from hypercolumns.specs import ExperimentSpec
from storage.canonical import file_sha256
from storage.checkpoints import latest_checkpoint
from storage.errors import StorageError
from storage.features import FeatureStore
from storage.models import load_model
from storage.samples import SampleSet
from tasks.jobs import Job
from tasks.manifests import load_manifest
from tasks.pretrain import pretrain_classifier
from tasks.sample import sample_pixels
from tasks.train import train_dense
from tasks.work import wanted_work

__all__ = ["campaign"]

_IMAGES = 14
_TRAIN = 10
_HARMLESS = frozenset({"partial", "orphan", "metadata", "index"})
"""What `verify` may find after a kill: the remains of what was never committed."""

_EXTRACTIONS, _SAMPLINGS, _TRAININGS = 600, 120, 120


def campaign(scale: float, seed: int) -> list[Row]:
    """Kill extractions, samplings and trainings."""
    with scratch("kill") as folder:
        spec = tiny_spec(write_images(folder / "data", range(_IMAGES), _TRAIN))
        prepare_process(spec)
        return [
            _extractions(folder / "extract", spec, scaled(_EXTRACTIONS, scale), seed),
            _samplings(folder / "sample", spec, scaled(_SAMPLINGS, scale), seed),
            _trainings(folder / "train", spec, scaled(_TRAININGS, scale), seed),
        ]


@dataclass(frozen=True)
class _Plan:
    """All that the cases of one kind share."""

    killing: Killing
    base: Callable[[Path], Path]
    undisturbed: Undisturbed
    folder: Path
    seed: int

    def run(self, case: int) -> dict[str, Any]:
        workspace = self.base(self.folder / f"case-{case}")
        return killed_once(self.killing, workspace, case, self.seed, self.undisturbed)


def _planned(folder: Path, killing: Killing, base: Callable[[Path], Path], seed: int) -> _Plan:
    return _Plan(killing, base, measured(killing, lambda name: base(folder / name)), folder, seed)


def _row(fault: str, plan: _Plan, cases: int, worst: Callable[[list[dict[str, Any]]], str]) -> Row:
    answers = in_parallel(plan.run, range(cases))
    killed = sum(a["figures"]["killed"] for a in answers)
    passes = sum(a["figures"]["passes"] for a in answers)
    rows = sum(a["figures"]["rows"] for a in answers)
    kinds = len(plan.undisturbed.moments)
    figures = {"kills": killed, "moments": kinds, "reader passes": passes, "rows read meanwhile": rows}
    return tallied(fault, answers, worst(answers), **figures)


def _most(name: str, answers: list[dict[str, Any]]) -> dict[str, Any]:
    return max(answers, key=lambda case: case["figures"].get(name, 0.0))


# --- extraction ------------------------------------------------------------------------------------------------------


def _extractions(folder: Path, spec: ExperimentSpec, cases: int, seed: int) -> Row:
    prints, keys, layers = answer(lambda: _reference(folder / "reference", spec))

    def judge(workspace: Path, begun: int) -> tuple[list[str], dict[str, float]]:
        return _judged(workspace, begun, prints, keys, layers)

    def compare(workspace: Path, done: Any, figures: dict[str, float]) -> list[str]:
        wrong = _differences(workspace, prints, keys, layers)
        # Figures hold the largest count seen, which is that of the last judgement: commits only grow.
        if done["computed"] != len(keys) - figures["committed"]:
            wrong.append(f"{done['computed']} images computed again, {len(keys) - figures['committed']} were missing")
        return wrong

    def work(workspace: Path) -> dict[str, int]:
        return {"computed": extract(spec, workspace)[1].images_computed}

    look = partial(_looked, prints)
    plan = _planned(folder, Killing(moments.EXTRACTION, work, look, judge, compare), lambda path: path, seed)

    def worst(answers: list[dict[str, Any]]) -> str:
        case = _most("repeated", answers)
        return (
            f"{case['figures']['repeated']:.0f} images of an interrupted run computed again (a shard holds "
            f"{spec.store.shard_images}, a batch {spec.store.batch_images}); {case['name']}"
        )

    return _row("extraction killed (-9)", plan, cases, worst)


def _looked(prints: Prints, workspace: Path) -> tuple[int, list[str]]:
    return look_at_store(workspace, prints)


def _reference(workspace: Path, spec: ExperimentSpec) -> tuple[Prints, Sequence[str], list[str]]:
    prepared, extracted = extract(spec, workspace)
    work = wanted_work(Job(spec=spec, workspace=workspace), load_manifest(prepared.path))
    layers = list(extracted.cache)
    return fingerprints(FeatureStore.open(extracted.path), work.keys, layers), work.keys, layers


def _judged(
    workspace: Path, begun: int, prints: Prints, keys: Sequence[str], layers: Sequence[str]
) -> tuple[list[str], dict[str, float]]:
    """Look at a store whose writer was killed: all that is committed must be right, all that is wrong uncommitted."""
    path = store_of(workspace)
    if path is None:
        return [], {"committed": 0.0, "repeated": float(begun)}
    store = FeatureStore.open(path)
    wrong = [f"verify found {f.kind}: {f.what} ({f.path})" for f in store.verify() if f.kind not in _HARMLESS]
    declared = [layer for layer in layers if layer in store.layers]
    there = fingerprints(store, keys, declared)
    wrong += [f"{name} has other bytes" for name, value in there.items() if prints[name] != value]
    committed = len(keys) - len(store.missing(keys, layers)) if len(declared) == len(layers) else 0
    return wrong, {"committed": float(committed), "repeated": float(max(0, begun - committed))}


def _differences(workspace: Path, prints: Prints, keys: Sequence[str], layers: Sequence[str]) -> list[str]:
    path = store_of(workspace)
    if path is None:
        return ["there is no store"]
    store = FeatureStore.open(path)
    wrong = [f"verify found {f.kind}: {f.what} ({f.path})" for f in store.verify()]
    found = fingerprints(store, keys, layers)
    wrong += [f"{name} differs from the undisturbed run" for name in prints if found.get(name) != prints[name]]
    return wrong + [f"left behind: {p.relative_to(path)}" for p in path.rglob("*.partial")]


# --- sampling --------------------------------------------------------------------------------------------------------


def _copied(base: Path, path: Path) -> Path:
    shutil.copytree(base, path)
    return path


def _samplings(folder: Path, spec: ExperimentSpec, cases: int, seed: int) -> Row:
    base = folder / "base"
    folder.mkdir()
    answer(lambda: extract(spec, base) and None)

    def work(workspace: Path) -> str:
        prepared, extracted = extract(spec, workspace)
        return file_sha256(sample_pixels(Job(spec=spec, workspace=workspace), prepared, extracted).path)

    expected = answer(lambda: work(_copied(base, folder / "reference")))

    def look(workspace: Path) -> tuple[int, list[str]]:
        """A sample set that has its name is whole."""
        found = list(workspace.glob("samples/*.h5"))
        try:
            for path in found:
                with SampleSet.open(path) as samples:
                    samples.verify()
        except StorageError as error:
            return 0, [f"a half-written sample set was seen: {error}"]
        return len(found), []

    def judge(workspace: Path, begun: int) -> tuple[list[str], dict[str, float]]:
        return look(workspace)[1], {"begun": float(begun)}

    def compare(workspace: Path, done: Any, _: dict[str, float]) -> list[str]:
        left = [f"left behind: {path.name}" for path in workspace.glob("samples/*.partial")]
        return left + ([] if done == expected else ["the sample set differs from the undisturbed run's"])

    killing = Killing(moments.SAMPLING, work, look, judge, compare)
    plan = _planned(folder, killing, lambda path: _copied(base, path), seed)
    return _row("sample-set writer killed (-9)", plan, cases, lambda _: "the whole set is drawn again (it is one file)")


# --- training --------------------------------------------------------------------------------------------------------


def _trainings(folder: Path, spec: ExperimentSpec, cases: int, seed: int) -> Row:
    base = folder / "base"
    folder.mkdir()

    def before(workspace: Path) -> Any:
        job = Job(spec=spec, workspace=workspace)
        prepared, extracted = extract(spec, workspace)
        return prepared, pretrain_classifier(job, prepared, extracted, sample_pixels(job, prepared, extracted))

    answer(lambda: before(base) and None)

    def work(workspace: Path) -> dict[str, Any]:
        trained = train_dense(Job(spec=spec, workspace=workspace), *before(workspace))
        return {"bits": model_bytes(trained.path), "resumed": trained.history["resumed_from"]}

    expected = answer(lambda: work(_copied(base, folder / "reference")))["bits"]

    def compare(workspace: Path, done: Any, figures: dict[str, float]) -> list[str]:
        left = [f"left behind: {path.name}" for path in workspace.glob("models/*.partial")]
        if done["resumed"] < figures["epoch"] and not figures["trained"]:
            left.append(f"resumed after epoch {done['resumed']}, epoch {figures['epoch']:.0f} was kept")
        return left + ([] if done["bits"] == expected else ["the weights are not bit-identical to the undisturbed run's"])

    killing = Killing(moments.TRAINING, work, _look_at_models, _judge_training, compare)
    plan = _planned(folder, killing, lambda path: _copied(base, path), seed)
    return _row("training killed (-9)", plan, cases, lambda _: "one epoch is trained again (a checkpoint an epoch)")


def _look_at_models(workspace: Path) -> tuple[int, list[str]]:
    """A model that has its name is whole."""
    wrong, count = [], 0
    for path in workspace.glob("models/*"):
        if not path.name.endswith(".partial"):
            count += 1
            try:
                load_model(path)
            except StorageError as error:
                wrong.append(f"a half-written model was seen: {error}")
    return count, wrong


def _judge_training(workspace: Path, _: int) -> tuple[list[str], dict[str, float]]:
    """Return what is wrong with models, the latest epoch that a rerun can begin after, and whether the model is there."""
    count, wrong = _look_at_models(workspace)
    kept = [latest_checkpoint(path) for path in workspace.glob("checkpoints/*")]
    # The sparse classifier lies there from the beginning.
    return wrong, {"epoch": float(max((k.epoch for k in kept if k is not None), default=0)), "trained": float(count > 1)}
