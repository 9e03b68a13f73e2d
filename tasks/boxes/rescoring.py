"""Scores of detections learned on the training images: which of their masks found an object."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from hypercolumns.box_experiments import BoxExperimentSpec
from hypercolumns.heads import GridClassifier
from hypercolumns.heatmaps import mask_target
from hypercolumns.heatmaps.rescoring import Rescorer, fit_rescorer
from tasks.boxes.manifests import BoxEntry, BoxManifest, DetectionEntry
from tasks.boxes.maps import BoxMaps
from tasks.boxes.predictions import HeadPredictor, pair_with

__all__ = ["train_rescorer"]

_RIGHT = 0.5
"""Overlap of a heatmap's mask with the object's, in the box, from which a detection is right."""


@torch.inference_mode()
def train_rescorer(model: GridClassifier, manifest: BoxManifest, maps: BoxMaps, spec: BoxExperimentSpec) -> Rescorer:
    """Fit a rescorer on all detections of the training images.

    Raises:
        SamplingError: all of them are right, or none.
    """
    predictor = HeadPredictor(model, manifest.outputs(spec), maps, spec)
    features, right = [], []
    for index, entry in enumerate(manifest.splits[spec.instances.train_split]):
        if not entry.detections:
            continue
        for seen in predictor.maps(index, entry, entry.detections):
            heatmaps = predictor.heatmaps(seen)
            features.append(predictor.features(seen, heatmaps))
            right += [_is_right(entry, *each, spec) for each in zip(seen.members, heatmaps, strict=True)]
    with torch.inference_mode(False):
        return fit_rescorer(torch.cat(features).clone(), np.array(right))


def _is_right(entry: BoxEntry, box: DetectionEntry, heatmap: NDArray[np.float32], spec: BoxExperimentSpec) -> bool:
    """Tell whether a detection's mask found the object that the detection is meant for."""
    number = pair_with(entry, box)
    if number < 0:
        return False
    mask = entry.instances[number].mask_array(entry.image.image_hw)
    truth = mask_target(mask, np.array(box.box_xyxy), spec.pairs.side, spec.pairs.expansion) > _RIGHT
    own = heatmap[0] >= spec.evaluate.mask_threshold
    return bool((truth & own).sum() >= _RIGHT * max(1, (truth | own).sum()))
