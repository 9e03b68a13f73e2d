"""What more processes bring: extraction on Dask workers of one thread against processes of their own; commits to one store."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path

from benchmarks.clusters import call_program, dask_cluster, prefect_server, run_in_turns, wait_for_server
from benchmarks.measuring import Figure, scratch
from hypercolumns.specs import ExperimentSpec, parse_spec
from tasks.jobs import Job
from tasks.prepare import prepare_dataset

__all__ = ["commits", "scaling"]

_IMAGES = 128
_ROUNDS = 3
_SIDE = 224
_COMMITS = 60
_TARGET = 1.7

_WARM_IMAGES = 64
"""Four parts, so that each of two workers has done one before: a new worker builds the backbone first."""

_ALONE = """
import json, shutil, sys
from pathlib import Path
import torch
from hypercolumns.allocator import keep_freed_memory
from hypercolumns.specs import ExperimentSpec, parse_spec
from tasks.extract import extract_features
from tasks.jobs import Job
from tasks.prepare import prepare_dataset
torch.set_num_threads(1)
keep_freed_memory()
warm, measured = (Job(spec=parse_spec(ExperimentSpec, json.loads(text)), workspace=Path(sys.argv[3])) for text in sys.argv[1:3])
extract_features(warm, prepare_dataset(warm))
prepared = prepare_dataset(measured)
print("ready", flush=True)
for _ in sys.stdin:
    shutil.rmtree(measured.places.stores)
    print(extract_features(measured, prepared).seconds, flush=True)
"""
"""One process of one thread: it warms up, says that it is ready, and begins whenever it is told."""

_TOGETHER = """
import json, os, shutil, signal, sys
from pathlib import Path
from hypercolumns.specs import ExperimentSpec, parse_spec
from flows.extract_features import extract_features
from tasks.cluster import Cluster
for turn in sys.argv[1:]:
    text, workspace, address, own, others = json.loads(turn)
    for number, processes in ((signal.SIGSTOP, others), (signal.SIGCONT, own)):
        for process in processes:
            os.kill(process, number)
    shutil.rmtree(Path(workspace) / "stores", ignore_errors=True)
    spec = parse_spec(ExperimentSpec, json.loads(text))
    found = extract_features(config=spec, workspace=Path(workspace), cluster=Cluster(dask_address=address))
    print(found.timings["extract"], flush=True)
"""
"""The flow on one cluster after the other, each time without a store; the other stands still: idle, it uses processor time."""

_COMMITTING = """
import sys, time
from pathlib import Path
import numpy as np
from storage.features import FeatureStore, ShardWriter
store = FeatureStore.create_or_open(Path(sys.argv[1]), {"made": "for a benchmark"}, shard_images=1)
store.declare_layers({"a": (1, 1, 16)})
keys = tuple(f"{int(sys.argv[2]) + number:064x}:identity" for number in range(int(sys.argv[3])))
print("ready", flush=True)
sys.stdin.readline()
start = time.perf_counter()
while isinstance(writer := store.claim(keys, ["a"]), ShardWriter):
    with writer:
        writer.write(0, {"a": np.ones((1, 1, 1, 16), np.float16)})
print(time.perf_counter() - start, flush=True)
"""
"""A writer whose shards hold next to nothing: what is left is claiming, publishing and committing."""


def scaling() -> list[Figure]:
    """Extract on one and two workers, and in one and two independent processes."""
    with scratch() as folder:
        return _extraction(folder)


def commits() -> list[Figure]:
    """Commit shards that hold next to nothing to one store, with one, two and four processes."""
    with scratch() as folder:
        return [_committing(folder / f"commits-{writers}", writers) for writers in (1, 2, 4)]


def _extraction(folder: Path) -> list[Figure]:
    warm, text = _experiment(_WARM_IMAGES), _experiment(_IMAGES)
    first, *others = workspaces = [folder / name for name in ("one", "a", "b", "on-1", "on-2")]
    for experiment in (warm, text):
        prepare_dataset(Job(spec=parse_spec(ExperimentSpec, json.loads(experiment)), workspace=first))
    for workspace in others:
        shutil.copytree(first / "datasets", workspace / "datasets")
    programs = [[_ALONE, warm, text, str(path)] for path in workspaces[:3]]
    measured = [[max(numbers) for numbers in turn] for turn in run_in_turns([programs[:1], programs[1:]], _ROUNDS)]
    measured += _on_clusters(folder, warm, text, workspaces[3:])
    one, two, on_one, on_two = map(statistics.median, measured)
    ceiling = 2 * one / two
    names = ("seconds_one_process", "seconds_two_processes", "seconds_one_worker", "seconds_two_workers")
    details = {"images": _IMAGES, **dict(zip(names, measured, strict=True))}
    return [
        Figure("extraction, two workers against one", on_one / on_two, min(_TARGET, ceiling), details=details),
        Figure("extraction, two independent processes against one: the ceiling", ceiling, None, details=details),
        Figure("extraction, one worker's rate of one process's", one / on_one, None, details=details),
    ]


def _experiment(images: int) -> str:
    values = {
        "dataset": {"kind": "shapes", "shapes": {"images": images, "size": _SIDE, "seed": images}},
        "backbone": {"name": "vgg11", "weights": "random:0", "layers": ["features.18"]},
        "store": {"canvas": {"size_hw": [_SIDE, _SIDE]}, "shard_images": 16},
    }
    return json.dumps(values)


def _on_clusters(folder: Path, warm: str, text: str, workspaces: list[Path]) -> list[list[float]]:
    """Return the seconds of each round's extraction on one worker, and those on two."""
    with (
        prefect_server(folder / "prefect") as settings,
        dask_cluster(folder / "dask-1", 1) as one,
        dask_cluster(folder / "dask-2", 2) as two,
    ):
        wait_for_server(settings)
        places = list(zip(map(str, workspaces), (one, two), (two, one), strict=True))
        turns = [
            json.dumps([experiment, workspace, own.address, own.processes, other.processes])
            for experiment in [warm, *[text] * _ROUNDS]
            for workspace, own, other in places
        ]
        _, _, *seconds = map(float, call_program(_TOGETHER, *turns, settings=settings).split())
        return [seconds[::2], seconds[1::2]]


def _committing(root: Path, writers: int) -> Figure:
    share = _COMMITS // writers
    ((seconds,),) = run_in_turns([[[_COMMITTING, str(root), str(writer * share), str(share)] for writer in range(writers)]])
    return Figure(f"commits a second of one store, {writers} writers", writers * share / max(seconds), None, "/s")
