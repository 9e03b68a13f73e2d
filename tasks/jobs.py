"""What tasks hand each other: the experiment and its workspace, and a small result a stage, with keys and paths in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from hypercolumns.arithmetic import settle_experiment
from hypercolumns.specs import ExperimentSpec
from storage.workspace import Workspace
from tasks.cluster import Cluster

__all__ = ["CacheCount", "Evaluated", "Extracted", "Job", "Message", "Prepared", "Pretrained", "Sampled", "Stage", "Trained"]


class Message(BaseModel):
    """Base of what tasks pass: immutable, and closed to unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Job(Message):
    """One experiment in one workspace."""

    spec: ExperimentSpec
    workspace: Path
    run_dir: Path | None = None
    """Where this run's own files go, when there is a run."""
    cluster: Cluster | None = None
    """What extraction and evaluation are spread over; None for this process alone. No part of any key."""

    @field_validator("spec")
    @classmethod
    def _says_its_arithmetic(cls, spec: ExperimentSpec) -> ExperimentSpec:
        # Settled where a job begins: a worker on another machine is told what was decided.
        return settle_experiment(spec)

    @property
    def places(self) -> Workspace:
        """The workspace's folders."""
        return Workspace(self.workspace)


class CacheCount(Message):
    """How many rows of a layer were there already, and how many were computed."""

    hits: int
    misses: int


class Stage(Message):
    """What every stage says of itself."""

    key: str
    path: Path
    cached: bool
    seconds: float


class Prepared(Stage):
    """A checked data set: the path of its manifest."""

    images: dict[str, int] = Field(description="images per split")
    rejected: int


class Extracted(Stage):
    """A feature store that holds every row the experiment needs."""

    cache: dict[str, CacheCount]
    layer_bytes: dict[str, int] = Field(description="bytes on disk per layer")
    split_images: dict[str, int] = Field(description="images per split")
    images_computed: int = Field(description="images and views whose maps were computed by this call")


class Sampled(Stage):
    """A sample set."""

    samples: int


class Pretrained(Stage):
    """The sparse classifier."""

    history: dict[str, Any]


class Trained(Stage):
    """The dense classifier (without dense training the converted sparse one), with the certificate of its conversion."""

    certificate: dict[str, Any]
    history: dict[str, Any]


class Evaluated(Stage):
    """Scores of the model, its stages and its baselines, on one protocol."""

    metrics: dict[str, Any]
    baselines: dict[str, Any]
