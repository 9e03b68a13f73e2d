"""What the report's charts and pictures show, pixel by pixel and label by label."""

from __future__ import annotations

import io
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from hypercolumns.reporting import ClassScore, Curve, Panel
from hypercolumns.reporting import figures as drawing
from hypercolumns.reporting.numbers import byte_size, compact, duration, flatten, interval, percent, plain, points
from hypercolumns.reporting.panels import panel_pictures
from tests.report_factory import PALETTE, VOID


def panel(side: int = 40) -> Panel:
    truth = np.zeros((side, side), np.uint8)
    truth[:, side // 2 :] = 3
    truth[: side // 4] = VOID
    prediction = np.zeros((side, side), np.int64)
    prediction[:, side // 2 :] = 3
    prediction[-side // 4 :] = 5
    return Panel("x", np.full((side, side, 3), 90, np.uint8), truth, prediction, 0.5)


def decode(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def texts(figure) -> list[str]:
    nodes = ElementTree.fromstring(drawing.svg_bytes(figure)).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(node.itertext()) for node in nodes]


def test_label_maps_keep_the_palette_inside_regions_and_an_outline_between_them():
    _, truth, prediction, _ = panel_pictures(panel(), PALETTE)
    colours = decode(truth.content)
    np.testing.assert_array_equal(colours[30, 10], PALETTE[0])
    np.testing.assert_array_equal(colours[30, 30], PALETTE[3])
    np.testing.assert_array_equal(colours[30, 20], PALETTE[3] // 3)
    np.testing.assert_array_equal(decode(prediction.content)[35, 10], PALETTE[5])


def test_every_colour_of_a_large_palette_survives_encoding():
    palette = np.random.default_rng(0).integers(0, 256, (60, 3)).astype(np.uint8)
    labels = np.repeat(np.repeat(np.arange(60, dtype=np.uint8).reshape(6, 10), 9, axis=0), 9, axis=1)
    picture = panel_pictures(Panel("x", np.zeros((54, 90, 3), np.uint8), labels, labels, 1.0), palette)[1]
    np.testing.assert_array_equal(decode(picture.content)[4::9, 4::9].reshape(60, 3), palette)


def test_the_error_picture_is_loud_where_wrong_grey_where_right_and_hatched_where_void():
    error = decode(panel_pictures(panel(), PALETTE)[3].content)
    wrong, right, void = error[33:, 4:36], error[14:26, 4:36], error[1:9, 2:38]
    assert np.all(wrong[..., 0] - wrong[..., 1] > 150)
    assert np.ptp(right, axis=2).max() < 12
    assert np.ptp(void, axis=2).max() < 12
    assert void.std() > 25
    assert right.std() < 5


def test_pictures_are_shrunk_to_the_width_and_never_grown():
    for side, expected in ((40, 40), (900, 400)):
        for picture in panel_pictures(panel(side), PALETTE):
            assert decode(picture.content).shape[:2] == (expected, expected)


def test_class_bars_are_sorted_with_counts_values_and_a_named_legend():
    scores = [
        ClassScore("low", 1200, 0.2, 0.1, (0.15, 0.25)),
        ClassScore("none", 0, None),
        ClassScore("cash$flow_$x", 3_400_000, 0.9, 0.7),
    ]
    words = texts(drawing.class_bars(scores))
    rows = [word for word in words if "(" in word]
    assert rows == ["cash$flow $x (3.4\u00a0M)", "low (1.2\u00a0k)", "none (0)"]
    assert {"90.0", "20.0", "no pixels", "dense", "sparse", "interval"} <= set(words)
    assert not {"sparse", "interval"} & set(texts(drawing.class_bars([ClassScore("a", 1, 0.5)])))


@pytest.mark.parametrize("classes", [2, 21, 26])
def test_every_class_labels_a_row_and_a_column_of_the_confusion_matrix(classes):
    names = [f"class {index}" for index in range(classes)]
    matrix = np.eye(classes, dtype=np.int64) * 3
    matrix[0, 1] = 1
    matrix[-1] = 0
    words = texts(drawing.confusion_figure(matrix, names))
    assert all(words.count(name) == 2 for name in names)
    assert ("75" in words) == ("25" in words) == (classes <= 24)


def test_curves_part_losses_from_scores_and_skip_what_was_not_measured():
    figure = drawing.curve_figure(
        Curve("dense", (1, 2, 3), {"train_loss": (3.0, 2.0, 1.0), "holdout_mean_iu": (None, 0.5, 0.6)})
    )
    losses, scores = figure.axes
    np.testing.assert_array_equal(losses.lines[0].get_ydata(), [3, 2, 1])
    np.testing.assert_array_equal(scores.lines[0].get_ydata(), [np.nan, 50, 60])
    assert {"train loss", "holdout mean IU", "loss", "score in %", "epoch"} <= set(texts(figure))
    assert texts(drawing.curve_figure(Curve("empty", (), {}))) == ["epoch"]


def test_drawing_leaves_matplotlib_as_it_was(monkeypatch):
    import matplotlib

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would fail
    before = {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
    drawing.svg_bytes(drawing.class_bars([ClassScore("a", 1, 0.5)]))
    assert {name: matplotlib.rcParams[name] for name in before} == before


def test_numbers_are_written_for_people():
    written = [percent(0.6421), percent(None), interval((0.619, 0.664)), interval(None), points(0.1214), points(-0.05)]
    assert written == ["64.2\u00a0%", "–", "61.9–66.4\u00a0%", "–", "+12.1", "−5.0"]
    assert [compact(7), compact(1200), compact(16_900_000)] == ["7", "1.2\u00a0k", "16.9\u00a0M"]
    assert [byte_size(12), byte_size(312e6), byte_size(5e18)] == ["12\u00a0B", "312\u00a0MB", "5000000\u00a0TB"]
    times = [duration(0.42), duration(12.34), duration(265.4), duration(7500), duration(None)]
    assert times == ["0.42\u00a0s", "12.3\u00a0s", "4\u00a0min\u00a025\u00a0s", "2\u00a0h\u00a005\u00a0min", "–"]
    assert [plain(value) for value in (True, False, 1e-7, -0.5, (1, 2.0), None, "x")] == [
        "yes",
        "no",
        "1e−07",
        "−0.5",
        "1, 2",
        "–",
        "x",
    ]
    assert flatten({"a_b": {"mean_iu": 1}, "c": "d"}) == [("a b: mean IU", "1"), ("c", "d")]
