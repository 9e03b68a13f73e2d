"""Flows on a real Dask cluster: a scheduler and two workers of one thread each, on the loopback address."""

import json
import re
import time
from importlib import import_module

import numpy as np
import pytest

from hypercolumns.errors import DatasetError
from storage.features import FeatureStore
from storage.models import load_model
from storage.runs import read_run
from tasks.cluster import ENVIRONMENT_VARIABLE, Cluster, ClusterError
from tests.factories import write_folder
from tests.pipeline_factory import LAYERS, run_tasks, tiny_spec
from tests.test_flows.dask_processes import DaskProcesses

pytestmark = pytest.mark.slow


def flow(name):
    """Import a flow late: Prefect reads its settings when it is imported."""
    return getattr(import_module(f"flows.{name}"), name)


@pytest.fixture(scope="module")
def dask(prefect_here, tmp_path_factory):
    found = DaskProcesses(tmp_path_factory.mktemp("dask"))
    try:
        found.start_scheduler()
        found.start_workers(2)
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def both(dask, prefect_here, tmp_path_factory):
    """Run one experiment in this process and on the cluster, which the environment names."""
    folder = tmp_path_factory.mktemp("both")
    data = write_folder(folder / "data", splits={"train": 11, "val": 7}, image_hw=(48, 64))
    spec = tiny_spec(
        data,
        name="on-a-cluster",
        store__shard_images=2,
        store__batch_images=2,
        evaluate__baselines=["majority", "prior", "rgb", "deepest"],
    )
    alone = run_tasks(spec, folder / "alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT_VARIABLE, dask.address)
        result = flow("run_experiment")(config=spec, workspace=folder / "together")
    return alone, result, folder / "together", spec


def test_a_cluster_s_store_has_the_bytes_of_one_process_by_row_key(both):
    alone, result, _, _ = both
    one, other = FeatureStore.open(alone.extracted.path), FeatureStore.open(result.artefacts["extract"])
    assert one.key == other.key
    keys = [key for shard in one.core.index.shards() for key in one.core.index.slot_keys(shard).values()]
    assert len(keys) == 18
    for layer in LAYERS:
        stored, _ = one.reader([layer]).read_stored(layer, one.rows(keys, LAYERS))
        found, _ = other.reader([layer]).read_stored(layer, other.rows(keys, LAYERS))
        assert stored.tobytes() == found.tobytes()
    assert other.verify() == []
    assert result.cache == {layer: {"hits": 0, "misses": 18} for layer in LAYERS}


def test_a_cluster_s_scores_are_those_of_one_process_bit_for_bit(both):
    alone, result, _, _ = both
    assert result.artefacts["evaluate"].name == alone.evaluated.key
    assert result.metrics == alone.evaluated.metrics
    assert result.baselines == alone.evaluated.baselines
    (expected, _), (found, _) = load_model(alone.evaluated.path), load_model(result.artefacts["evaluate"])
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_the_parts_are_task_runs_that_both_workers_did(both, dask, prefect_here):
    run = prefect_here.flow_run("run-experiment", "on-a-cluster")
    task_runs = prefect_here.post("task_runs/filter", flow_runs={"id": {"any_": [run["id"]]}}, limit=200)
    names = [task["name"].rsplit("-", 1)[0] for task in task_runs]
    assert (names.count("extract part"), names.count("score part")) == (9, 7)
    assert {task["state_type"] for task in task_runs} == {"COMPLETED"}
    for log in dask.folder.glob("worker-*.log"):
        assert "Task run 'extract part-" in log.read_text(encoding="utf-8"), log.name


def test_a_second_run_finds_everything_and_hands_nothing_out(both, prefect_here, dask):
    _, first, workspace, spec = both
    spec = spec.model_copy(update={"name": "again-on-a-cluster"})
    again = flow("run_experiment")(config=spec, workspace=workspace, cluster=Cluster(dask_address=dask.address))
    assert again.metrics == first.metrics
    run = prefect_here.flow_run("run-experiment", "again-on-a-cluster")
    task_runs = prefect_here.post("task_runs/filter", flow_runs={"id": {"any_": [run["id"]]}}, limit=200)
    assert not [task["name"] for task in task_runs if "part" in task["name"]]


def test_a_part_s_error_comes_back_as_it_was_raised_and_nothing_is_pickled_in_prefect_s_storage(
    dask, prefect_here, data, workspace
):
    spec = tiny_spec(data, name="changed-image", store__shard_images=2)
    prepare = import_module("flows.stages").prepare

    def spoil(job):
        prepared = prepare.fn(job)
        image = next((data / "images" / "train").iterdir())
        image.write_bytes(image.read_bytes()[:100])
        return prepared

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.extract_features.prepare", spoil)
        with pytest.raises(DatasetError, match=r"000.png|001.png|00\d.png"):
            flow("extract_features")(config=spec, workspace=workspace, cluster=Cluster(dask_address=dask.address))
    assert prefect_here.flow_run("extract-features", "changed-image")["state_type"] == "FAILED"
    for path in (path for path in prefect_here.home.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert b"cloudpickle" not in content, path
        assert not re.search(rb"(?:^|\")gA[SW]V", content), path
    for path in (prefect_here.home / "client" / "storage").glob("*"):
        assert json.loads(path.read_bytes()), "a failure may leave its exception, as JSON"


def test_an_address_that_nobody_listens_at_fails_the_run_at_once(prefect_here, data, workspace):
    start = time.monotonic()
    with pytest.raises(ClusterError, match=r"expected a Dask scheduler, found none .*dask scheduler"):
        flow("extract_features")(config=tiny_spec(data), workspace=workspace, cluster=Cluster(dask_address="127.0.0.1:9"))
    assert time.monotonic() - start < 10
    (folder,) = (path for path in (workspace / "runs").iterdir() if path.is_dir())
    assert read_run(folder).status == "failed"
    assert not list(workspace.glob("stores/*")), "nothing was begun"


def test_a_server_that_is_no_scheduler_is_told_from_one(prefect_here, data, workspace):
    port = prefect_here.url.split(":")[2].split("/")[0]
    with pytest.raises(ClusterError, match=r"found nobody who answers.*not its dashboard's"):
        flow("extract_features")(config=tiny_spec(data), workspace=workspace, cluster=Cluster(dask_address=f"127.0.0.1:{port}"))
