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
from hypercolumns.datasets.instances.checking import check_instances
from hypercolumns.datasets.instances.detecting import open_detections, results_path
from hypercolumns.datasets.instances.detections import Detections, suppressed
from hypercolumns.datasets.instances.detectors import TorchvisionDetector, weights_path
from hypercolumns.datasets.instances.jitter import jittered_detections
from hypercolumns.datasets.instances.opening import open_instances
from hypercolumns.datasets.instances.results import (
    box_result,
    keypoints_result,
    mask_result,
    read_detections,
    write_object_png,
)

__all__ = [
    "AnnotatedImage",
    "Detections",
    "Instance",
    "InstanceClass",
    "InstanceDataset",
    "KeypointScheme",
    "LazyMask",
    "LazyParts",
    "PartScheme",
    "RejectedRecord",
    "TorchvisionDetector",
    "box_result",
    "check_instances",
    "jittered_detections",
    "keypoints_result",
    "mask_result",
    "open_detections",
    "open_instances",
    "read_detections",
    "results_path",
    "suppressed",
    "weights_path",
    "write_object_png",
]
