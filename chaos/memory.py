"""Extraction and dense training of a set ten times as large as the memory that the process may still take (RLIMIT_DATA)."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from chaos.experiments import extract, prepare_process, store_of, tiny_spec, write_images
from chaos.forking import start
from chaos.outcome import Case, Row, scratch, tallied
from hypercolumns.specs import ExperimentSpec
from storage.features import FeatureStore
from tasks.jobs import Job
from tasks.pretrain import pretrain_classifier
from tasks.sample import sample_pixels
from tasks.train import train_dense

__all__ = ["campaign"]

CAP_BYTES = 256 * 2**20
"""What may be taken beyond what the process has after its imports."""

_SIDE = 256
_IMAGE_BYTES = 127 * 127 * 64 * 2


def campaign(scale: float, seed: int) -> list[Row]:
    """Extract, sample and train under a limit; at a scale below 1 of a set that is three times as large."""
    del seed
    times = 10 if scale >= 1 else 3
    images = -(-times * CAP_BYTES // _IMAGE_BYTES)
    with scratch("memory") as folder:
        spec = tiny_spec(
            write_images(folder / "data", range(images), images - 2),
            backbone__layers=["features.1"],
            store__canvas={"size_hw": [_SIDE, _SIDE]},
            store__shard_images=None,
            sample__pixels_per_class=2,
            head__output_stride=8,
            train__loss_stride=8,
            train__epochs=4,
        )
        prepare_process(spec)
        workspace = folder / "workspace"
        cases = [_case("extraction", lambda: extract(spec, workspace) and None)]
        store = store_of(workspace)
        written = 0 if store is None else FeatureStore.open(store).du()["total"]
        cases.append(_case("sampling and dense training, 4 epochs", lambda: _train(spec, workspace)))
    most = max(case["figures"]["peak"] for case in cases)
    figures = {"cap": CAP_BYTES, "store": written, "times": written / CAP_BYTES}
    worst = (
        f"{most / 2**20:.0f} MiB beyond the imports, of {CAP_BYTES / 2**20:.0f} allowed, for {written / 2**20:.0f} MiB of maps"
    )
    return [tallied("memory capped", cases, worst, **figures)]


def _case(name: str, work: Callable[[], Any]) -> dict[str, Any]:
    def limited() -> int:
        torch.set_num_threads(1)
        before, resident = _status("VmData"), _status("RssAnon")
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (before + CAP_BYTES, hard))
        work()
        return max(0, _status("VmHWM") - _status("RssFile") - _status("RssShmem") - resident)

    ending = start(limited).end(900)
    wrong = [ending.error.strip().splitlines()[-1] or "failed"] if ending.error else []
    wrong += [f"killed by signal {ending.signal}"] if ending.signal else []
    return asdict(Case(name, None, not wrong, wrong, {"peak": float(ending.value or 0)}))


def _train(spec: ExperimentSpec, workspace: Path) -> None:
    job = Job(spec=spec, workspace=workspace)
    prepared, extracted = extract(spec, workspace)
    train_dense(job, prepared, pretrain_classifier(job, prepared, extracted, sample_pixels(job, prepared, extracted)))


def _status(name: str) -> int:
    """Return one of the kernel's counts of this process's memory, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0
