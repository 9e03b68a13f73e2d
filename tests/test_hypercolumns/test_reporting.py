"""The report as its reader gets it: complete, self-contained, and safe whatever the names are."""

from __future__ import annotations

import base64
import io
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from hypercolumns.errors import HypercolumnsError, MetricError
from hypercolumns.reporting import ClassScore, Curve, Headline, Panel, PanelGroup, ScoreRow, render_html, render_markdown
from tests.report_factory import NAMES, PALETTE, VOID, report_data, scene_panels

EVIL = "<script>alert('1')</script>|`$\\frac$"


class Page(HTMLParser):
    """Collects what a browser would see, and checks that tags are closed in order."""

    void_tags = frozenset({"meta", "img", "br"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.text = re.sub(r"[ \n]+", " ", " ".join(self.words))  # hard spaces stay

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void_tags:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


def pictures(page: Page) -> list[tuple[str, bytes]]:
    found = [
        re.fullmatch(r"data:([\w/+]+);base64,(.+)", attributes["src"] or "") for tag, attributes in page.tags if tag == "img"
    ]
    assert all(found)
    return [(match[1], base64.b64decode(match[2])) for match in found if match]


UNDRAWN = {"confusion": None, "per_class": (), "curves": (), "panel_groups": ()}


@pytest.fixture(scope="module")
def source() -> str:
    return render_html(report_data())


@pytest.fixture(scope="module")
def page(source) -> Page:
    return Page(source)


def test_the_top_says_how_good_how_sure_against_what_and_by_which_protocol(page):
    top = page.text[: page.text.index("Scores Classes")]
    for words in (
        "64.7\u00a0% mean IU",
        "95\u00a0% interval 62.9–66.3\u00a0%",
        "101 images",
        "+9.2 points against sparse stage (+8.1 to +10.4), better in every resample",
        "void ignored",
        "majority class 2.8\u00a0%",
        "0016E5_00390.jpg is truncated",
    ):
        assert words in top


def test_every_fact_is_in_the_report(page):
    for words in (
        *(row.name for row in report_data().rows),
        "4.8\u00a0GB",
        "61.3 images a second",
        "1.4 epochs",
        "179 × 239",
        "4\u00a0min\u00a025\u00a0s",
        "10 dense steps timed both ways",
        "Max relative difference",
        "8.4e−07",
        "hypercolumns run configs/camvid.yaml",
        '"hidden": 256',
        "scene_002.jpg",
        "Bicyclist",
        "void, not scored",
    ):
        assert words.lower() in page.text.lower()


def test_the_file_needs_nothing_from_outside_and_runs_nothing(page):
    assert not page.open
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "svg"}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    anchors = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert anchors <= {f"#{attributes['id']}" for _, attributes in page.tags if "id" in attributes}
    assert any("default-src 'none'" in (attributes.get("content") or "") for tag, attributes in page.tags if tag == "meta")
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")


def test_every_picture_can_be_decoded(page):
    kinds = []
    for media_type, content in pictures(page):
        kinds.append(media_type)
        if media_type == "image/svg+xml":
            ElementTree.fromstring(content)
        else:
            Image.open(io.BytesIO(content)).load()
    assert kinds.count("image/svg+xml") == 4
    assert kinds.count("image/jpeg") == kinds.count("image/png") == 6


def test_names_are_shown_as_they_are_and_never_run():
    data = report_data()
    names = (EVIL, *NAMES[1:])
    panel = replace(data.panel_groups[0].panels[0], image_id=EVIL)
    data = replace(
        data,
        title=EVIL,
        class_names=names,
        per_class=(ClassScore(EVIL, 5, 0.5), *data.per_class[1:]),
        panel_groups=(PanelGroup(EVIL, (panel,)),),
        curves=(Curve(EVIL, (1,), {EVIL: (0.5,)}),),
        rows=(*data.rows, ScoreRow(EVIL, 0.1, 0.1, 0.1, 0.1, note=EVIL)),
        specs={EVIL: EVIL},
        provenance={EVIL: {"inner": EVIL}},
        warnings=(EVIL,),
        reproduce=(EVIL,),
    )
    page = Page(render_html(data))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(EVIL) >= 10
    for media_type, content in pictures(page):
        if media_type == "image/svg+xml":
            assert not [node for node in ElementTree.fromstring(content).iter() if node.tag.endswith("script")]
    markdown = render_markdown(data)
    assert "<script" not in markdown
    row = next(line for line in markdown.splitlines() if line.startswith("| &lt;script"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 7


def test_a_report_of_the_least_data_is_whole():
    data = report_data(
        panels=(),
        headline=Headline(value=0.5, images=1, protocol="shapes val"),
        rows=(ScoreRow("dense classifier", 0.6, 0.5, 0.5, 0.4, kind="model"),),
        comparisons=(),
        confusion=None,
        per_class=(),
        curves=(),
        panel_groups=(),
        store=None,
        timings=(),
        savings=(),
        certificate={},
        specs={},
        provenance={},
        warnings=(),
        reproduce=(),
    )
    page = Page(render_html(data))
    assert not page.open
    assert "No interval was computed; 1 image, dense classifier" in page.text
    assert not [tag for tag, _ in page.tags if tag == "img"]
    anchors = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert anchors == {"#scores", "#provenance"}
    assert "no interval, 1 images" in render_markdown(data)


def test_without_paired_comparisons_plain_differences_are_given():
    text = Page(render_html(report_data(**UNDRAWN | {"comparisons": ()}))).text
    assert "+14.7 points against deepest layer only +" in text


def test_classes_without_pixels_are_named():
    per_class = (ClassScore("Car", 9, 0.5), ClassScore("Bicyclist", 0, None))
    text = Page(render_html(report_data(**UNDRAWN | {"per_class": per_class}))).text
    assert "left out of every mean: Bicyclist." in text


def test_the_costliest_confusion_comes_first():
    confusion = np.eye(11, dtype=np.int64) * 90
    confusion[2, 1] = 10
    confusion[4, 3] = 30
    text = Page(render_html(report_data(**UNDRAWN | {"confusion": confusion}))).text
    table = text[text.index("Costliest confusions") : text.index("Store and time The")]
    assert "Pavement Road 25.0\u00a0% 2.9\u00a0% Pole Building 10.0\u00a0% 1.0\u00a0%" in table
    flawless = report_data(**UNDRAWN | {"confusion": np.eye(11, dtype=np.int64)})
    assert "Costliest" not in Page(render_html(flawless)).text


def test_the_same_data_gives_the_same_bytes(source):
    assert render_html(report_data()) == source
    assert render_markdown(report_data()) == render_markdown(report_data())


def test_nine_photographs_stay_below_three_megabytes_and_the_short_form_below_half_of_one():
    generator = np.random.default_rng(0)
    panels = []
    for index in range(9):
        coarse = Image.fromarray(generator.integers(0, 256, (90, 120, 3), dtype=np.uint8))
        image = np.asarray(coarse.resize((960, 720), Image.Resampling.BICUBIC))
        truth = np.repeat(np.repeat(generator.integers(0, 11, (45, 60), dtype=np.uint8), 16, axis=0), 16, axis=1)
        panels.append(Panel(f"{index}.jpg", image, truth, np.roll(truth, 3, axis=1), 0.5))
    data = report_data(panels, curves=())
    assert len(render_html(data).encode()) < 3_000_000
    assert len(render_markdown(data).encode()) < 500_000


def test_the_short_form_has_the_headline_the_table_the_classes_and_one_image():
    markdown = render_markdown(report_data())
    assert markdown.startswith(
        "# CamVid, SqueezeNet 1.1, 11 classes\n\n**64.7\u00a0% mean IU** (95 % interval 62.9–66.3\u00a0%, 101 images"
    )
    assert "| **dense classifier** | 64.7\u00a0% | 62.9–66.3\u00a0% | 89.7\u00a0% | 74.8\u00a0% | 82.6\u00a0% |" in markdown
    assert "> ⚠ 1 of 469 images" in markdown
    found = re.findall(r"!\[[^]]+\]\(data:image/(png|jpeg);base64,([^)]+)\)", markdown)
    assert [kind for kind, _ in found] == ["png", "jpeg"]
    width, height = Image.open(io.BytesIO(base64.b64decode(found[1][1]))).size
    assert (width, height) == (4 * 64 + 3 * 4, 48)


@pytest.mark.parametrize(
    ("module", "render"), [("jinja2", render_html), ("matplotlib.figure", render_html), ("matplotlib.figure", render_markdown)]
)
def test_a_missing_extra_is_named_with_its_remedy(monkeypatch, module, render):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(HypercolumnsError, match=re.escape("hypercolumns[report]")):
        render(report_data())


def test_data_that_does_not_fit_together_is_refused():
    panel = scene_panels(1)[0]
    with pytest.raises(MetricError, match="truth's size"):
        replace(panel, prediction=panel.prediction[:-1])
    with pytest.raises(MetricError, match="truth's size"):
        replace(panel, image=panel.image.astype(np.float32))
    with pytest.raises(MetricError, match="2 values of 'loss'"):
        Curve("dense", (1, 2), {"loss": (0.1,)})
    with pytest.raises(MetricError, match="palette"):
        report_data(palette=PALETTE[:3])
    with pytest.raises(MetricError, match="confusion matrix"):
        report_data(confusion=np.eye(3))
    assert VOID not in range(len(NAMES))
