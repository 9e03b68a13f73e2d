"""What those who operate it wait for, and what its checks of data find."""

from __future__ import annotations

import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measuring import Figure, scratch
from cli.service.api import Api
from hypercolumns.datasets.lookalikes import difference_hash, lookalikes
from hypercolumns.datasets.shapes.scene import render_scene
from hypercolumns.nights import ChecksSpec

__all__ = ["coming_up", "finding_lookalikes"]

_ROOT = Path(__file__).parents[1]
_ROUNDS = 3
_READY_SECONDS = 60.0
_SCENES, _SCENE_HW = 120, (240, 320)


def coming_up() -> list[Figure]:
    """Time `hypercolumns up` in an empty workspace: until its pages can be opened, and until a run triggered then runs."""
    measured = []
    for _ in range(_ROUNDS):
        with scratch() as folder:
            measured.append(_seconds_to_a_run(folder))
    ready, running = map(statistics.median, zip(*measured, strict=True))
    details = {"rounds": measured}
    return [
        Figure("up: until the pages' address, seconds", ready, None, "s", at_most=True, details=details),
        Figure("up: until a triggered run runs, seconds", running, _READY_SECONDS, "s", at_most=True, details=details),
    ]


def _seconds_to_a_run(workspace: Path) -> tuple[float, float]:
    program = str(Path(sys.executable).with_name("hypercolumns"))
    command = [program, "up", "--port", "0", "--json", "--workspace", str(workspace)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    begun = time.perf_counter()
    with subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            if process.stdout is None:
                raise RuntimeError("expected a pipe from `hypercolumns up`, got none")
            said = json.loads(process.stdout.readline())
            ready = time.perf_counter() - begun
            with Api(said["api"]) as api:
                deployment = api.get("deployments/name/run-experiment/run-experiment")["id"]
                run = api.post(f"deployments/{deployment}/create_flow_run")["id"]
                while api.get(f"flow_runs/{run}")["state"]["type"] != "RUNNING":
                    time.sleep(0.1)
            return ready, time.perf_counter() - begun
        finally:
            process.terminate()


def finding_lookalikes() -> list[Figure]:
    """Count the copies that are found, and the different scenes that are taken for copies, at the default distance."""
    scenes = [render_scene(0, index, _SCENE_HW).image for index in range(_SCENES)]
    hashes = [difference_hash(scene) for scene in scenes]
    distance = ChecksSpec().max_hash_distance
    pairs = list(itertools.combinations(range(_SCENES), 2))
    taken = sum(bool(lookalikes([hashes[first]], [hashes[second]], distance)) for first, second in pairs)
    details = {"scenes": _SCENES, "pairs": len(pairs), "distance": distance}
    copies = {"recompressed (JPEG, quality 80)": _recompressed, "at half the size": _halved}
    found = {what: [difference_hash(copy(scene)) for scene in scenes] for what, copy in copies.items()}
    return [
        *(
            Figure(
                f"look-alikes: share found of copies {what}",
                sum(bool(lookalikes([one], [other], distance)) for one, other in zip(hashes, others, strict=True)) / _SCENES,
                None,
                "",
                details=details,
            )
            for what, others in found.items()
        ),
        Figure("look-alikes: different scenes taken for copies", float(taken), None, "", at_most=True, details=details),
    ]


def _recompressed(scene: NDArray[np.uint8]) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(scene).save(file, "JPEG", quality=80)
    return np.array(Image.open(file))


def _halved(scene: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.array(Image.fromarray(scene).resize((scene.shape[1] // 2, scene.shape[0] // 2), Image.Resampling.BICUBIC))
