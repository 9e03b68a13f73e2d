"""Flows against a real server: what Prefect sees of a run, and what the run's own record says."""

import json
import re
from importlib import import_module

import pytest

from hypercolumns.errors import DatasetError
from storage.runs import read_run
from tests.pipeline_factory import LAYERS, REPOSITORY, tiny_spec

STAGES = ("prepare", "plan", "extract", "sample", "pretrain", "train", "evaluate", "report")


def flow(name):
    """Import a flow late: Prefect reads its settings when it is imported."""
    return getattr(import_module(f"flows.{name}"), name)


@pytest.fixture(scope="module")
def ran(prefect_here, tmp_path_factory):
    """Run the whole experiment once, for all tests that look at it."""
    from tests.factories import write_folder

    folder = tmp_path_factory.mktemp("ran")
    data = write_folder(folder / "data", splits={"train": 6, "val": 3}, image_hw=(48, 64))
    # Its own name: tests of this file may be run in several goes, each with a run of its own on the same server.
    spec = tiny_spec(data, name=f"whole-{folder.name}")
    return flow("run_experiment")(config=spec, workspace=folder / "workspace"), spec, folder / "workspace"


def test_a_run_is_completed_under_the_experiment_s_name_and_its_task_runs_are_the_stages(prefect_here, ran):
    run = prefect_here.flow_run("run-experiment", ran[1].name)
    assert run["state_type"] == "COMPLETED"
    assert run["state"]["data"] is None, "nothing is persisted"
    task_runs = prefect_here.post("task_runs/filter", flow_runs={"id": {"any_": [run["id"]]}}, sort="EXPECTED_START_TIME_ASC")
    assert sorted(task["name"].rsplit("-", 1)[0] for task in task_runs) == sorted(STAGES)
    assert {task["state_type"] for task in task_runs} == {"COMPLETED"}
    assert {task["run_count"] for task in task_runs} == {1}


def test_the_report_is_an_artifact_of_the_run_in_its_short_form(prefect_here, ran):
    result, spec, _ = ran
    run = prefect_here.flow_run("run-experiment", spec.name)
    (artifact,) = prefect_here.post("artifacts/filter", artifacts={"flow_run_id": {"any_": [run["id"]]}})
    assert (artifact["key"], artifact["type"]) == ("report", "markdown")
    assert artifact["data"] == result.report.with_name("report.md").read_text(encoding="utf-8")
    assert "data:image/" in artifact["data"]
    assert str(result.report) in artifact["description"]


def test_what_a_run_hands_back_is_in_its_record_too(ran):
    result, spec, workspace = ran
    assert result.cache == {layer: {"hits": 0, "misses": 9} for layer in LAYERS}
    assert result.certificate
    assert set(result.timings) == set(result.artefacts) == {*STAGES} - {"plan"}
    assert all(path.exists() for path in result.artefacts.values())
    view = read_run(result.run_dir)
    assert (view.status, view.run_id) == ("finished", result.run_id)
    assert view.metrics["metrics"] == result.metrics
    assert view.spec == spec.model_dump(mode="json")
    assert (workspace / view.artefacts["report"]).samefile(result.report)
    assert set(view.timings) == set(STAGES)
    provenance = view.entries[0].data["provenance"]
    assert provenance["versions"]["torch"]
    assert provenance["machine"]["cores"] >= 1
    assert provenance["seeds"] == {"sample": 0, "pretrain": 0, "train": 0}


def test_the_same_run_again_finds_everything_and_scores_the_same(prefect_here, ran):
    first, spec, workspace = ran
    again = flow("run_experiment")(config=spec.model_copy(update={"name": "again"}), workspace=workspace)
    assert again.cache == {layer: {"hits": 9, "misses": 0} for layer in LAYERS}
    assert again.metrics == first.metrics
    assert again.run_id != first.run_id
    assert again.report != first.report


