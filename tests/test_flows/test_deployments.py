"""`prefect.yaml` on a real server: deployments whose forms explain themselves, and a worker that runs one."""

import sys
import time

import pytest
import yaml

from storage.runs import read_run
from tests.pipeline_factory import REPOSITORY, started, tiny_spec

FLOWS = (
    *("run-experiment", "extract-features", "sample-pixels", "pretrain-classifier"),
    *("train-dense", "evaluate-model", "write-report"),
    *("nightly-retrain", "evaluate-champion", "predict-folder"),
    *("segment-instances", "predict-keypoints", "label-parts", "compare-heads"),
)
BOXES = FLOWS[10:]
EXPERIMENTS = FLOWS[:7]
CRONS = {"nightly-retrain": "30 3 * * *", "evaluate-champion": "0 5 * * 0"}
POOL = "hypercolumns"


@pytest.fixture(scope="module")
def deployments(server):
    """Deploy everything from the checkout, into a new work pool."""
    server.post("work_pools/", name=POOL, type="process")
    deployed = server.prefect("deploy", "--all")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    return {found["name"]: found for found in server.post("deployments/filter")}


def test_every_flow_is_deployed_from_its_module_into_the_pool(deployments):
    assert sorted(deployments) == sorted(FLOWS)
    for name, found in deployments.items():
        module = name.replace("-", "_")
        assert found["entrypoint"] == f"flows.{module}.{module}"
        assert found["work_pool_name"] == POOL
        assert found["tags"] == ["hypercolumns"]
        assert found["description"]
        assert found["enforce_parameter_schema"] is True
        assert found["global_concurrency_limit"]["limit"] == 1
        crons = [each["schedule"]["cron"] for each in found["schedules"] if "cron" in each["schedule"]]
        assert crons == ([CRONS[name]] if name in CRONS else [])
        assert all(cron.split()[1] != "2" for cron in crons), "an hour that daylight saving repeats or leaves out"
        for each in found["schedules"]:
            assert each["slug"]
            assert not each["active"], "nobody retrains on generated figures"
            assert "cron" not in each["schedule"] or each["schedule"]["timezone"] == "Etc/UTC"
        overlap = (found["concurrency_options"] or {}).get("collision_strategy")
        assert overlap == ("CANCEL_NEW" if name in {"nightly-retrain", "predict-folder"} else None)


def test_the_file_itself_names_no_deployment_twice_and_sets_no_parameter_to_null():
    content = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text(encoding="utf-8"))
    names = [deployment["name"] for deployment in content["deployments"]]
    assert sorted(names) == sorted(FLOWS)
    assert all(value is not None for deployment in content["deployments"] for value in deployment.values())


def test_the_forms_explain_every_parameter_and_know_choices_and_limits(deployments):
    for name, found in deployments.items():
        schema = found["parameter_openapi_schema"]
        assert (set(schema["properties"]) == {"config", "workspace", "cluster"}) == (name in EXPERIMENTS), name
        assert all(parameter["description"] for parameter in schema["properties"].values()), name
        assert not schema.get("required"), "a form that can be sent as it is"
        definitions = schema.get("definitions", {})
        unexplained = [
            f"{section}.{field}"
            for section, definition in definitions.items()
            for field, value in definition.get("properties", {}).items()
            if not value.get("description") and section != "ExperimentSpec"
        ]
        assert unexplained == [], name
        if name not in EXPERIMENTS:
            continue
        assert definitions["DatasetSpec"]["properties"]["kind"]["enum"] == ["shapes", "voc", "folder"]
        assert definitions["TrainSpec"]["properties"]["schedule"]["enum"] == ["constant", "cosine", "one_cycle"]
        assert (
            definitions["HeadSpec"]["properties"]["hidden"] | {"minimum": 0, "maximum": 8192}
            == (definitions["HeadSpec"]["properties"]["hidden"])
        )
        assert definitions["HeadSpec"]["additionalProperties"] is False


def test_the_forms_of_boxes_know_their_task_choices_and_limits(deployments):
    for name in BOXES:
        schema = deployments[name]["parameter_openapi_schema"]
        assert set(schema["properties"]) == {"config", "workspace"}
        definitions = schema["definitions"]
        assert definitions["InstancesSpec"]["properties"]["kind"]["enum"][:2] == ["shapes", "coco"]
        assert definitions["BoxEvalSpec"]["properties"]["evaluator"]["enum"] == ["coco", "sds_matlab", "sds_python"]
        grid = definitions["BoxHeadSpec"]["properties"]["grid"]
        assert (grid["minimum"], grid["maximum"]) == (1, 50)
        assert definitions["BoxHeadSpec"]["additionalProperties"] is False
    tasks = {name: deployments[name]["parameter_openapi_schema"]["properties"]["config"]["default"] for name in BOXES[:3]}
    assert [config["task"] for config in tasks.values()] == ["segment", "keypoints", "parts"]


def test_the_night_s_form_knows_its_choices_and_limits(deployments):
    schema = deployments["nightly-retrain"]["parameter_openapi_schema"]
    assert schema["definitions"]["ChecksSpec"]["properties"]["duplicates"]["enum"] == ["warn", "stop", "off"]
    gain = schema["definitions"]["PromotionSpec"]["properties"]["min_gain"]
    assert (gain["minimum"], gain["maximum"]) == (0.0, 1.0)
    lateness = schema["properties"]["max_lateness_minutes"]
    assert (lateness["exclusiveMinimum"], lateness["maximum"], lateness["default"]) == (0, 10080, 120.0)
    assert schema["properties"]["warm_start"]["type"] == "boolean"


@pytest.mark.parametrize("config", [{"head": {"hidden": -1}}, {"head": {"hiden": 3}}, {"dataset": {"kind": "mine"}}])
def test_the_server_refuses_parameters_that_are_unknown_or_out_of_range(server, deployments, config):
    import httpx

    address = f"{server.url}/deployments/{deployments['run-experiment']['id']}/create_flow_run"
    answer = httpx.post(address, json={"parameters": {"config": config}})
    assert answer.status_code == 409, answer.text
    assert next(iter(config)) in answer.text


@pytest.mark.slow
def test_a_worker_runs_a_deployment_to_its_end(server, deployments, data, workspace, tmp_path):
    spec = tiny_spec(data, name="by-worker")
    run = server.post(
        f"deployments/{deployments['run-experiment']['id']}/create_flow_run",
        parameters={"config": spec.model_dump(mode="json"), "workspace": str(workspace)},
    )
    log = tmp_path / "worker.log"
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--run-once"]
    with (
        log.open("w") as output,
        started(command, cwd=tmp_path, env=server.environment, stdout=output, stderr=output) as worker,
    ):
        deadline = time.monotonic() + 300
        while (state := server.get(f"flow_runs/{run['id']}")["state_type"]) not in {"COMPLETED", "FAILED", "CRASHED"}:
            assert time.monotonic() < deadline, (state, log.read_text(encoding="utf-8"))
            time.sleep(0.5)
        worker.wait(60)
    assert state == "COMPLETED", log.read_text(encoding="utf-8")
    assert "Traceback" not in log.read_text(encoding="utf-8")
    (folder,) = (path for path in (workspace / "runs").iterdir() if path.is_dir())
    view = read_run(folder)
    assert view.status == "finished"
    assert (folder / "report.html").is_file()
