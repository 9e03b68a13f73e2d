"""The report of predictions inside boxes: what is in the file, what is escaped, what pictures show."""

import re

import numpy as np
import pytest

from hypercolumns.errors import MetricError
from hypercolumns.reporting.box_data import BoxReport, Chart, Series, Shot, ShotGroup, Table
from hypercolumns.reporting.box_pictures import around, cut, draw_mask, draw_parts, draw_pose
from hypercolumns.reporting.boxes import render_box_html, render_box_markdown

GREY = np.full((60, 80, 3), 128, np.uint8)


def report(**changes):
    values = {
        "title": "a <b> & |c|",
        "run_id": "run-1",
        "date": "today",
        "headline": "61.0 %",
        "sentence": "AP^r at 0.5.",
        "protocol": "by hand",
        "tables": (Table("Scores", ("who", "AP"), (("model", "61.0 %"), ("box", "50.0 %")), "a note", frozenset({0})),),
        "charts": (
            Chart("curve", "lines", (0.1, 0.2), (Series("a$b", (0.1, 0.5)), Series("c", (0.2,))), "x", "y", {"c": (0.1,)}),
            Chart("stacks", "stacked", ("one", "two"), (Series("m", (0.1, 0.5)), Series("n", (0.9, 0.3))), "", "share"),
            Chart("bars", "bars", ("one", "two"), (Series("m", (0.1, 0.5), ((0.0, 0.2), None)),), "", "score"),
        ),
        "shots": (ShotGroup("best", (Shot("a house", (("image", GREY), ("truth", GREY))),)),),
        "specs": {"a": 1},
        "provenance": {"commit": "abc"},
        "warnings": ("look out",),
    }
    return BoxReport(**(values | changes))


def test_the_document_holds_everything_and_fetches_nothing():
    text = render_box_html(report())
    assert text.count("data:image/svg+xml;base64,") == 3
    assert text.count("data:image/jpeg;base64,") == 2
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "a &lt;b&gt; &amp; |c|" in text
    for word in ("61.0 %", "AP^r at 0.5.", "by hand", "a note", "look out", "a house", "abc", 'class="model"'):
        assert word in text


def test_the_short_form_has_tables_two_charts_and_one_object():
    text = render_box_markdown(report())
    assert "| who | AP |" in text
    assert "| **model** | 61.0 % |" in text
    assert text.count("data:image/png;base64,") == 2
    assert r"a &lt;b&gt; &amp; \|c\|" in text
    assert "⚠ look out" in text
    assert "data:image" not in render_box_markdown(report(charts=(), shots=()))


def test_rows_and_series_of_the_wrong_length_are_refused():
    with pytest.raises(MetricError, match="2 cells"):
        Table("t", ("a", "b"), (("one",),))
    with pytest.raises(MetricError, match="2 values of 's'"):
        Chart("c", "lines", (0.0, 1.0), (Series("s", (1.0,)),), "x", "y")


def test_a_mask_and_parts_tint_their_own_pixels_alone():
    mask = np.zeros((60, 80), bool)
    mask[20:40, 20:60] = True
    shown = draw_mask(GREY, mask)
    assert (shown[~mask] == 128).all() or (shown[:19] == 128).all()
    assert (shown[25, 30] != 128).any()
    parts = np.where(mask, 2, 0).astype(np.uint8)
    parts[20:40, 50:60] = 255
    shown = draw_parts(GREY, parts)
    assert (shown[30, 30] != shown[5, 5]).any()
    assert (shown[30, 55] == 128).all(), "an unknown part is left as it is"


def test_a_pose_is_drawn_where_its_points_are_shown():
    points = np.array([[10.0, 10], [70, 50], [40, 5]])
    shown = draw_pose(GREY, points, np.array([True, True, False]), [(0, 1), (1, 2)])
    assert (shown[10, 10] != 128).any()
    assert (shown[30, 40] != 128).any(), "the line between the two"
    assert (shown[5, 40] == 128).all()


def test_windows_stay_in_the_image_and_pictures_get_a_size_to_look_at():
    assert around((10.0, 10, 30, 30), (60, 80), 0.5) == (slice(0, 40), slice(0, 40))
    assert around((79.9, 59.9, 80, 60), (60, 80), 0) == (slice(59, 60), slice(79, 80))
    assert max(cut(GREY, (slice(0, 10), slice(0, 20))).shape) == 260
    assert cut(np.zeros((900, 600, 3), np.uint8), (slice(None), slice(None))).shape == (260, 173, 3)
