"""A seeded, realistic `ReportData`, small enough for tests; photographs may be put in for looking at a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hypercolumns import reporting as rp

NAMES = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist")
PALETTE = np.array(
    [
        *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)),
        *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
    ],
    np.uint8,
)
VOID = 255
IU = (0.912, 0.793, 0.218, 0.941, 0.801, 0.768, 0.402, 0.391, 0.824, 0.476, 0.589)
PIXELS = (2_710_000, 4_320_000, 163_000, 4_860_000, 1_010_000, 1_850_000, 141_000, 262_000, 903_000, 118_000, 240_000)


def report_data(panels: Sequence[rp.Panel] | None = None, **changes: Any) -> rp.ReportData:
    """A report on a street-scene experiment that never happened; `changes` replace its fields."""
    shown = scene_panels() if panels is None else tuple(panels)
    third = len(shown) // 3
    data = rp.ReportData(
        title="CamVid, SqueezeNet 1.1, 11 classes",
        run_id="20250302-141507-camvid-3f9a1c",
        date="2 March 2025, 14:20 UTC",
        headline=rp.Headline(
            value=0.6468,
            interval=(0.6291, 0.6633),
            images=101,
            protocol="CamVid val at the labels' 480×360, void ignored, one confusion matrix over all 101 images",
        ),
        rows=score_rows(),
        comparisons=(
            rp.Comparison("sparse stage", 0.092, (0.081, 0.104), 1.0),
            rp.Comparison("deepest layer only", 0.1468, (0.1301, 0.1622), 1.0),
            rp.Comparison("majority class", 0.6191, (0.602, 0.636), 1.0),
        ),
        class_names=NAMES,
        palette=PALETTE,
        confusion=confusion(),
        per_class=tuple(
            rp.ClassScore(name, pixels, iu, 0.85 * iu - 0.02, (iu - 0.03, iu + 0.025))
            for name, pixels, iu in zip(NAMES, PIXELS, IU, strict=True)
        ),
        curves=curves(),
        panel_groups=tuple(
            rp.PanelGroup(title, shown[start : start + third])
            for title, start in (("best", 0), ("median", third), ("worst", 2 * third))
        ),
        **facts(),
    )
    return replace(data, **changes)


def score_rows() -> tuple[rp.ScoreRow, ...]:
    return (
        rp.ScoreRow(
            "dense classifier", 0.897, 0.748, 0.6468, 0.826, (0.6291, 0.6633), "10 epochs on every labelled pixel", "model"
        ),
        rp.ScoreRow(
            "sparse stage", 0.861, 0.689, 0.5548, 0.774, (0.537, 0.571), "3 pixels an image and class, priors restored", "stage"
        ),
        rp.ScoreRow("deepest layer only", 0.843, 0.571, 0.5, 0.741, (0.483, 0.515), "same head, fire12 alone"),
        rp.ScoreRow(
            "random weights", 0.781, 0.428, 0.3521, 0.66, (0.338, 0.365), "same layers and head, weights never trained"
        ),
        rp.ScoreRow("raw RGB", 0.602, 0.243, 0.171, 0.437, (0.16, 0.181), "same head on three channels"),
        rp.ScoreRow("position only", 0.634, 0.262, 0.189, 0.452, (0.179, 0.199), "same head on x and y"),
        rp.ScoreRow("class prior", 0.191, 0.0909, 0.0548, 0.112, (0.054, 0.0556), "expected value of random guesses"),
        rp.ScoreRow("majority class", 0.305, 0.0909, 0.0277, 0.093, (0.026, 0.029), "every pixel Building"),
    )


def confusion() -> np.ndarray:
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.full(11, 0.25), 11)
    recall = np.sqrt(IU)[:, None]
    rows = recall * np.eye(11) + (1 - recall) * shares
    return np.rint(rows / rows.sum(axis=1, keepdims=True) * np.array(PIXELS)[:, None]).astype(np.int64)


def curves() -> tuple[rp.Curve, ...]:
    sparse, dense = np.arange(1, 16), np.arange(1, 11)

    def fall(start: float, end: float, steps: np.ndarray) -> tuple[float, ...]:
        return tuple((end + (start - end) * np.exp(-steps / 3)).round(4).tolist())

    return (
        rp.Curve(
            "sparse pretraining",
            tuple(sparse.tolist()),
            {
                "train_loss": fall(2.1, 0.35, sparse),
                "holdout_loss": fall(2.0, 0.55, sparse),
                "holdout_accuracy": fall(0.3, 0.83, sparse),
            },
        ),
        rp.Curve(
            "dense training",
            tuple(dense.tolist()),
            {"train_loss": fall(0.9, 0.21, dense), "holdout_mean_iu": (None, *fall(0.45, 0.655, dense)[1:])},
        ),
    )


def facts() -> dict[str, Any]:
    layers = (("relu1", 179, 239, 64, 2), ("fire3", 89, 119, 128, 4), ("fire5", 44, 59, 256, 8), ("fire12", 22, 29, 512, 16))
    return {
        "store": rp.StoreFacts(
            key="sq11-3b7f9a0c52de",
            layers=tuple(rp.LayerFacts(n, (h, w), c, s, 2 * h * w * c * 468, 367, 101) for n, h, w, c, s in layers),
            break_even_epochs=1.4,
            images_per_second=61.3,
        ),
        "timings": (
            rp.Timing("extract features", 7.63, True),
            rp.Timing("sample pixels", 1.9, True),
            rp.Timing("pretrain classifier", 11.2, True),
            rp.Timing("train densely", 265.4, True),
            rp.Timing("evaluate", 12.8),
            rp.Timing("write report", 0.71),
        ),
        "savings": (
            rp.Saving("the cache", 54.1, "9 epochs × 367 images not recomputed, at 61.3 images/s"),
            rp.Saving("factorising", 1480.0, "10 dense steps timed both ways"),
            rp.Saving("sparse sampling", None, "not measured in this run"),
        ),
        "certificate": {
            "max_relative_difference": {"sparse_to_dense": 3.1e-7, "dense_to_factorised": 8.4e-7},
            "argmax_agreement": 1.0,
            "within_tolerance": True,
            "output_stride_effect": {"output_stride_px": 4, "mean_iu_change": -0.0041},
        },
        "specs": {
            "name": "camvid",
            "backbone": {"name": "squeezenet1_1", "layers": [n for n, *_ in layers]},
            "head": {"hidden": 256},
        },
        "provenance": {
            "git_commit": "4d1c9e0 (clean)",
            "versions": {"python": "3.11.7", "torch": "2.8.0"},
            "hardware": "2 CPU cores, 8 GB",
            "seed": 0,
            "weights_sha256": "b8a52dc0" * 8,
        },
        "warnings": ("1 of 469 images was rejected: 0016E5_00390.jpg is truncated after 3120 bytes",),
        "reproduce": ("git checkout 4d1c9e0", "hypercolumns run configs/camvid.yaml"),
    }


def scene_panels(count: int = 3) -> tuple[rp.Panel, ...]:
    """Small generated street scenes, each with some pixels wrong and a void band."""
    generator = np.random.default_rng(7)
    panels = []
    for index in range(count):
        truth = np.repeat(np.repeat(generator.integers(0, 11, (6, 8), dtype=np.uint8), 8, axis=0), 8, axis=1)
        image = np.clip(PALETTE[truth] + generator.normal(40, 25, (*truth.shape, 3)), 0, 255).astype(np.uint8)
        prediction = np.where(generator.random(truth.shape) < 0.1 * (index + 1), generator.integers(0, 11, truth.shape), truth)
        truth[:3] = VOID
        panels.append(rp.Panel(f"scene_{index:03d}.jpg", image, truth, prediction, 0.8 - 0.2 * index))
    return tuple(panels)
