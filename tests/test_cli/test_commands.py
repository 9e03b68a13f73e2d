"""What the commands print: text for people, one JSON object on the last line for programs."""

import dataclasses
import json

import pytest

from tests.factories import make_image, make_mask, save_image
from tests.pipeline_factory import LAYERS, read_picture


def test_a_plan_says_what_extraction_costs_and_extracts_nothing(hypercolumns, config, tmp_path):
    ran = hypercolumns("plan", config, "dataset.limit_train=4", "--workspace", tmp_path / "w", "--json")
    assert ran.code == 0
    assert (ran.last["images"], ran.last["missing"], ran.last["fits"]) == (7, 7, True)
    assert not list((tmp_path / "w").rglob("c.0.*"))
    text = hypercolumns("plan", config, "--workspace", tmp_path / "w").out
    assert "images and views   9, of which 9 are to be computed" in text
    assert "it fits" in text


def test_overrides_change_the_experiment_and_may_stand_alone(hypercolumns, data, tmp_path):
    ran = hypercolumns(
        *("plan", "dataset.kind=folder", f"dataset.root={data}", "backbone.weights=random:0", "store.canvas.size_hw=[64, 64]"),
        *("store.views=[identity, hflip]", "--workspace", tmp_path / "w", "--json"),
    )
    assert ran.code == 0, ran.err
    assert ran.last["images"] == 6 * 2 + 3


def test_the_workspace_can_come_from_the_environment(hypercolumns, finished, monkeypatch):
    monkeypatch.setenv("HYPERCOLUMNS_HOME", str(finished.workspace))
    assert [row["run_id"] for row in hypercolumns("runs", "ls", "--json").last] == [finished.run_id]


def test_stores_are_listed_described_and_weighed(hypercolumns, finished):
    options = ("--workspace", finished.workspace)
    key = finished.outcome.extracted.key
    (listed,) = hypercolumns("store", "ls", *options, "--json").last
    assert (listed["key"], listed["rows"]) == (key, 9)
    assert f"{key}" in hypercolumns("store", "ls", *options).out
    (described,) = hypercolumns("store", "info", key[:6], *options, "--json").last
    assert described["key_fields"]["backbone"]
    assert set(described["layers"]) == set(LAYERS)
    usage = hypercolumns("store", "du", *options, "--json").last[key]
    on_disk = {layer: sum(p.stat().st_size for p in (finished.outcome.extracted.path / layer).rglob("c.*")) for layer in LAYERS}
    for layer in LAYERS:
        assert on_disk[layer] <= usage["layers"][layer] <= on_disk[layer] + 5000
    assert usage["total"] >= sum(usage["layers"].values())
    assert "MB" in hypercolumns("store", "du", *options).out
    assert hypercolumns("store", "verify", *options).out == f"{key}: whole\n"
    assert hypercolumns("store", "verify", "--quick", *options, "--json").last == {key: []}


def test_an_empty_workspace_has_no_stores_and_no_runs(hypercolumns, tmp_path):
    options = ("--workspace", tmp_path)
    assert hypercolumns("store", "ls", *options, "--json").last == []
    assert hypercolumns("store", "ls", *options).out == "no stores yet\n"
    assert hypercolumns("runs", "ls", *options, "--json").last == []
    assert "hypercolumns demo" in hypercolumns("runs", "ls", *options).out


def test_runs_are_listed_and_shown(hypercolumns, finished):
    options = ("--workspace", finished.workspace)
    (row,) = hypercolumns("runs", "ls", *options, "--json").last
    assert (row["run_id"], row["status"]) == (finished.run_id, "finished")
    assert f"{finished.run_id}" in hypercolumns("runs", "ls", *options).out
    shown = hypercolumns("runs", "show", finished.run_id, *options, "--json").last
    assert shown["status"] == "finished"
    assert shown["keys"]["train"] == finished.outcome.trained.key
    assert shown["spec"]["name"] == "tiny"
    text = json.loads(hypercolumns("runs", "show", finished.run_id, *options).out)
    assert "entries" not in text
    assert text["timings"].keys() == {"prepare", "extract", "sample", "pretrain", "train", "evaluate"}


def test_predict_writes_masks_with_the_model_of_a_run(hypercolumns, finished, tmp_path):
    save_image(tmp_path / "in" / "one.jpg", make_image(make_mask((30, 50))))
    (tmp_path / "in" / "bad.jpg").write_bytes(b"no image")
    arguments = ("predict", "latest", tmp_path / "in", "--out", tmp_path / "out", "--workspace", finished.workspace)
    stopped = hypercolumns(*arguments)
    assert stopped.code == 2
    assert "bad.jpg" in stopped.err
    ran = hypercolumns(*arguments, "--skip-bad", "--json")
    assert ran.code == 0
    assert list(ran.last["rejected"]) == [str(tmp_path / "in" / "bad.jpg")]
    assert read_picture(tmp_path / "out" / "one.png").shape == (30, 50)
    assert "left out" in hypercolumns(*arguments, "--skip-bad").out


@pytest.mark.parametrize("images", [4])
def test_shapes_are_made_and_counted(hypercolumns, tmp_path, images):
    arguments = ("shapes", "make", tmp_path / "figures", "--images", images, "--size", 64, "--seed", 3)
    ran = hypercolumns(*arguments, "--json")
    assert ran.code == 0
    assert len(list((tmp_path / "figures" / "JPEGImages").iterdir())) == images
    assert isinstance(ran.last, dict)
    assert hypercolumns("shapes", "make", tmp_path / "small", "--size", 3).code == 2


def test_crowded_shapes_are_made_and_unknown_scenery_is_refused(hypercolumns, tmp_path):
    arguments = ("shapes", "make", tmp_path / "figures", "--images", 2, "--size", 64, "--scenery")
    assert hypercolumns(*arguments, "crowded").code == 0
    assert "totem" in (tmp_path / "figures" / "classes.txt").read_text()
    assert hypercolumns(*arguments, "empty").code == 2


def test_pretrain_backbone_passes_its_options_on_and_writes_a_card(hypercolumns, tmp_path, monkeypatch):
    from hypercolumns import pretraining

    seen = []

    @dataclasses.dataclass
    class Result:
        test_accuracy: float = 0.5
        seconds: float = 1.0

    monkeypatch.setattr(pretraining, "pretrain_backbone", lambda spec, report: seen.append(spec) or Result())
    monkeypatch.setattr(pretraining, "write_backbone", lambda out, result: out.write_bytes(b""))
    monkeypatch.setattr(pretraining, "model_card", lambda spec, result: "# card")
    out = tmp_path / "weights.safetensors"
    ran = hypercolumns("pretrain-backbone", "--out", out, "--epochs", 3, "--seed", 12, "--json")
    assert ran.last == {"path": str(out), "test_accuracy": 0.5, "seconds": 1.0}
    assert (seen[0].epochs, seen[0].seed) == (3, 12)
    assert out.with_suffix(".md").read_text(encoding="utf-8") == "# card"
    assert hypercolumns("pretrain-backbone", "--out", out, "--epochs", -1).code == 2


def test_json_never_holds_what_is_not_json(capsys):
    from cli.context import emit

    with pytest.raises(ValueError, match="not JSON compliant"):
        emit({"score": float("nan")}, True, "")
    emit({"score": 0.5}, True, "text")
    assert capsys.readouterr().out == '{"score": 0.5}\n'
