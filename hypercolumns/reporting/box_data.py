"""What a report of predictions inside boxes is made of: tables, charts and pictures, plain and frozen.

Only values and small arrays live here; nothing is computed, drawn or read from files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hypercolumns.errors import MetricError

__all__ = ["BoxReport", "Chart", "Series", "Shot", "ShotGroup", "Table"]


@dataclass(frozen=True)
class Table:
    """A table: the first column names the rows; `strong` says which rows are the model's own; `folded` ones open on demand."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    strong: frozenset[int] = frozenset()
    folded: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise MetricError(f"{self.title}: expected {len(self.columns)} cells in each row, got {len(row)}")


@dataclass(frozen=True)
class Series:
    """A line of a chart, or its bars: one value a place, with bounds where they are known."""

    name: str
    values: tuple[float, ...]
    bounds: tuple[tuple[float, float] | None, ...] = ()


@dataclass(frozen=True)
class Chart:
    """Lines over numbers, or bars over names, side by side or stacked; values are shares in [0, 1].

    Attributes:
        title: What it shows.
        kind: Lines, bars, or one bar a name, made of all series.
        places: Numbers along the x axis (lines; each series may have its own, in `own_places`), or the bars' names.
        series: What is drawn.
        x_label: What the places are.
        y_label: What the values are.
        own_places: Places of the series of these names.
    """

    title: str
    kind: Literal["lines", "bars", "stacked"]
    places: tuple[float, ...] | tuple[str, ...]
    series: tuple[Series, ...]
    x_label: str
    y_label: str
    own_places: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each in self.series:
            expected = len(self.own_places.get(each.name, self.places))
            if len(each.values) != expected:
                raise MetricError(f"{self.title}: expected {expected} values of {each.name!r}, got {len(each.values)}")


@dataclass(frozen=True)
class Shot:
    """One object: pictures side by side (each H, W, 3, uint8) with their captions."""

    title: str
    pictures: tuple[tuple[str, NDArray[np.uint8]], ...]


@dataclass(frozen=True)
class ShotGroup:
    """Shots chosen by one rule, such as `best`, `median` or `worst`."""

    title: str
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class BoxReport:
    """Everything one report says.

    Attributes:
        title: The experiment's name for people.
        run_id: The run's id.
        date: When it was written, as printed.
        headline: The number at the top, with its unit.
        sentence: What that number is, with its interval.
        protocol: What the numbers mean.
        tables: Scores, costs, claims.
        charts: Curves and bars.
        shots: Objects to look at.
        specs: Everything that decided the result.
        provenance: Commit, versions, hardware, keys.
        warnings: What the reader must know before believing the numbers.
    """

    title: str
    run_id: str
    date: str
    headline: str
    sentence: str
    protocol: str
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    shots: tuple[ShotGroup, ...] = ()
    specs: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
