"""The report's short form as markdown, for a page that shows other things too: headline, scores, classes, one image.

Pictures are `data:` addresses, so the text stands alone. Everything that came from a file's or class's name is escaped.
"""

from __future__ import annotations

import html
import re

from hypercolumns.reporting import figures, numbers
from hypercolumns.reporting.data import Panel, ReportData
from hypercolumns.reporting.panels import panel_strip

__all__ = ["plain_text", "render_markdown"]

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~])")


def render_markdown(data: ReportData) -> str:
    """Render the report's short form, below 500 kB.

    Args:
        data: everything the report says; the first panel of the first group that has one is shown.

    Raises:
        HypercolumnsError: matplotlib, of the extra `report`, is not installed.
    """
    parts = [
        f"# {plain_text(data.title)}",
        _headline(data),
        *_warnings(data),
        _table(data),
        *_class_figure(data),
        *_picture(data),
    ]
    return "\n\n".join([*parts, f"Run {plain_text(data.run_id)}, {plain_text(data.date)}"]) + "\n"


def plain_text(value: str) -> str:
    """Escape a text for markdown and for the HTML inside it, on one line."""
    return _SPECIAL.sub(r"\\\1", html.escape(" ".join(value.split()), quote=False))


def _headline(data: ReportData) -> str:
    headline = data.headline
    sure = "no interval"
    if headline.interval:
        sure = f"{100 * headline.confidence:g} % interval {numbers.interval(headline.interval)}"
    return (
        f"**{numbers.percent(headline.value)} {plain_text(headline.metric)}** ({sure}, {headline.images} images, "
        f"{plain_text(headline.model)})\n\n{plain_text(headline.protocol)}"
    )


def _warnings(data: ReportData) -> list[str]:
    return ["\n".join(f"> ⚠ {plain_text(text)}" for text in data.warnings)] if data.warnings else []


def _table(data: ReportData) -> str:
    lines = [
        "| predictor | mean IU | interval | pixel accuracy | mean accuracy | freq.-weighted IU |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in data.rows:
        shares = (row.pixel_accuracy, row.mean_accuracy, row.frequency_weighted_iu)
        cells = (numbers.percent(row.mean_iu), numbers.interval(row.interval), *map(numbers.percent, shares))
        name = f"**{plain_text(row.name)}**" if row.kind == "model" else plain_text(row.name)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _class_figure(data: ReportData) -> list[str]:
    if not data.per_class:
        return []
    uri = figures.data_uri(figures.png_bytes(figures.class_bars(data.per_class)), "image/png")
    return [f"![IU of each class]({uri})"]


def _picture(data: ReportData) -> list[str]:
    panels: list[tuple[str, Panel]] = [(group.title, panel) for group in data.panel_groups for panel in group.panels[:1]]
    if not panels:
        return []
    title, panel = panels[0]
    uri = figures.data_uri(panel_strip(panel, data.palette), "image/jpeg")
    what = f"{numbers.percent(panel.mean_iu)} mean IU, {plain_text(panel.image_id)} (image, truth, prediction, error)"
    return [f"![image, truth, prediction, error]({uri})", f"{plain_text(title)}: {what}"]
