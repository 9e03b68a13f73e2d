"""The history of a line: what it says, that it needs nothing else, and that names cannot break out of it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from hypercolumns.reporting import trends
from hypercolumns.reporting.history import render_history, render_history_markdown
from hypercolumns.reporting.history_data import ChampionChange, FrozenScore, HistoryData, Night

START = datetime(2026, 3, 1, 3, 30, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>"


def night(day, **changes):
    settings = {
        "time": START + timedelta(days=day),
        "outcome": "promoted" if day % 3 == 0 else "kept",
        "run_id": f"run-{day}",
        "challenger_mean_iu": 0.5 + day / 100,
        "champion_mean_iu": None if day == 0 else 0.5,
        "difference": None if day == 0 else day / 100,
        "interval": None if day == 0 else (day / 100 - 0.012, day / 100 + 0.015),
        "reasons": (f"reason of day {day}",),
        "origin": "warm start",
        "news": f"{day} new images",
        "images": {"train": 100 + day, "val": 20},
        "images_extracted": day,
        "bytes_extracted": day * 1_000_000,
        "seconds": 60.0 + day,
        "warnings": ("labels drifted",) if day == 2 else (),
    }
    return Night(**(settings | changes))


def score(week, **changes):
    settings = {
        "time": START + timedelta(weeks=week),
        "model": f"model{week}",
        "mean_iu": 0.6 + week / 100,
        "interval": (0.58 + week / 100, 0.63 + week / 100),
        "per_class": {"road": 0.9, "sky": 0.8 - week / 10, "never": None},
        "images": 42,
        "set_digest": "abc123",
    }
    return FrozenScore(**(settings | changes))


@pytest.fixture
def data():
    return HistoryData(
        line="weeds",
        date="2026-03-20 10:00 UTC",
        champion="m" * 20,
        champion_run="run-6",
        since=START + timedelta(days=6),
        pinned=True,
        nights=tuple(night(day) for day in range(7)),
        scores=(score(0), score(1), score(2, interval=None)),
        changes=(ChampionChange(START, "rolled back", "ada", "m" * 20, ("it calls sky road",)),),
    )


class Page(HTMLParser):
    """The page's text, its tags, and where its pictures come from."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.sources = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_the_page_tells_nights_scores_and_changes_and_needs_nothing_else(data):
    page = Page(render_history(data))
    assert page.sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    assert not {"script", "link", "iframe"} & set(page.tags)
    for words in (
        "reason of day 5",
        "+5.0",
        "+3.8 to +6.5",
        "5.0 MB",
        "1 min 05 s",
        "data check: labels drifted",
        "warm start",
    ):
        assert words in page.text, words
    for words in ("62.0 %", "60.0 %", "rolled back", "it calls sky road", "ada", "abc123", "frozen set of 42 images", "pinned"):
        assert words in page.text, words
    assert page.text.index("run-6") < page.text.index("run-5"), "the latest comes first"


def test_the_short_form_tells_the_champion_and_the_latest_nights(data):
    text = render_history_markdown(data).replace("\u00a0", " ")
    assert text.startswith("# History of weeds\n")
    assert "**62.0 % mean IU**." in text
    assert "| 2026-03-07 03:30 | promoted | +6.0 | +4.8 to +7.5 | 6 | 1 min 06 s | reason of day 6 |" in text
    assert "](data:image/png;base64," in text


def test_a_line_without_a_champion_nights_or_scores_is_told_as_such():
    data = HistoryData("weeds", "today")
    assert "No champion yet." in Page(render_history(data)).text
    assert render_history_markdown(data) == "# History of weeds\n\nNo champion yet.\n\ntoday\n"


def test_names_cannot_break_out(data):
    hostile = HistoryData(
        line=HOSTILE,
        date="today",
        champion=HOSTILE,
        champion_run=HOSTILE,
        since=START,
        nights=(night(1, reasons=(HOSTILE + " | x",), news=HOSTILE, run_id=HOSTILE, warnings=(HOSTILE,), images={"$tr": 1}),),
        scores=(score(0, per_class={HOSTILE: 0.5, "$x$": 0.1}),),
        changes=(ChampionChange(START, HOSTILE, HOSTILE, HOSTILE, (HOSTILE,)),),
    )
    html = render_history(hostile)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "<script" not in render_history_markdown(hostile)
    assert r"\| x" in render_history_markdown(hostile)


def test_charts_hold_every_night_and_every_score(data):
    axes = trends.score_trend(data).axes[0]
    assert [len(line.get_xdata()) for line in axes.lines[:2]] == [3, 4], "promoted and refused challengers"
    (bars,) = axes.containers
    assert list(bars.lines[0].get_ydata()) == pytest.approx([60, 61, 62])
    classes = trends.class_trends(data).axes
    assert [chart.get_title() for chart in classes] == ["road", "sky", "never"]
    assert list(classes[1].lines[0].get_ydata()) == pytest.approx([80, 70, 60])
    assert not classes[2].lines
    growth = trends.growth_trend(data).axes[0]
    assert list(growth.lines[0].get_ydata()) == [100 + day for day in range(7)]
    cost = trends.cost_trend(data).axes[0]
    assert [bar.get_height() for bar in cost.patches] == [60 + day for day in range(7)]
    assert [text.get_text() for text in cost.texts] == [str(day) for day in range(7)]


def test_an_interval_that_does_not_hold_the_score_is_drawn_without_a_negative_length():
    data = HistoryData("weeds", "today", scores=(score(0, mean_iu=0.9),))
    assert trends.score_trend(data).axes[0].containers
    assert data.class_names == ("road", "sky", "never")
