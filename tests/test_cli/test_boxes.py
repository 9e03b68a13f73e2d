"""The commands inside boxes: what files they take, what they refuse, and predictions with the head of a run."""

import json

import numpy as np
import pytest

from cli.config import load_box_experiment, load_comparison
from hypercolumns.errors import SpecError
from tasks.boxes.manifests import load_box_manifest
from tasks.boxes.record import begin_box_run
from tasks.record import finish_run, note_stage
from tests.box_factory import box_spec, box_values, run_boxes
from tests.factories import save_image
from tests.pipeline_factory import write_config


def test_a_file_without_a_task_is_of_the_command_s_and_overrides_win(tmp_path):
    config = write_config(tmp_path / "tiny.yaml", box_values())
    spec = load_box_experiment(config, ["head.grid=1", "pairs.expansion=0.1"], "keypoints")
    assert (spec.task, spec.head.grid, spec.pairs.expansion) == ("keypoints", 1, 0.1)
    named = write_config(tmp_path / "named.yaml", box_values(task="parts"))
    assert load_box_experiment(named, [], "segment").task == "parts"
    assert load_box_experiment(None, [], "segment").instances.kind == "shapes"


def test_paths_expand_variables_wherever_they_stand(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_HERE", str(tmp_path))
    overrides = ["instances.kind=coco", "instances.root=$DATA_HERE/coco", "backbone.weights=$DATA_HERE/w.pth"]
    spec = load_box_experiment(None, overrides, "segment")
    assert spec.instances.root == f"{tmp_path}/coco"
    assert spec.backbone.weights == f"{tmp_path}/w.pth"
    base = load_comparison(None, [f"base.{each}" for each in overrides]).base
    assert base.instances.root == f"{tmp_path}/coco"
    with pytest.raises(SpecError, match=r"instances\.root: .*NO_SUCH"):
        load_box_experiment(None, ["instances.kind=coco", "instances.root=$NO_SUCH/coco"], "segment")


@pytest.mark.parametrize(
    ("command", "override", "message"),
    [
        ("segment", "head.grid=0", "head.grid"),
        ("segment", "instances.kind=coco", "root"),
        ("parts", "head.class_agnostic=true", "class_agnostic"),
        ("keypoints", "evaluate.alphas=[0]", "evaluate.alphas"),
        ("compare-heads", "base.pairs.side=-1", "base.pairs.side"),
    ],
)
def test_values_out_of_range_end_with_code_2_and_their_path(hypercolumns, tmp_path, command, override, message):
    ran = hypercolumns(command, override, "--workspace", tmp_path)
    assert ran.code == 2
    assert message in ran.err
    assert ran.out == ""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Record a run of a head without Prefect."""
    workspace = tmp_path_factory.mktemp("w")
    outcome = run_boxes(box_spec(), workspace)
    job = begin_box_run(outcome.job.spec, workspace)
    note_stage(job.features, "train-head", outcome.trained)
    finish_run(job.features, outcome.evaluated.metrics, None)
    return workspace, outcome, job.run_dir.name


def test_predict_boxes_uses_the_head_of_a_run(hypercolumns, recorded, tmp_path):
    workspace, outcome, run_id = recorded
    image = save_image(tmp_path / "in" / "7.png", np.full((40, 50, 3), 99, np.uint8))
    category = load_box_manifest(outcome.prepared.path).classes[1].category_id
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"image_id": 7, "category_id": category, "bbox": [5, 5, 30, 30]}]), encoding="utf-8")
    arguments = (image, "--boxes", boxes, "--out", tmp_path / "out", "--workspace", workspace)
    assert hypercolumns("predict-boxes", run_id, *arguments, "--json").last["boxes"] == 1
    ran = hypercolumns("predict-boxes", "latest", *arguments)
    assert ran.code == 0
    assert "1 boxes (segment)" in ran.out
    (record,) = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert record["category_id"] == category


def test_a_run_without_a_head_and_a_pixel_command_on_a_head_are_refused(hypercolumns, recorded, tmp_path):
    workspace, _, run_id = recorded
    image = save_image(tmp_path / "in" / "7.png", np.full((40, 50, 3), 99, np.uint8))
    (tmp_path / "boxes.json").write_text("[]", encoding="utf-8")
    arguments = (image, "--boxes", tmp_path / "boxes.json", "--out", tmp_path / "out")
    ran = hypercolumns("predict-boxes", "no-such-run", *arguments, "--workspace", workspace)
    assert ran.code == 2
    assert run_id in ran.err, "the last runs are listed"
    ran = hypercolumns("predict", "latest", image, "--out", tmp_path / "out", "--workspace", workspace)
    assert ran.code == 2
    assert "that trained a model" in ran.err
