"""The history's charts: scores with intervals over time, classes, growing data, cost of each night.

Like the report's charts drawn with matplotlib's objects alone, and readable without telling colours apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from hypercolumns.errors import HypercolumnsError
from hypercolumns.reporting.figures import BLUE, ORANGE
from hypercolumns.reporting.history_data import HistoryData
from hypercolumns.reporting.numbers import words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["class_trends", "cost_trend", "growth_trend", "score_trend"]

_INK, _RULE = "#1c2126", "#d5dade"
_WIDTH_IN = 7.2
_MOST_CLASSES = 40


def score_trend(data: HistoryData) -> Figure:
    """Draw the champion's mean IU on the frozen set, and every challenger's on its night's val images."""
    figure, axes = _chart(3.2)
    promoted = [night for night in data.nights if night.outcome == "promoted"]
    kept = [night for night in data.nights if night.outcome == "kept"]
    for nights, marker, label in ((promoted, "^", "challenger, promoted"), (kept, "x", "challenger, refused")):
        if nights:
            values = [100 * night.challenger_mean_iu for night in nights]
            axes.plot(_days([n.time for n in nights]), values, marker, color=ORANGE, markersize=7, label=f"{label} (val)")
    if data.scores:
        days, values = _days([score.time for score in data.scores]), [100 * score.mean_iu for score in data.scores]
        low = [100 * (s.mean_iu - s.interval[0]) if s.interval else 0.0 for s in data.scores]
        high = [100 * (s.interval[1] - s.mean_iu) if s.interval else 0.0 for s in data.scores]
        errors = [[max(0.0, value) for value in side] for side in (low, high)]
        axes.errorbar(days, values, errors, fmt="o-", color=BLUE, capsize=3, markersize=4, label="champion (frozen set)")
    axes.set_ylabel("mean IU in %")
    axes.legend(frameon=False, fontsize=8.5)
    return figure


def class_trends(data: HistoryData) -> Figure:
    """Draw each class's IU on the frozen set over time, one small chart a class, the same scale in all."""
    names = data.class_names[:_MOST_CLASSES]
    columns = 4
    rows = -(-len(names) // columns)
    figure = _figure(0.4 + 1.35 * rows)
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1)
        known = [(score.time, score.per_class.get(name)) for score in data.scores]
        points = [(time, 100 * value) for time, value in known if value is not None]
        if points:
            axes.plot(_days([time for time, _ in points]), [value for _, value in points], "o-", color=BLUE, markersize=3)
        axes.set_ylim(0, 100)
        axes.set_title(_readable(name), fontsize=8.5, color=_INK)
        _tidy(axes)
        axes.set_xticklabels([])
    return figure


def growth_trend(data: HistoryData) -> Figure:
    """Draw how many images each split had, night by night."""
    figure, axes = _chart(2.2)
    days = _days([night.time for night in data.nights])
    splits = dict.fromkeys(split for night in data.nights for split in night.images)
    for number, split in enumerate(splits):
        counts = [night.images.get(split, 0) for night in data.nights]
        axes.plot(
            days, counts, ("o-", "s--")[number % 2], color=(BLUE, ORANGE)[number % 2], markersize=4, label=_readable(split)
        )
    axes.set_ylabel("images")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8.5)
    return figure


def cost_trend(data: HistoryData) -> Figure:
    """Draw what each night took, and how many images it extracted."""
    figure, axes = _chart(2.6)
    numbers = list(range(len(data.nights)))
    axes.bar(numbers, [night.seconds for night in data.nights], color=BLUE, width=0.7)
    for number, night in enumerate(data.nights):
        axes.annotate(f"{night.images_extracted}", (number, night.seconds), ha="center", va="bottom", fontsize=8, color=_INK)
    axes.set_ylabel("seconds; above: images extracted")
    axes.margins(y=0.15)
    step = max(1, len(numbers) // 8)
    axes.set_xticks(numbers[::step], [f"{night.time:%m-%d}" for night in data.nights][::step])
    return figure


def _figure(height_in: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise HypercolumnsError(
            "expected matplotlib, to draw a history; install it with: pip install 'hypercolumns[report]'"
        ) from error
    return Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")


def _chart(height_in: float) -> tuple[Figure, Axes]:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    figure = _figure(height_in)
    axes = figure.add_subplot()
    locator = AutoDateLocator(minticks=2, maxticks=7)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    _tidy(axes)
    return figure, axes


def _days(times: Sequence[datetime]) -> list[float]:
    from matplotlib.dates import date2num

    return [float(date2num(time)) for time in times]  # type: ignore[no-untyped-call]


def _tidy(axes: Axes) -> None:
    for spine in axes.spines.values():
        spine.set_color(_RULE)
    axes.tick_params(labelsize=8.5, colors=_INK, length=2.5)
    axes.yaxis.label.set_fontsize(9)
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)


def _readable(name: str) -> str:
    """Make a name readable, and keep a dollar sign from starting a formula."""
    return words(name).replace("$", r"\$")
