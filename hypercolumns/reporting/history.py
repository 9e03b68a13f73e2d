"""The history of a task line as one HTML file that needs nothing else, and as markdown.

Every text goes through escaping: names of classes, runs and people come from files and strangers.
"""

from __future__ import annotations

from typing import Any

from hypercolumns.reporting import figures, numbers, trends
from hypercolumns.reporting.history_data import HistoryData
from hypercolumns.reporting.html import template_environment
from hypercolumns.reporting.markdown import plain_text

__all__ = ["render_history", "render_history_markdown"]

_TEMPLATE = "history.html.j2"
_SHOWN = 15


def render_history(data: HistoryData) -> str:
    """Render a history as one self-contained HTML document.

    Args:
        data: everything it says.

    Raises:
        HypercolumnsError: jinja2 or matplotlib, of the extra `report`, is not installed.
    """
    charts = [(title, figures.data_uri(figures.svg_bytes(figure), "image/svg+xml")) for title, figure in _charts(data)]
    return template_environment().get_template(_TEMPLATE).render(data=data, charts=charts, confidence=100 * data.confidence)


def render_history_markdown(data: HistoryData) -> str:
    """Render a history's short form: the champion, the scores as a chart, the latest nights.

    Args:
        data: everything it says.

    Raises:
        HypercolumnsError: matplotlib, of the extra `report`, is not installed.
    """
    parts = [f"# History of {plain_text(data.line)}", _champion(data)]
    if data.nights or data.scores:
        uri = figures.data_uri(figures.png_bytes(trends.score_trend(data)), "image/png")
        parts.append(f"![mean IU over time]({uri})")
    if data.nights:
        parts.append(_nights(data))
    return "\n\n".join([*parts, plain_text(data.date)]) + "\n"


def _charts(data: HistoryData) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    if data.nights or data.scores:
        found.append(("Mean IU over time", trends.score_trend(data)))
    if data.scores:
        found.append(("IU of each class on the frozen set, in %", trends.class_trends(data)))
    if data.nights:
        found.append(("Images", trends.growth_trend(data)))
        found.append(("Cost of each night", trends.cost_trend(data)))
    return found


def _champion(data: HistoryData) -> str:
    if data.champion is None or data.since is None:
        return "No champion yet."
    pinned = ", pinned" if data.pinned else ""
    who = f"**Champion** {plain_text(data.champion)} of run {plain_text(data.champion_run)}"
    text = f"{who}, since {data.since:%Y-%m-%d %H:%M} UTC{pinned}."
    if data.scores:
        last = data.scores[-1]
        text += f" On the frozen set of {last.images} images: **{numbers.percent(last.mean_iu)} mean IU**"
        text += f" ({numbers.interval(last.interval)})." if last.interval else "."
    return text


def _nights(data: HistoryData) -> str:
    lines = [
        "| night | outcome | gain, points | interval | images extracted | time | why |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for night in reversed(data.nights[-_SHOWN:]):
        gain = "–" if night.difference is None else numbers.points(night.difference)
        bounds = "–" if night.interval is None else " to ".join(map(numbers.points, night.interval))
        cost = f"{night.images_extracted} | {numbers.duration(night.seconds)}"
        why = plain_text(night.reasons[0]) if night.reasons else ""
        lines.append(f"| {night.time:%Y-%m-%d %H:%M} | {night.outcome} | {gain} | {bounds} | {cost} | {why} |")
    return "\n".join(lines)
