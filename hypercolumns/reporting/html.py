"""The report as one HTML file that needs nothing else: no script, no font, no request.

What is said is decided here, how it looks in `report.html.j2`. Every text goes through the template's escaping.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hypercolumns.datasets.base import VOID
from hypercolumns.errors import HypercolumnsError
from hypercolumns.reporting import figures, numbers
from hypercolumns.reporting.data import Comparison, PanelGroup, ReportData
from hypercolumns.reporting.panels import panel_pictures

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["render_html", "template_environment"]

_TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class _Image:
    uri: str
    alt: str
    caption: str = ""


def render_html(data: ReportData) -> str:
    """Render the report as one self-contained HTML document.

    Args:
        data: everything the report says.

    Returns:
        The document's text; about 70 kB and 60 kB more for each panel.

    Raises:
        HypercolumnsError: jinja2 or matplotlib, of the extra `report`, is not installed.
    """
    return (
        template_environment()
        .get_template(_TEMPLATE)
        .render(
            data=data,
            comparisons=comparisons(data),
            standing=sorted(data.rows, key=lambda row: -row.mean_iu),
            absent=[item.name for item in data.per_class if item.pixels == 0],
            class_figure=_class_figure(data),
            confusion_figure=_confusion_figure(data),
            confusions=_largest_confusions(data),
            curve_figures=[_curve_figure(curve) for curve in data.curves],
            panel_groups=[_panels(group, data) for group in data.panel_groups],
            legend=_legend(data),
            certificate=numbers.flatten(data.certificate),
            provenance=numbers.flatten(data.provenance),
            specs=json.dumps(data.specs, indent=2, ensure_ascii=False, default=str),
        )
    )


def comparisons(data: ReportData) -> tuple[Comparison, ...]:
    """Return the paired differences; where none were computed, plain ones against the rows that are not the model."""
    others = (row for row in data.rows if row.kind != "model")
    return data.comparisons or tuple(Comparison(row.name, data.headline.value - row.mean_iu) for row in others)


def template_environment() -> Environment:
    """Return what fills templates in: everything is escaped, numbers are written for people.

    Raises:
        HypercolumnsError: jinja2, of the extra `report`, is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise HypercolumnsError(
            "expected jinja2, to write a report; install it with: pip install 'hypercolumns[report]'"
        ) from error
    loader = PackageLoader("hypercolumns", "reporting")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters = (
        numbers.percent,
        numbers.interval,
        numbers.points,
        numbers.compact,
        numbers.byte_size,
        numbers.duration,
        numbers.plain,
    )
    environment.filters.update({function.__name__: function for function in filters})
    return environment


def _svg(figure: Any, alt: str, caption: str = "") -> _Image:
    return _Image(figures.data_uri(figures.svg_bytes(figure), "image/svg+xml"), alt, caption)


def _class_figure(data: ReportData) -> _Image | None:
    if not data.per_class:
        return None
    listed = "; ".join(f"{item.name} {numbers.percent(item.dense_iu)}" for item in data.per_class)
    return _svg(figures.class_bars(data.per_class), f"IU of each class: {listed}")


def _confusion_figure(data: ReportData) -> _Image | None:
    if data.confusion is None:
        return None
    return _svg(
        figures.confusion_figure(data.confusion, data.class_names), "Confusion matrix; its largest errors are listed beside it"
    )


def _curve_figure(curve: Any) -> _Image:
    ends = [f"{name} ends at {numbers.plain(values[-1])}" for name, values in curve.series.items() if values]
    return _svg(figures.curve_figure(curve), f"{curve.stage}: {'; '.join(ends)}", curve.stage)


def _largest_confusions(data: ReportData, most: int = 6) -> list[tuple[str, str, float, float]]:
    """List the costliest errors: true class, what it was taken for, share of the class, and share of all labelled pixels."""
    if data.confusion is None or not data.confusion.any():
        return []
    matrix = np.asarray(data.confusion, np.float64)
    errors = matrix * ~np.eye(len(matrix), dtype=bool)
    order = np.argsort(-errors, axis=None, kind="stable")[:most]
    pairs = [divmod(int(index), len(matrix)) for index in order]
    names, truth, total = data.class_names, matrix.sum(axis=1), matrix.sum()
    return [(names[i], names[j], errors[i, j] / truth[i], errors[i, j] / total) for i, j in pairs if errors[i, j] > 0]


def _panels(group: PanelGroup, data: ReportData) -> tuple[str, list[tuple[str, float, list[_Image]]]]:
    shown = []
    for panel in group.panels:
        pictures = panel_pictures(panel, data.palette)
        images = [
            _Image(
                figures.data_uri(picture.content, picture.media_type), f"{picture.caption} of {panel.image_id}", picture.caption
            )
            for picture in pictures
        ]
        shown.append((panel.image_id, panel.mean_iu, images))
    return group.title, shown


def _legend(data: ReportData) -> list[tuple[str, str]]:
    """Name the colours of the classes that some panel shows."""
    panels = [panel for group in data.panel_groups for panel in group.panels]
    seen = {int(label) for panel in panels for labels in (panel.truth, panel.prediction) for label in np.unique(labels)} - {
        VOID
    }
    return [(data.class_names[label], "#{:02x}{:02x}{:02x}".format(*data.palette[label].tolist())) for label in sorted(seen)]
