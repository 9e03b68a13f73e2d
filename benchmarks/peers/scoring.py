"""What a peer's process left behind, turned into scores by the project's own metric code."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.ledger import LEDGER
from hypercolumns.datasets import open_dataset
from hypercolumns.metrics.segmentation import confusion_matrix, score
from hypercolumns.specs import DatasetSpec

__all__ = ["Outcome", "Point", "Truth", "read_outcome"]


@dataclass(frozen=True)
class Point:
    """One model of a peer: when it was ready, what it scored."""

    seconds: float
    mean_iu: float
    name: str = ""


@dataclass
class Outcome:
    """What became of a peer.

    Attributes:
        status: "done", or what went wrong.
        points: its models, in order of time.
        notes: its own figures.
        peak_gb: largest resident set of its processes, gigabytes.
        wall_seconds: of its process, with all predictions.
    """

    status: str
    points: list[Point] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    peak_gb: float = 0.0
    wall_seconds: float = 0.0

    def best_by(self, seconds: float) -> float | None:
        """Return the best score reached by a time, or None where there is none yet."""
        return max((point.mean_iu for point in self.points if point.seconds <= seconds), default=None)


class Truth:
    """The val labels, as the project reads them.

    Args:
        root: CamVid's folder.
    """

    def __init__(self, root: Path) -> None:
        dataset = open_dataset(DatasetSpec(kind="folder", root=str(root), void_label=11))
        self.names = dataset.class_names[:11]
        self.masks = [dataset.mask(record) for record in dataset.records("val")]

    def mean_iu(self, predicted: NDArray[np.uint8]) -> float:
        """Score predicted masks (n, H, W) by the strict protocol."""
        matrices = [confusion_matrix(t, p, len(self.names)) for t, p in zip(self.masks, predicted, strict=True)]
        return score(np.stack(matrices), self.names).mean_iu


def read_outcome(folder: Path, truth: Truth, status: str) -> Outcome:
    """Score every model that a peer left masks of; the masks are removed."""
    outcome = Outcome(status)
    path = folder / LEDGER
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in map(json.loads, lines):
        outcome.notes |= line.get("notes", {})
        if point := line.get("point"):
            masks = folder / point["masks"]
            outcome.points.append(Point(point["seconds"], truth.mean_iu(np.load(masks)), point["name"]))
            masks.unlink()
    outcome.points.sort(key=lambda point: point.seconds)
    return outcome
