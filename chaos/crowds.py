"""The concurrency campaign: several processes fill one store with overlapping sets of images, while readers look all the time.

Some run the real extraction, and some of these are killed with their leases in hand. Some write pretended maps and are stopped
(SIGSTOP) until their leases have expired, and go on when another has taken their shards over.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from chaos import pretended
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
from chaos.forking import answer, start
from chaos.outcome import Case, Row, scaled, scratch, tallied
from chaos.sweeping import swept
from chaos.watching import look_at_store, watched
from hypercolumns.specs import ExperimentSpec
from storage.errors import LeaseLostError
from storage.features import FeatureStore
from storage.records import NO_RECORD, RecordLog
from tasks.jobs import Job
from tasks.manifests import load_manifest
from tasks.pretrain import pretrain_classifier
from tasks.sample import sample_pixels
from tasks.train import train_dense
from tasks.work import wanted_work

__all__ = ["campaign", "judged", "reference"]

_CASES = {2: 14, 4: 10, 8: 6}
_SILENT_CASES = 16
_TRAINING_CASES = 8
_SWEPT_CASES = 20
_IMAGES = 28
_SHARD = 4
_LEASE_SECONDS = 0.6
_COUNTED = ("killed", "held")
"""Processes that were killed; writers that were stopped with the store's lock in hand."""


