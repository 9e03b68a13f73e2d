"""Experiments inside boxes, so small that a whole one takes a second or two, and their stages in a row, without Prefect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypercolumns.box_experiments import BoxExperimentSpec
from hypercolumns.specs import parse_spec
from tasks.boxes.evaluate import evaluate_boxes
from tasks.boxes.jobs import BoxEvaluated, BoxJob, BoxPrepared, BoxTrained
from tasks.boxes.plan import check_boxes, extract_boxes
from tasks.boxes.prepare import prepare_boxes
from tasks.boxes.report import write_box_report
from tasks.boxes.train import train_head
from tasks.jobs import Extracted
from tests.pipeline_factory import LAYERS


def box_values(**overrides: Any) -> dict[str, Any]:
    """Describe an experiment on generated scenes; overrides are `section__key=value`."""
    values: dict[str, Any] = {
        "name": "tiny-boxes",
        "instances": {"shapes": {"images": 10, "size": 64}, "scenery": "varied", "class_names": ["house", "tree"]},
        "backbone": {"name": "squeezenet1_1", "weights": "random:0", "layers": list(LAYERS)},
        "store": {"canvas": {"size_hw": [64, 64]}},
        "pairs": {"boxes": 12, "side": 10},
        "head": {"grid": 2},
        "train": {"epochs": 1, "batch": 4, "cell_boxes": 6, "cell_pixels": 8, "cell_iterations": 3},
        "evaluate": {"bootstrap": 10, "panels": 1},
    }
    for path, value in overrides.items():
        *sections, key = path.split("__")
        below = values
        for section in sections:
            below = below.setdefault(section, {})
        below[key] = value
    return values


def box_spec(**overrides: Any) -> BoxExperimentSpec:
    """Check the description of an experiment into a spec."""
    return parse_spec(BoxExperimentSpec, box_values(**overrides))


@dataclass(frozen=True)
class BoxOutcome:
    """What each stage of an experiment handed back."""

    job: BoxJob
    prepared: BoxPrepared
    extracted: Extracted
    trained: BoxTrained
    evaluated: BoxEvaluated

    @property
    def cached(self) -> list[bool]:
        """Which stages were found."""
        return [stage.cached for stage in (self.prepared, self.extracted, self.trained, self.evaluated)]

    def report(self) -> Any:
        """Write the report."""
        return write_box_report(self.job, self.prepared, self.extracted, self.trained, self.evaluated)


def run_boxes(spec: BoxExperimentSpec, workspace: Path) -> BoxOutcome:
    """Run all stages but the report."""
    job = BoxJob(spec=spec, workspace=workspace)
    prepared = prepare_boxes(job)
    check_boxes(job, prepared)
    extracted = extract_boxes(job, prepared)
    trained = train_head(job, prepared, extracted)
    return BoxOutcome(job, prepared, extracted, trained, evaluate_boxes(job, prepared, extracted, trained))