def test_nothing_is_pickled_and_no_result_is_persisted(prefect_here, data, ran, tmp_path):
    storage = prefect_here.home / "client" / "storage"
    before = set(storage.glob("*"))
    flow("extract_features")(config=tiny_spec(data), workspace=tmp_path / "w")
    assert set(storage.glob("*")) == before, "a run that ends well must leave nothing in Prefect's storage"
    with pytest.raises(DatasetError):
        flow("extract_features")(config=tiny_spec(tmp_path / "missing"), workspace=tmp_path / "w")
    for path in set(storage.glob("*")) - before:
        assert json.loads(path.read_bytes()), "a failure may leave its exception, as JSON"
    for path in (path for path in prefect_here.home.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert b"cloudpickle" not in content, path
        # How pickle's protocols 4 and 5 begin, in base64: the form in which Prefect keeps a pickled result.
        assert not re.search(rb"(?:^|\")gA[SW]V", content), path


def test_no_flow_and_no_task_persists_or_caches_results():
    from prefect.cache_policies import NO_CACHE

    stages = import_module("flows.stages")
    for name in (name for name in stages.__all__ if name != "recorded_task"):
        task = getattr(stages, name)
        assert task.persist_result is False, name
        assert task.cache_policy == NO_CACHE, name
        assert (task.retries, task.retry_jitter_factor) == (2, 0.5), name
    for name in (path.stem for path in (REPOSITORY / "flows").glob("*.py") if "@flow" in path.read_text(encoding="utf-8")):
        assert flow(name).persist_result is False, name
        assert flow(name).result_serializer == "json", name


def test_a_failing_run_is_failed_with_the_error_s_text_in_prefect_and_in_its_record(prefect_here, tmp_path, workspace):
    spec = tiny_spec(tmp_path / "missing", name="failing-run")
    with pytest.raises(DatasetError, match="expected the data set's folder, found none"):
        flow("run_experiment")(config=spec, workspace=workspace)
    run = prefect_here.flow_run("run-experiment", "failing-run")
    assert run["state_type"] == "FAILED"
    assert "expected the data set's folder, found none" in run["state"]["message"]
    (folder,) = (workspace / "runs").iterdir()
    view = read_run(folder)
    assert view.status == "failed"
    assert view.reason.startswith("DatasetError: ")
    assert str(tmp_path / "missing") in view.reason


def test_an_interrupted_run_is_recorded_as_failed(prefect_here, data, workspace, monkeypatch):
    from flows.runs import recorded_run

    with pytest.raises(KeyboardInterrupt), recorded_run(tiny_spec(data), workspace):
        raise KeyboardInterrupt
    (folder,) = (workspace / "runs").iterdir()
    assert read_run(folder).status == "failed"


def test_each_flow_runs_its_stages_and_those_before_them(prefect_here, data, workspace):
    expected = {
        "extract_features": ("prepare", "extract"),
        "sample_pixels": ("prepare", "extract", "sample"),
        "pretrain_classifier": ("prepare", "extract", "sample", "pretrain"),
        "train_dense": ("prepare", "extract", "sample", "pretrain", "train"),
        "evaluate_model": ("prepare", "extract", "sample", "pretrain", "train", "evaluate"),
        "write_report": ("prepare", "extract", "sample", "pretrain", "train", "evaluate", "report"),
    }
    for number, (name, stages) in enumerate(expected.items()):
        result = flow(name)(config=tiny_spec(data, name=f"step-{number}"), workspace=workspace)
        assert tuple(result.timings) == stages
        assert (result.metrics is not None) == ("evaluate" in stages)
        assert (result.report is not None) == ("report" in stages)
        assert result.cache[LAYERS[0]] == ({"hits": 0, "misses": 9} if number == 0 else {"hits": 9, "misses": 0})
        (stage,) = (e.data for e in read_run(result.run_dir).entries if e.kind == "stage" and e.data["name"] == stages[-1])
        assert stage["cached"] is False
        assert prefect_here.flow_run(name.replace("_", "-"), f"step-{number}")["state_type"] == "COMPLETED"


def test_the_server_s_application_can_be_imported():
    # fastapi 0.151 and later cannot: the pin in pyproject.toml must hold.
    assert import_module("prefect.server.api.server").create_app
