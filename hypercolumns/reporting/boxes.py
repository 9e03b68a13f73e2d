"""The report of predictions inside boxes: one HTML file that needs nothing else, and a short markdown form of it."""

from __future__ import annotations

import html
import io
import json
import re

from PIL import Image

from hypercolumns.reporting import figures, numbers
from hypercolumns.reporting.box_data import BoxReport, Chart, Shot, Table
from hypercolumns.reporting.box_figures import draw_chart
from hypercolumns.reporting.html import template_environment

__all__ = ["render_box_html", "render_box_markdown"]

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~])")
_MARKDOWN_CHARTS = 2


def render_box_html(report: BoxReport) -> str:
    """Render a report as one self-contained HTML document.

    Raises:
        HypercolumnsError: jinja2 or matplotlib, of the extra `report`, is not installed.
    """
    return (
        template_environment()
        .get_template("boxes.html.j2")
        .render(
            report=report,
            charts=[(chart, _chart_uri(chart)) for chart in report.charts],
            shots=[(group.title, [(shot.title, _picture_uris(shot)) for shot in group.shots]) for group in report.shots],
            provenance=numbers.flatten(report.provenance),
            specs=json.dumps(report.specs, indent=2, ensure_ascii=False, default=str),
        )
    )


def render_box_markdown(report: BoxReport) -> str:
    """Render a report's short form: headline, tables, the first charts, and one object."""
    parts = [
        f"# {_text(report.title)}",
        f"**{_text(report.headline)}** {_text(report.sentence)}",
        _text(report.protocol),
        *(f"> ⚠ {_text(warning)}" for warning in report.warnings),
        *(_markdown_table(table) for table in report.tables),
    ]
    for chart in report.charts[:_MARKDOWN_CHARTS]:
        uri = figures.data_uri(figures.png_bytes(draw_chart(chart)), "image/png")
        parts.append(f"![{_text(chart.title)}]({uri})")
    for group in report.shots[:1]:
        for shot in group.shots[:1]:
            parts.append(f"{_text(group.title)}: {_text(shot.title)}")
            parts += [f"![{_text(caption)}]({uri})" for caption, uri in _picture_uris(shot)]
    return "\n\n".join([*parts, f"Run {_text(report.run_id)}, {_text(report.date)}"]) + "\n"


def _chart_uri(chart: Chart) -> str:
    return figures.data_uri(figures.svg_bytes(draw_chart(chart)), "image/svg+xml")


def _picture_uris(shot: Shot) -> list[tuple[str, str]]:
    found = []
    for caption, picture in shot.pictures:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=82, optimize=True)
        found.append((caption, figures.data_uri(buffer.getvalue(), "image/jpeg")))
    return found


def _markdown_table(table: Table) -> str:
    lines = [
        f"**{_text(table.title)}**",
        "",
        f"| {' | '.join(_text(column) for column in table.columns)} |",
        f"| --- |{' ---: |' * (len(table.columns) - 1)}",
    ]
    for number, row in enumerate(table.rows):
        cells = [_text(cell) for cell in row]
        if number in table.strong:
            cells[0] = f"**{cells[0]}**"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *(["", _text(table.note)] if table.note else [])])


def _text(value: str) -> str:
    """Escape for markdown and for the HTML inside it, on one line."""
    return _SPECIAL.sub(r"\\\1", html.escape(" ".join(value.split()), quote=False))
