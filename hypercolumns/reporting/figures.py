"""The report's charts, drawn with matplotlib's objects and never its global state.

Colours come from Okabe and Ito's set and from cividis, which people who see colours differently can tell apart; no chart relies
on colour alone. Figures are narrow, so that their text stays readable on a phone.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hypercolumns.errors import HypercolumnsError
from hypercolumns.reporting.data import ClassScore, Curve
from hypercolumns.reporting.numbers import compact, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "LINES",
    "ORANGE",
    "class_bars",
    "confusion_figure",
    "curve_figure",
    "data_uri",
    "label",
    "new_figure",
    "png_bytes",
    "svg_bytes",
    "tidy",
]

BLUE, ORANGE, VERMILION, GREEN, PURPLE, SKY = "#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"
_INK, _RULE = "#1c2126", "#d5dade"
LINES = (
    (BLUE, "-", "o"),
    (VERMILION, "--", "s"),
    (GREEN, "-.", "^"),
    (PURPLE, ":", "D"),
    (ORANGE, "-", "v"),
    (SKY, "--", "P"),
)
_ANNOTATED_CLASSES = 24
_WIDTH_IN = 3.9
_SETTINGS_LOCK = Lock()


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure of a size in inches.

    Raises:
        HypercolumnsError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise HypercolumnsError(
            "expected matplotlib, to draw a report; install it with: pip install 'hypercolumns[report]'"
        ) from error
    return Figure(figsize=(width_in, height_in), layout="constrained")


def class_bars(scores: Sequence[ClassScore]) -> Figure:
    """Draw each class's IU as a bar, best first: the dense model as the bar, its interval, and the sparse stage as a mark."""
    ordered = sorted(scores, key=lambda item: (item.dense_iu is None, -(item.dense_iu or 0.0)))
    figure = new_figure(_WIDTH_IN, 0.9 + 0.28 * len(ordered))
    axes = figure.add_subplot()
    rows = np.arange(len(ordered))
    values = [100 * (item.dense_iu or 0.0) for item in ordered]
    axes.barh(rows, values, height=0.66, color=BLUE, label="dense")
    _draw_intervals(axes, ordered)
    marks = [(row, 100 * item.sparse_iu) for row, item in enumerate(ordered) if item.sparse_iu is not None]
    if marks:
        heights, places = zip(*marks, strict=True)
        axes.plot(places, heights, "D", color=ORANGE, markersize=5.5, markeredgecolor=_INK, zorder=4, label="sparse")
    for row, item in enumerate(ordered):
        text = "no pixels" if item.dense_iu is None else f"{100 * item.dense_iu:.1f}"
        axes.text(101.5, row, text, va="center", ha="left", fontsize=8.5, color=_INK)
    axes.set_yticks(rows, [f"{label(item.name)} ({compact(item.pixels)})" for item in ordered])
    axes.set_ylim(len(ordered) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel("IU in %; labelled pixels in brackets")
    tidy(axes, grid="x")
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=8.5, handletextpad=0.5)
    return figure


def _draw_intervals(axes: Axes, ordered: Sequence[ClassScore]) -> None:
    known = [
        (row, item.interval) for row, item in enumerate(ordered) if item.interval is not None and item.dense_iu is not None
    ]
    if known:
        rows, bounds = zip(*known, strict=True)
        low, high = (100 * np.array(side) for side in zip(*bounds, strict=True))
        axes.hlines(rows, low - 0.4, high + 0.4, colors="white", linewidth=3.2, zorder=3)
        axes.hlines(rows, low, high, colors=_INK, linewidth=1.6, zorder=3, label="interval")


def confusion_figure(matrix: NDArray[Any], class_names: Sequence[str]) -> Figure:
    """Draw a confusion matrix, each row as shares of the true class; rows without pixels stay grey."""
    classes = len(class_names)
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.where(totals > 0, 100.0 * matrix / np.where(totals > 0, totals, 1), np.nan)
    side = max(4.6, 1.5 + 0.36 * classes)
    figure = new_figure(side, side + 0.35)
    axes = figure.add_subplot()
    axes.set_facecolor("#c4c9ce")
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=100, interpolation="nearest")
    if classes <= _ANNOTATED_CLASSES:
        for row, column in np.argwhere(shares >= 0.5):
            share = shares[row, column]
            axes.text(
                column, row, f"{share:.0f}", ha="center", va="center", fontsize=7.5, color="white" if share < 55 else "black"
            )
    names = [label(name) for name in class_names]
    axes.set_xticks(range(classes), names, rotation=55, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(classes), names)
    axes.set_xlabel("predicted as")
    axes.set_ylabel("true class")
    tidy(axes)
    bar = figure.colorbar(image, ax=axes, location="top", shrink=0.6, aspect=30, pad=0.02)
    bar.set_label("% of the true class's pixels", fontsize=8.5, color=_INK)
    bar.ax.tick_params(labelsize=8, colors=_INK)
    return figure


def curve_figure(curve: Curve) -> Figure:
    """Draw one stage's losses above its scores, by epoch."""
    losses = {name: values for name, values in curve.series.items() if "loss" in name.lower()}
    scores = {name: values for name, values in curve.series.items() if name not in losses}
    parts = [(title, series, scale) for title, series, scale in (("loss", losses, 1), ("score in %", scores, 100)) if series]
    figure = new_figure(_WIDTH_IN, 0.5 + 1.9 * max(1, len(parts)))
    from matplotlib.ticker import MaxNLocator

    style = 0
    for index, (title, series, scale) in enumerate(parts):
        axes = figure.add_subplot(len(parts), 1, index + 1, sharex=figure.axes[0] if figure.axes else None)
        for name, values in series.items():
            colour, line, marker = LINES[style % len(LINES)]
            style += 1
            numbers = [np.nan if value is None else scale * value for value in values]
            axes.plot(
                curve.epochs, numbers, line, color=colour, marker=marker, markersize=3.5, linewidth=1.6, label=label(name)
            )
        axes.set_ylabel(title)
        axes.legend(frameon=False, fontsize=8.5)
        tidy(axes, grid="y")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.supxlabel("epoch", fontsize=9, color=_INK)
    return figure


def label(name: str) -> str:
    """Make a name readable, and keep a dollar sign from starting a formula."""
    return words(name).replace("$", r"\$")


def tidy(axes: Axes, grid: Literal["x", "y"] | None = None) -> None:
    """Keep what carries meaning: thin spines, light rules, dark labels of one size."""
    for spine in axes.spines.values():
        spine.set_visible(grid is None)
        spine.set_color(_RULE)
    axes.tick_params(labelsize=9, colors=_INK, length=2.5)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(9)
        label.set_color(_INK)
    if grid:
        axes.grid(axis=grid, color=_RULE, linewidth=0.8)
        axes.set_axisbelow(True)


def svg_bytes(figure: Figure) -> bytes:
    """Return a figure as SVG with its text as text: the same figure gives the same bytes."""
    import matplotlib

    buffer = io.BytesIO()
    with (
        _SETTINGS_LOCK,
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hypercolumns"}),
    ):  # settings, being global, are changed one thread at a time
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def png_bytes(figure: Figure, dpi: int = 110) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def data_uri(content: bytes, media_type: str) -> str:
    """Return content as a `data:` address, which needs no second request."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
