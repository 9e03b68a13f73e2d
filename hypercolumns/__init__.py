"""Hypercolumns: at each pixel, the vector of activations of all CNN units above it; and pixel classifiers on them.

A plain torch library: backbones, hypercolumns, sampling, heads, training, metrics and data sets, for a notebook or a pipeline.
The feature store and the flows that use it are in the packages `storage`, `tasks`, `flows` and `cli` beside it.

Source: Hariharan, Arbeláez, Girshick and Malik, "Hypercolumns for object segmentation and fine-grained localization",
CVPR 2015.
"""

from hypercolumns.backbones import Backbone, LayerInfo, build_backbone
from hypercolumns.certificate import certify
from hypercolumns.columns import Frame, gather, resample, stack
from hypercolumns.errors import HypercolumnsError
from hypercolumns.fitting import fit_pixel_classifier
from hypercolumns.geometry import place
from hypercolumns.heads import PixelConv, PixelMLP, convert
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
