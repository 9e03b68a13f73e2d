"""Plan: refuse what the disk would not hold, and layers that the backbone has not, before anything is extracted."""

from __future__ import annotations

from hypercolumns.backbones import Backbone
from hypercolumns.errors import BackboneError
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
        BackboneError: the backbone does not fit the canvas; or the head names a fully connected layer, which sees the whole
            canvas, where the canvas is not a box.
        DiskSpaceError: says what is needed, what is free, and what to do.
    """
    _check_layers(job, experiment_backbone(job.features.spec))
    return check_plan(job.features, prepared.features)


def _check_layers(job: BoxJob, backbone: Backbone) -> None:
    spec = job.spec
    chosen = select_layers(backbone.layers, spec.head.layers)
    # A single cell may be a small map's last one; without a stride it has no place on the canvas.
    connected = [layer.name for layer in chosen if layer.map_hw == (1, 1) and layer.stride_px is None]
    if spec.maps == "image" and connected:
        height, width = spec.store.canvas.size_hw
        raise BackboneError(
            f"layer {', '.join(connected)} of {spec.backbone.name}: expected layers whose cells lie somewhere in the image, "
            "got a fully connected one, which says the same of every box in it. Remedy: have it see boxes (maps: crop, "
            f"store.canvas: {{mode: stretch, size_hw: [{height}, {width}]}}), or leave it out of head.layers"
        )


def extract_boxes(job: BoxJob, prepared: BoxPrepared) -> Extracted:
    """Compute and store every missing row of the images, in the store that all tasks share."""
    return extract_features(job.features, prepared.features)
