"""What the tasks inside boxes hand each other; images and maps go through the same stages as everybody's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from hypercolumns.box_experiments import BoxExperimentSpec
from storage.workspace import Workspace
from tasks.jobs import Job, Message, Prepared, Stage

__all__ = ["BoxEvaluated", "BoxJob", "BoxPrepared", "BoxTrained"]


class BoxJob(Message):
    """One experiment inside boxes, in one workspace."""

    spec: BoxExperimentSpec
    workspace: Path
    run_dir: Path | None = None
    """Where this run's own files go, when there is a run."""

    @property
    def places(self) -> Workspace:
        """The workspace's folders."""
        return Workspace(self.workspace)

    @property
    def features(self) -> Job:
        """The job of filling the feature store, which is any experiment's."""
        return Job(spec=self.spec.features, workspace=self.workspace, run_dir=self.run_dir)


class BoxPrepared(Stage):
    """Checked images with instances and detections: the path of their manifest, and that of the images alone."""

    images_path: Path
    images: dict[str, int] = Field(description="images per split")
    instances: dict[str, int] = Field(description="instances per split, crowds not counted")
    detections: dict[str, int] = Field(description="detections per split")
    rejected: int

    @property
    def features(self) -> Prepared:
        """What the stages that fill the feature store are told."""
        return Prepared(
            key=self.key,
            path=self.images_path,
            cached=self.cached,
            seconds=self.seconds,
            images=self.images,
            rejected=self.rejected,
        )


class BoxTrained(Stage):
    """The head."""

    boxes: int = Field(description="boxes that were drawn to be learned from")
    history: dict[str, Any]


class BoxEvaluated(Stage):
    """Scores of the head and of its baselines, on one protocol, and where its predictions are."""

    protocol: str
    metrics: dict[str, Any]
    baselines: dict[str, Any]
