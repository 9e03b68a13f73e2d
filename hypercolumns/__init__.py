"""Hypercolumns: at each pixel, the vector of activations of all CNN units above it; and pixel classifiers on them.

A plain torch library: backbones, hypercolumns, sampling, heads, training, metrics and data sets, for a notebook or a pipeline.
The feature store and the flows that use it are in the packages `storage`, `tasks`, `flows` and `cli` beside it.

Source: Hariharan, Arbeláez, Girshick and Malik, "Hypercolumns for object segmentation and fine-grained localization",
CVPR 2015.

Names are imported when they are first used: specs and errors alone do not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypercolumns.backbones import Backbone, LayerInfo, build_backbone
    from hypercolumns.certificate import certify
    from hypercolumns.columns import Frame, gather, resample, stack
    from hypercolumns.errors import HypercolumnsError
    from hypercolumns.fitting import fit_pixel_classifier
    from hypercolumns.geometry import place
    from hypercolumns.heads import GridClassifier, PixelConv, PixelMLP, convert
    from hypercolumns.prediction import segment
    from hypercolumns.sampling import sample_points
    from hypercolumns.sources import BackboneSource, MapSource
    from hypercolumns.specs import (
        BackboneSpec,
        CanvasSpec,
        DatasetSpec,
        EvalSpec,
        ExperimentSpec,
        HeadSpec,
        SampleSpec,
        StoreSpec,
        TrainSpec,
    )

__all__ = [
    "Backbone",
    "BackboneSource",
    "BackboneSpec",
    "CanvasSpec",
    "DatasetSpec",
    "EvalSpec",
    "ExperimentSpec",
    "Frame",
    "GridClassifier",
    "HeadSpec",
    "HypercolumnsError",
    "LayerInfo",
    "MapSource",
    "PixelConv",
    "PixelMLP",
    "SampleSpec",
    "StoreSpec",
    "TrainSpec",
    "build_backbone",
    "certify",
    "convert",
    "fit_pixel_classifier",
    "gather",
    "place",
    "resample",
    "sample_points",
    "segment",
    "stack",
]

_HOMES = {
    "Backbone": "hypercolumns.backbones",
    "BackboneSource": "hypercolumns.sources",
    "BackboneSpec": "hypercolumns.specs",
    "CanvasSpec": "hypercolumns.specs",
    "DatasetSpec": "hypercolumns.specs",
    "EvalSpec": "hypercolumns.specs",
    "ExperimentSpec": "hypercolumns.specs",
    "Frame": "hypercolumns.columns",
    "GridClassifier": "hypercolumns.heads",
    "HeadSpec": "hypercolumns.specs",
    "HypercolumnsError": "hypercolumns.errors",
    "LayerInfo": "hypercolumns.backbones",
    "MapSource": "hypercolumns.sources",
    "PixelConv": "hypercolumns.heads",
    "PixelMLP": "hypercolumns.heads",
    "SampleSpec": "hypercolumns.specs",
    "StoreSpec": "hypercolumns.specs",
    "TrainSpec": "hypercolumns.specs",
    "build_backbone": "hypercolumns.backbones",
    "certify": "hypercolumns.certificate",
    "convert": "hypercolumns.heads",
    "fit_pixel_classifier": "hypercolumns.fitting",
    "gather": "hypercolumns.columns",
    "place": "hypercolumns.geometry",
    "resample": "hypercolumns.columns",
    "sample_points": "hypercolumns.sampling",
    "segment": "hypercolumns.prediction",
    "stack": "hypercolumns.columns",
}


def __getattr__(name: str) -> Any:
    """Import a name of the library from the module it lives in.

    Raises:
        AttributeError: there is no such name.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'hypercolumns' has no name {name!r}; it has {', '.join(sorted(_HOMES))}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the names, imported or not."""
    return sorted({*globals(), *_HOMES})
