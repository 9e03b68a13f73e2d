"""Images with instances, keypoints and parts behind one protocol, whatever layout their annotations come in."""

from hypercolumns.datasets.instances.base import (
    AnnotatedImage,
    Instance,
    InstanceClass,
    InstanceDataset,
    KeypointScheme,
    LazyMask,
    LazyParts,
    PartScheme,
    RejectedRecord,
)
from hypercolumns.datasets.instances.opening import open_instances

__all__ = [
    "AnnotatedImage",
    "Instance",
    "InstanceClass",
    "InstanceDataset",
    "KeypointScheme",
    "LazyMask",
    "LazyParts",
    "PartScheme",
    "RejectedRecord",
    "open_instances",
]