def campaign(scale: float, seed: int) -> list[Row]:
    """Have two, four and eight processes share a store; kill some; stop some."""
    rows = []
    with scratch("crowd") as folder:
        everything = tiny_spec(write_images(folder / "all", range(_IMAGES), _IMAGES // 2))
        prepare_process(everything)
        prints, keys, layers = answer(lambda: reference(folder / "reference", everything))
        for processes, cases in _CASES.items():
            for killed in (False, True):
                run = partial(_shared, folder, prints, keys, layers, processes, killed, seed)
                answers = [run(case) for case in range(scaled(cases, scale))]
                rows.append(_told(f"{processes} processes, one store{', one of them killed' * killed}", answers))
        rows.append(_trained_together(folder / "trained", everything, scaled(_TRAINING_CASES, scale)))
        answers = [_silenced(folder / f"silent-{case}", case, seed) for case in range(scaled(_SILENT_CASES, scale))]
        rows.append(_told("writer silent until its lease expired", answers))
        rows.append(swept(folder / "swept", scaled(_SWEPT_CASES, scale), seed))
    return rows


def _told(fault: str, answers: Sequence[dict[str, Any]]) -> Row:
    twice = max(answer["figures"]["twice"] for answer in answers)
    passes = sum(answer["figures"].get("passes", 0) for answer in answers)
    return tallied(
        fault,
        answers,
        f"{twice:.0f} images computed twice",
        **{"reader passes": passes, **{name: sum(answer["figures"].get(name, 0) for answer in answers) for name in _COUNTED}},
    )


def reference(workspace: Path, spec: ExperimentSpec) -> tuple[Prints, Sequence[str], list[str]]:
    """Extract undisturbed; return what each row's bytes are, all row keys, and the layers."""
    prepared, extracted = extract(spec, workspace)
    work = wanted_work(Job(spec=spec, workspace=workspace), load_manifest(prepared.path))
    layers = list(extracted.cache)
    return fingerprints(FeatureStore.open(extracted.path), work.keys, layers), work.keys, layers


def _shared(
    folder: Path,
    prints: Prints,
    keys: Sequence[str],
    layers: Sequence[str],
    processes: int,
    killed: bool,
    seed: int,
    case: int,
) -> dict[str, Any]:
    """Have processes extract overlapping sets at once, killing one of them if wanted; judge the store they leave."""
    choose = random.Random(f"{seed} {processes} {killed} {case}")
    root = folder / f"{processes}-{killed}-{case}"
    workspace = root / "workspace"
    specs = [_part(root / f"data-{number}", choose) for number in range(processes)]
    begin = time.time() + 0.2
    with watched(partial(look_at_store, workspace, prints), root / "stop") as seen:
        children = [start(partial(_one_of_many, spec, workspace, begin)) for spec in specs]
        if killed:
            time.sleep(choose.uniform(0.25, 0.7))
            children[0].kill()
        endings = [child.end() for child in children]
        # The others may have been done before: what was killed is run again, as its user would.
        endings += [start(partial(_one_of_many, specs[0], workspace, begin)).end() for ending in endings[:1] if ending.signal]
    wrong = [ending.error.strip().splitlines()[-1] for ending in endings if ending.error] + list(seen.wrong)
    wanted = {key for ending in endings if ending.value for key in ending.value["wanted"]}
    done = Counter(key for ending in endings if ending.value for key in ending.value["computed"])
    twice = sum(count - 1 for count in done.values())
    wrong += answer(lambda: judged(workspace, prints, layers, sorted(wanted)))
    if twice:
        wrong.append(f"{twice} images were computed twice though nobody lost a lease")
    shutil.rmtree(root)
    died = sum(bool(ending.signal) for ending in endings)
    figures = {"twice": float(twice), "passes": seen.passes, "killed": float(died)}
    return asdict(Case(f"case {case} of seed {seed}, {processes} processes", None, not wrong, wrong, figures))


def _part(root: Path, choose: random.Random) -> ExperimentSpec:
    names = choose.sample(range(_IMAGES), choose.randint(_IMAGES // 3, _IMAGES - 4))
    return tiny_spec(write_images(root, names, len(names) // 2))


def _one_of_many(spec: ExperimentSpec, workspace: Path, begin: float) -> dict[str, list[str]]:
    """Extract with all others at the same moment; return what was wanted and which rows were committed from here."""
    committed: list[str] = []
    _noted(committed)
    time.sleep(max(0.0, begin - time.time()))
    prepared, _ = extract(spec, workspace)
    work = wanted_work(Job(spec=spec, workspace=workspace), load_manifest(prepared.path))
    return {"wanted": list(work.keys), "computed": committed}


def _noted(committed: list[str]) -> None:
    """Note the rows of every shard that this process commits."""
    from storage.writing import ShardWriter

    real = ShardWriter.commit

    def commit(self: ShardWriter) -> None:
        real(self)
        committed.extend(self.row_keys)

    ShardWriter.commit = commit  # type: ignore[method-assign]


def judged(workspace: Path, prints: Prints, layers: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Say what is wrong with a workspace's store: rows that are not there or not right, rows committed twice, findings."""
    path = store_of(workspace)
    if path is None:
        return ["there is no store"]
    store = FeatureStore.open(path)
    found = fingerprints(store, wanted, layers)
    wrong = [f"{layer} of {key[:8]} is not there" for layer in layers for key in wanted if f"{layer} {key}" not in found]
    wrong += [f"{name} has other bytes" for name, value in found.items() if prints[name] != value]
    log = RecordLog(path / "journal" / "records")
    bodies = [record.body for record in log.follow(0, NO_RECORD) if record.kind == "commit"]
    committed = Counter((layer, key) for body in bodies for layer in body["layers"] for key in body["row_keys"])
    wrong += [f"{layer} of {key[:8]} was committed twice" for (layer, key), count in committed.items() if count > 1]
    return wrong + [f"verify found {f.kind}: {f.what} ({f.path})" for f in store.verify()]


def _trained_together(folder: Path, spec: ExperimentSpec, cases: int) -> Row:
    """Have two processes train the same at the same moment; both must end, with the same weights."""

    def train(workspace: Path, begin: float) -> str:
        job = Job(spec=spec, workspace=workspace)
        prepared, extracted = extract(spec, workspace)
        pretrained = pretrain_classifier(job, prepared, extracted, sample_pixels(job, prepared, extracted))
        time.sleep(max(0.0, begin - time.time()))
        return model_bytes(train_dense(job, prepared, pretrained).path)

    expected = answer(partial(train, folder / "alone", 0.0))
    answers = []
    for case in range(cases):
        begin = time.time() + 1.5
        children = [start(partial(train, folder / f"case-{case}", begin)) for _ in range(2)]
        endings = [child.end() for child in children]
        wrong = [ending.error.strip().splitlines()[-1] for ending in endings if ending.error]
        wrong += ["other weights" for ending in endings if ending.value not in (None, expected)]
        answers.append(asdict(Case(f"case {case}", None, not wrong, wrong, {"twice": 0.0})))
    return tallied("2 processes train the same", answers)


# --- a silent writer -------------------------------------------------------------------------------------------------


def _silenced(root: Path, case: int, seed: int) -> dict[str, Any]:
    """Stop a writer until its lease has expired and another one has finished, then let it go on.

    One that is stopped with the lock in hand holds all others up; they must end and name it, and succeed once it goes on.
    """
    choose = random.Random(f"{seed} silent {case}")
    keys = pretended.keys_of(0, 16)
    root.mkdir()
    silent = start(partial(_pretend, root, keys, 0.03))
    time.sleep(choose.uniform(0.02, 0.3))
    silent.kill(signal.SIGSTOP)
    other = start(partial(_pretend, root, keys, 0.0)).end()
    told = all(text in other.error for text in ("LockedError", f"process {silent.process} (suspended)"))
    silent.kill(signal.SIGCONT)
    if told:
        other = start(partial(_pretend, root, keys, 0.0)).end()
    ended = silent.end()
    wrong = [f"the other one failed: {other.error}"] if other.error else []
    wrong += [f"the silent one failed: {ended.error}"] if ended.error else []
    values = [ending.value for ending in (other, ended) if ending.value]
    done = Counter(tuple(one) for value in values for one in value["done"])
    twice = len({key for (_, key), count in done.items() if count > 1})
    wrong += [f"{twice} images were committed twice"] if twice else []
    wrong += answer(partial(_right, root, keys))
    shutil.rmtree(root)
    lost = sum(value["lost"] for value in values)
    name = f"case {case} of seed {seed}, stopped"
    return asdict(Case(name, None, not wrong, wrong, {"twice": float(lost * _SHARD), "held": float(told)}))


def _pretend(root: Path, keys: Sequence[str], pause: float) -> dict[str, Any]:
    """Extract pretended maps; whoever lost a lease begins again."""
    done: list[list[str]] = []
    store = pretended.opened(root, lease_seconds=_LEASE_SECONDS, shard_images=_SHARD)

    def note(some: list[tuple[str, str]]) -> None:
        done.extend([layer, key] for layer, key in some)

    lost = 0
    while True:
        try:
            pretended.extract(store, keys, pause=pause, ack=note)
        except LeaseLostError:
            lost += 1
            continue
        return {"done": done, "lost": lost}


def _right(root: Path, keys: Sequence[str]) -> list[str]:
    store = pretended.opened(root)
    left = [f"left behind: {path.name}" for path in root.rglob("*.partial")]
    return left + pretended.wrong_rows(store, keys) + [f"verify found {f.kind}: {f.what}" for f in store.verify()]
