"""Record: what a run was asked for, what each stage did, and how it ended, as it happens."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from hypercolumns.arithmetic import settle_experiment
from hypercolumns.specs import ExperimentSpec
from storage import references
from storage.runs import append, create_run, new_run_id
from storage.workspace import Workspace
from tasks.jobs import Job, Stage

__all__ = ["begin_run", "computed_by", "fail_run", "finish_run", "note_stage", "note_use", "provenance"]

_PACKAGES = ("hypercolumns", "torch", "torchvision", "timm", "numpy", "zarr", "h5py", "prefect", "pillow")


def begin_run(spec: ExperimentSpec, workspace: Path) -> Job:
    """Open a run's record and return its job."""
    places, spec = Workspace(workspace), settle_experiment(spec)
    run_id = new_run_id(spec.name, datetime.now(UTC))
    started = {"spec": spec.model_dump(mode="json"), "provenance": provenance(spec)}
    folder = create_run(places.runs, run_id, started)
    return Job(spec=spec, workspace=places.root, run_dir=folder)


def note_stage(job: Job, name: str, result: Stage) -> None:
    """Record what a stage did; without a run there is nothing to record."""
    if job.run_dir is None:
        return
    data = {
        "name": name,
        "seconds": result.seconds,
        "cached": result.cached,
        "keys": {name: result.key},
        "details": result.model_dump(
            mode="json", exclude={"path", "key", "seconds", "cached", "history", "metrics", "baselines"}
        ),
    }
    append(job.run_dir, "stage", data)


def note_use(job: Job, key: str) -> None:
    """Record that the run is about to look for something of this key, so that nobody removes it; without a run, do nothing."""
    if job.run_dir is not None:
        references.note_use(job.run_dir, key)


def finish_run(job: Job, metrics: dict[str, Any] | None, report: Path | None) -> None:
    """Record the scores and the report, where there are any, and that the run is over."""
    if job.run_dir is None:
        return
    if metrics is not None:
        append(job.run_dir, "metrics", {"metrics": metrics})
    if report is not None:
        append(job.run_dir, "artefact", {"name": "report", "path": job.places.relative(report)})
    append(job.run_dir, "finished", {})


def fail_run(job: Job, error: BaseException) -> None:
    """Record that the run failed, and why."""
    if job.run_dir is not None:
        # A signal is no error of anybody's, and mostly comes without a word.
        interrupted = f"interrupted ({type(error).__name__}); run again, and it resumes"
        append(
            job.run_dir,
            "failed",
            {"error": f"{type(error).__name__}: {error}" if isinstance(error, Exception) else interrupted},
        )


def provenance(spec: ExperimentSpec) -> dict[str, Any]:
    """Describe what the run is made with: code, versions, machine, seeds."""
    return {
        "git commit": _git_commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "torch threads": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        },
        "seeds": {"sample": spec.sample.seed, "pretrain": spec.pretrain.seed, "train": spec.train.seed},
    }


def _git_commit() -> str | None:
    """Return the commit of the code that runs, where it runs from a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def computed_by(device: torch.device) -> dict[str, Any]:
    """Say what decides the last bits of maps that are computed there: beside each shard, so that drift can be judged later."""
    return {
        "torch": torch.__version__,
        "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "processor": _processor(),
    }


@cache
def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
