"""Torchvision's detectors, from a file of weights: nothing is downloaded, and nothing in the file is executed.

A file decides how many classes there are; their names are COCO's as torchvision numbers them, unless others are given. Detected
classes that a data set does not have are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hypercolumns.backbones.state_dicts import fit, read_state
from hypercolumns.backbones.weights import file_sha256
from hypercolumns.box_specs import DetectionsSpec
from hypercolumns.datasets.instances.detections import Detections
from hypercolumns.errors import BackboneError, WeightsError

__all__ = ["TorchvisionDetector", "weights_path"]

_VOC_SPELLINGS = {
    "airplane": "aeroplane",
    "motorcycle": "motorbike",
    "couch": "sofa",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
    "tv": "tvmonitor",
}


class TorchvisionDetector:
    """A detector that gives the classes of a data set.

    Args:
        spec: Names the detector, its weights and its classes.
        class_names: The data set's classes.
        device: Where it runs.

    Raises:
        BackboneError: torchvision has no such detector, or none of its classes is in the data set.
        WeightsError: the weights are missing, damaged, or another network's.
    """

    def __init__(self, spec: DetectionsSpec, class_names: Sequence[str], *, device: torch.device | str = "cpu") -> None:
        name, names = str(spec.detector), list(class_names)
        path = _checked_file(spec)
        known = _known_names(name) if spec.detector_classes is None else ["__background__", *spec.detector_classes]
        self._places = np.array([_place(each, names) for each in known], np.int64)
        if (self._places < 0).all():
            raise BackboneError(
                f"detector {name}: expected a class of the data set among {', '.join(known[1:6])} ..., got none of "
                f"{', '.join(names[:5])}; name the detector's classes in detector_classes"
            )
        self.device = torch.device(device)
        self._model = _loaded(name, len(known), path).to(self.device)

    def __call__(self, image: NDArray[np.uint8]) -> Detections:
        """Detect objects in an image (H, W, 3); what comes best first lies in the image and has an area.

        Raises:
            BackboneError: the detector gave numbers that are not finite.
        """
        picture = torch.from_numpy(image).to(self.device).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            found = self._model([picture])[0]
        boxes, scores, numbers = (found[key].double().cpu().numpy() for key in ("boxes", "scores", "labels"))
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise BackboneError("expected finite boxes and scores from the detector, got others; check its weights")
        height, width = image.shape[:2]
        boxes = boxes.reshape(-1, 4).clip([0, 0, 0, 0], [width, height, width, height])
        labels = self._places[numbers.astype(np.int64)]
        kept = np.flatnonzero((labels >= 0) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        kept = kept[np.argsort(-scores[kept], kind="stable")]
        return Detections(boxes[kept], scores[kept], labels[kept], np.full(len(kept), -1, np.int64))


def weights_path(spec: DetectionsSpec) -> Path:
    """Tell which file a detector's weights are read from."""
    # Not pathlib's, which passes over a home that does not exist.
    return Path(os.path.expanduser(os.path.expandvars(str(spec.weights))))  # noqa: PTH111


def _checked_file(spec: DetectionsSpec) -> Path:
    path = weights_path(spec)
    if not path.is_file():
        raise WeightsError(f"weights: expected a file, got {path}, which is none; correct detections.weights")
    if spec.weights_sha256 is not None and (digest := file_sha256(path)) != spec.weights_sha256:
        raise WeightsError(
            f"{path}: expected sha256 {spec.weights_sha256}, got {digest}; fetch the right file, or correct weights_sha256"
        )
    return path


def _detector_names() -> list[str]:
    from torchvision.models import detection, list_models

    return list(list_models(module=detection))


def _known_names(name: str) -> list[str]:
    from torchvision.models import get_model_weights

    _check_name(name)
    return list(get_model_weights(name).DEFAULT.meta["categories"])


def _check_name(name: str) -> None:
    names = [each for each in _detector_names() if "keypoint" not in each]
    if name not in names:
        raise BackboneError(f"expected a detector of torchvision, got {name!r}; use one of {', '.join(names)}")


def _place(name: str, names: list[str]) -> int:
    for spelling in (name, _VOC_SPELLINGS.get(name)):
        if spelling in names:
            return names.index(spelling)
    return -1


def _loaded(name: str, classes: int, path: Path) -> nn.Module:
    from torchvision.models import get_model

    _check_name(name)
    model: nn.Module = get_model(name, weights=None, weights_backbone=None, num_classes=classes)
    expected = model.state_dict()
    model.load_state_dict(fit(read_state(path), expected, set(expected), str(path)))
    return model.eval()
