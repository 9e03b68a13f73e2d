"""The flows inside boxes against a real server: what they hand back, record and publish, and how they fail."""

import json

import pytest

from hypercolumns.box_experiments import CompareSpec
from hypercolumns.errors import SpecError
from storage.runs import read_run
from tests.box_factory import box_spec, box_values


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("box-flows")


@pytest.mark.parametrize(
    ("module", "task", "score"),
    [
        ("segment_instances", "segment", "ap_r@0.5"),
        ("predict_keypoints", "keypoints", "pck@0.1"),
        ("label_parts", "parts", "ap_r_part@0.5"),
    ],
)
def test_a_flow_runs_its_task_to_a_report_and_records_it(prefect_here, shared, module, task, score):
    from importlib import import_module

    flow = getattr(import_module(f"flows.{module}"), module)
    result = flow(config=box_spec(task=task, name=f"by-flow-{task}"), workspace=shared)
    assert result.task == task
    assert score in result.metrics
    assert result.report.is_file()
    assert (result.run_dir / "results.json").is_file()
    view = read_run(result.run_dir)
    assert view.status == "finished"
    assert set(view.keys) >= {"prepare", "extract", "train-head", "evaluate"}
    assert view.metrics["metrics"][score] == result.metrics[score] if "metrics" in view.metrics else view.metrics
    json.dumps(result.model_dump(mode="json"), allow_nan=False)


def test_a_flow_refuses_the_experiment_of_another_task(prefect_here, tmp_path):
    from flows.label_parts import label_parts

    with pytest.raises(SpecError, match="expected 'parts', which this flow predicts, got 'segment'"):
        label_parts(config=box_spec(), workspace=tmp_path)


def test_a_failure_is_recorded_with_its_reason(prefect_here, tmp_path):
    from flows.segment_instances import segment_instances

    with pytest.raises(Exception, match="nowhere"):
        segment_instances(config=box_spec(head__layers=["nowhere"]), workspace=tmp_path)
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    assert read_run(folder).status == "failed"
    assert "nowhere" in read_run(folder).reason


def test_heads_are_compared_over_tasks_from_one_store(prefect_here, shared):
    from flows.compare_heads import compare_heads

    spec = CompareSpec(base=box_values(), tasks=("segment", "parts"), grids=(1, 2), layer_grid=2, leave_out=False)
    result = compare_heads(config=spec, workspace=shared)
    assert {row["task"] for row in result.rows} == {"segment", "parts"}
    assert len(result.rows) == 8
    assert all(count["misses"] in {0, 10} for count in result.cache.values())
    assert any("K = 2 beats K = 1" in line for line in result.claims)
    assert all(line.startswith(("holds: ", "does not hold here: ")) for line in result.claims)
    kept = json.loads((result.run_dir / "comparison.json").read_text(encoding="utf-8"))
    assert len(kept["rows"]) == 8
    text = result.report.read_text(encoding="utf-8")
    assert "Published claims" in text
    assert "One feature store served every row" in text
