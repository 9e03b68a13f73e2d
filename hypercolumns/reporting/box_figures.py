"""Charts of reports inside boxes: curves and bars, in the colours and shapes of all other charts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hypercolumns.reporting import figures
from hypercolumns.reporting.box_data import Chart, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_chart"]

_WIDTH_IN = 5.6


def draw_chart(chart: Chart) -> Figure:
    """Draw a chart, its values in percent."""
    rows = max(1, len(chart.places)) * (1 if chart.kind == "stacked" else max(1, len(chart.series)))
    height = 3.4 if chart.kind == "lines" else 1.0 + 0.17 * rows + 0.12 * len(chart.places)
    figure = figures.new_figure(_WIDTH_IN, height)
    axes = figure.add_subplot()
    if chart.kind == "lines":
        _draw_lines(axes, chart)
    elif chart.kind == "bars":
        _draw_bars(axes, chart)
    else:
        _draw_stacks(axes, chart)
    if len(chart.series) > 1:
        figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return figure


def _draw_lines(axes: Axes, chart: Chart) -> None:
    for number, each in enumerate(chart.series):
        colour, line, marker = figures.LINES[number % len(figures.LINES)]
        places = chart.own_places.get(each.name, chart.places)
        shown = marker if len(places) <= 20 else ""
        values = 100 * np.array(each.values)
        axes.plot(
            places, values, line, color=colour, marker=shown, markersize=3.5, linewidth=1.6, label=figures.label(each.name)
        )
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(f"{chart.y_label} in %")
    axes.set_ylim(-2, 102)
    if all(each.name in chart.own_places for each in chart.series):
        # Nobody's places are the chart's: these are what it spans, and a curve of one point does not stretch it.
        low, high = float(min(chart.places)), float(max(chart.places))
        axes.set_xlim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    figures.tidy(axes, grid="y")


def _draw_bars(axes: Axes, chart: Chart) -> None:
    count = len(chart.series)
    height = 0.8 / max(1, count)
    base = np.arange(len(chart.places))
    for number, each in enumerate(chart.series):
        rows = base + (number - (count - 1) / 2) * height
        colour = figures.LINES[number % len(figures.LINES)][0]
        axes.barh(rows, 100 * np.array(each.values), height=height * 0.92, color=colour, label=figures.label(each.name))
        _draw_bounds(axes, rows, each)
    _name_bars(axes, chart)


def _draw_stacks(axes: Axes, chart: Chart) -> None:
    base = np.arange(len(chart.places))
    start = np.zeros(len(base))
    for number, each in enumerate(chart.series):
        widths, colour = 100 * np.array(each.values), figures.LINES[number % len(figures.LINES)][0]
        axes.barh(base, widths, left=start, height=0.74, color=colour, label=figures.label(each.name))
        start = start + widths
    _name_bars(axes, chart)


def _name_bars(axes: Axes, chart: Chart) -> None:
    base = np.arange(len(chart.places))
    axes.set_yticks(base, [figures.label(str(name)) for name in chart.places])
    axes.set_ylim(len(base) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"{chart.y_label} in %")
    figures.tidy(axes, grid="x")


def _draw_bounds(axes: Axes, rows: np.ndarray, series: Series) -> None:
    for row, bounds in zip(rows, series.bounds, strict=False):
        if bounds is not None:
            axes.hlines(row, 100 * bounds[0], 100 * bounds[1], colors="#1c2126", linewidth=1.3, zorder=3)
