"""Plan: refuse what the disk would not hold, and layers that the backbone has not, before anything is extracted."""

from __future__ import annotations

from hypercolumns.sources import select_layers
from tasks.boxes.jobs import BoxJob, BoxPrepared
from tasks.extract import extract_features
from tasks.jobs import Extracted
from tasks.plan import Planned, check_plan
from tasks.stores import experiment_backbone

__all__ = ["check_boxes", "extract_boxes"]


def check_boxes(job: BoxJob, prepared: BoxPrepared) -> Planned:
    """Check layers and room.

    Raises:
        LayerNotFoundError: the head names a layer that the backbone has not.
        DiskSpaceError: says what is needed, what is free, and what to do.
    """
    select_layers(experiment_backbone(job.features.spec).layers, job.spec.head.layers)
    return check_plan(job.features, prepared.features)


def extract_boxes(job: BoxJob, prepared: BoxPrepared) -> Extracted:
    """Compute and store every missing row of the images, in the store that all tasks share."""
    return extract_features(job.features, prepared.features)
