"""The report of a run: one file that holds what the run found, and nothing that a name could smuggle in."""

import re

import pytest

from tests.pipeline_factory import LAYERS, run_tasks, tiny_spec


def test_the_report_holds_headline_baselines_classes_store_specs_and_provenance(outcome):
    written = outcome.report()
    page = written.path.read_text(encoding="utf-8")
    for text in (
        f"{outcome.evaluated.metrics['mean_iu'] * 100:.1f}",
        *("majority class", "class prior", "raw RGB, same head", "deepest layer only", "position only"),
        *("sparse stage, true priors restored", "ground", "box", "disc", "stripe"),
        *(*LAYERS, outcome.extracted.key, "label resolution, void ignored", "random:0", "git commit"),
    ):
        assert text in page, text
    assert page.count("data:image/") >= 3
    assert not re.search(r"(?:src|href)=[\"']?https?:", page), "nothing may be fetched from elsewhere"


def test_the_markdown_form_is_short_and_holds_the_headline(outcome):
    text = outcome.report().markdown_path.read_text(encoding="utf-8")
    assert f"{outcome.evaluated.metrics['mean_iu'] * 100:.1f}" in text
    assert "majority" in text
    assert "http" not in text


def test_names_from_the_data_set_are_text_in_the_report_and_never_markup(data, workspace):
    evil = "<script>alert(1)</script>"
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            # A name cannot hold a slash; the closing tag comes from the class list.
            (data / kind / split / "000.png").rename(data / kind / split / "<script>alert(0).png")
    (data / "classes.txt").write_text(f"ground\n{evil}\ndisc & co\n<b>stripe\n", encoding="utf-8")
    written = run_tasks(tiny_spec(data, evaluate__panels=3), workspace).report()
    page = written.path.read_text(encoding="utf-8")
    assert evil not in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(0)" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<b>stripe" not in page
    assert "<script>" not in written.markdown_path.read_text(encoding="utf-8")


@pytest.mark.parametrize("panels", [0, 2])
def test_a_report_can_be_written_with_few_or_no_panels_and_without_intervals(data, workspace, panels):
    spec = tiny_spec(data, evaluate__panels=panels, evaluate__bootstrap=0, evaluate__baselines=[])
    page = run_tasks(spec, workspace).report().path.read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")


def test_a_report_says_what_reading_saved_and_from_when_storing_pays(data, workspace):
    page = run_tasks(tiny_spec(data), workspace).report().path.read_text(encoding="utf-8")
    assert "ms through the backbone" in page
    assert "reading maps in place of recomputing them" in page
