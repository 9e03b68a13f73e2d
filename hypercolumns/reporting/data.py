"""What a report is made of: plain, frozen data, gathered by whoever ran the experiment.

Only values and small arrays live here; nothing is computed, drawn or read from files, and torch is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hypercolumns.errors import MetricError

__all__ = [
    "ClassScore",
    "Comparison",
    "Curve",
    "Headline",
    "LayerFacts",
    "Panel",
    "PanelGroup",
    "ReportData",
    "Saving",
    "ScoreRow",
    "StoreFacts",
    "Timing",
]

Interval = tuple[float, float]


@dataclass(frozen=True)
class Headline:
    """The one number of the report, and how far it can be trusted.

    Attributes:
        value: the score in [0, 1].
        images: how many images it was measured on.
        protocol: resolution, void rule, averaging and split, in one line.
        interval: (low, high) in [0, 1]; None when no interval was computed.
        confidence: level of the interval.
        metric: the score's name for people.
        model: what was scored.
    """

    value: float
    images: int
    protocol: str
    interval: Interval | None = None
    confidence: float = 0.95
    metric: str = "mean IU"
    model: str = "dense classifier"


@dataclass(frozen=True)
class ScoreRow:
    """One scored predictor: the model, an earlier stage of it, or a baseline; scores in [0, 1], `interval` is mean IU's."""

    name: str
    pixel_accuracy: float
    mean_accuracy: float
    mean_iu: float
    frequency_weighted_iu: float
    interval: Interval | None = None
    note: str = ""
    kind: Literal["model", "stage", "baseline"] = "baseline"


@dataclass(frozen=True)
class Comparison:
    """The model against another predictor on the same images: a paired difference in mean IU, in [-1, 1]."""

    against: str
    difference: float
    interval: Interval | None = None
    probability_better: float | None = None


@dataclass(frozen=True)
class ClassScore:
    """One class: its ground-truth pixels, and its IU in the dense model and the sparse stage; None is absent or not scored."""

    name: str
    pixels: int
    dense_iu: float | None
    sparse_iu: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class Curve:
    """How one stage went, by epoch. A series with `loss` in its name is a loss; any other one is a score in [0, 1]."""

    stage: str
    epochs: tuple[int, ...]
    series: Mapping[str, tuple[float | None, ...]]

    def __post_init__(self) -> None:
        for name, values in self.series.items():
            if len(values) != len(self.epochs):
                raise MetricError(
                    f"{self.stage}: expected {len(self.epochs)} values of {name!r}, one an epoch, got {len(values)}"
                )


@dataclass(frozen=True)
class Panel:
    """One image beside its truth and its prediction.

    Attributes:
        image_id: the image's stable name.
        image: RGB, (height, width, 3), uint8.
        truth: labels, (height, width), uint8, 255 void.
        prediction: labels, (height, width), integers.
        mean_iu: mean IU of this image alone, in [0, 1].
    """

    image_id: str
    image: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    prediction: NDArray[Any]
    mean_iu: float

    def __post_init__(self) -> None:
        size = self.truth.shape
        if self.image.shape != (*size, 3) or self.image.dtype != np.uint8 or self.prediction.shape != size:
            raise MetricError(
                f"{self.image_id}: expected a uint8 RGB image and a prediction of the truth's size {size}, "
                f"got {self.image.dtype} {self.image.shape} and {self.prediction.shape}"
            )


@dataclass(frozen=True)
class PanelGroup:
    """Panels chosen by one rule, such as `best`, `median` or `worst`."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class LayerFacts:
    """One layer in the feature store: its map, its bytes on disk, and how many images were found or had to be computed."""

    name: str
    map_hw: tuple[int, int]
    channels: int
    stride_px: float
    bytes: int
    hits: int
    misses: int


@dataclass(frozen=True)
class StoreFacts:
    """What the feature store held, and what it cost.

    Attributes:
        key: the store key.
        layers: the layers, shallow to deep.
        break_even_epochs: epochs from which reading beats recomputing; None when unknown, or never.
        images_per_second: rate of this run's extraction; None when nothing was extracted.
    """

    key: str
    layers: tuple[LayerFacts, ...]
    break_even_epochs: float | None = None
    images_per_second: float | None = None

    @property
    def total_bytes(self) -> int:
        """Bytes on disk of all layers."""
        return sum(layer.bytes for layer in self.layers)


@dataclass(frozen=True)
class Timing:
    """How long a stage took; `cold` says whether it computed its result (True), found it (False), or neither applies (None)."""

    stage: str
    seconds: float
    cold: bool | None = None


@dataclass(frozen=True)
class Saving:
    """Time one idea saved in this run, and how that was reckoned; None when it was not measured."""

    by: str
    seconds: float | None
    how: str = ""


@dataclass(frozen=True)
class ReportData:
    """Everything one report says.

    Attributes:
        title: the experiment's name for people.
        run_id: the run's id.
        date: when the run ended, as printed.
        headline: the number at the top.
        rows: the model, its stages and the baselines, the model first.
        class_names: names of labels 0, 1, ...
        palette: their colours, (classes or more, 3), uint8 RGB.
        confusion: pixels, (classes, classes), rows truth; None leaves the figure out.
        comparisons: paired differences of the model and other predictors.
        per_class: the classes' scores.
        curves: one for each trained stage.
        panel_groups: images to look at.
        store: feature store facts.
        timings: seconds by stage, in order.
        savings: time saved, by idea.
        certificate: the exactness checks, possibly nested.
        specs: everything that decided the result.
        provenance: commit, versions, hardware, seed, digests.
        warnings: what the reader must know before believing the numbers, such as rejected images.
        reproduce: commands that make this run again.
    """

    title: str
    run_id: str
    date: str
    headline: Headline
    rows: tuple[ScoreRow, ...]
    class_names: tuple[str, ...]
    palette: NDArray[np.uint8]
    confusion: NDArray[Any] | None = None
    comparisons: tuple[Comparison, ...] = ()
    per_class: tuple[ClassScore, ...] = ()
    curves: tuple[Curve, ...] = ()
    panel_groups: tuple[PanelGroup, ...] = ()
    store: StoreFacts | None = None
    timings: tuple[Timing, ...] = ()
    savings: tuple[Saving, ...] = ()
    certificate: Mapping[str, Any] = field(default_factory=dict)
    specs: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    reproduce: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        classes = len(self.class_names)
        palette = self.palette
        if palette.ndim != 2 or len(palette) < classes or palette.shape[1] != 3 or palette.dtype != np.uint8:
            raise MetricError(f"expected a uint8 palette ({classes} or more, 3), got {palette.dtype} {palette.shape}")
        if self.confusion is not None and self.confusion.shape != (classes, classes):
            raise MetricError(f"expected a confusion matrix ({classes}, {classes}), got {self.confusion.shape}")
