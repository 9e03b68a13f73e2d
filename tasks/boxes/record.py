"""Record: runs of experiments inside boxes are recorded as all runs are."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypercolumns.box_experiments import BoxExperimentSpec
from storage.runs import create_run, new_run_id
from storage.workspace import Workspace
from tasks.boxes.jobs import BoxJob
from tasks.record import provenance

__all__ = ["begin_box_run", "box_provenance"]


def begin_box_run(spec: BoxExperimentSpec, workspace: Path) -> BoxJob:
    """Open a run's record and return its job."""
    places = Workspace(workspace)
    run_id = new_run_id(spec.name, datetime.now(UTC))
    started = {"spec": spec.model_dump(mode="json"), "provenance": box_provenance(spec)}
    return BoxJob(spec=spec, workspace=places.root, run_dir=create_run(places.runs, run_id, started))


def box_provenance(spec: BoxExperimentSpec) -> dict[str, Any]:
    """Describe what the run is made with: code, versions, machine, seeds."""
    seeds = {"detections": spec.detections.seed, "pairs": spec.pairs.seed, "train": spec.train.seed}
    return provenance(spec.features) | {"seeds": seeds}
