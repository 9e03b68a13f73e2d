"""Killed, crowded and damaged: nothing committed is lost, a rerun goes on, and two runs share the work."""

import json
import subprocess
import time

import pytest
import torch

from storage.errors import DamagedError, NonFiniteError
from storage.features import FeatureStore
from storage.models import load_model
from tasks.classifiers import FolderCheckpoints
from tasks.jobs import Job
from tasks.manifests import load_manifest
from tasks.prepare import prepare_dataset
from tasks.repair import repair_store
from tasks.stores import open_source
from tests.pipeline_factory import LAYERS, digests, extract_only, python, python_environment, run_tasks, started, tiny_spec

_RUN = """
import json, sys, torch
torch.set_num_threads(1)
from pathlib import Path
from hypercolumns.specs import ExperimentSpec
from tests.pipeline_factory import run_tasks
outcome = run_tasks(ExperimentSpec.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
print(json.dumps({"computed": outcome.extracted.images_computed, "metrics": outcome.evaluated.metrics}))
"""


def child(spec, workspace):
    """Return the command that runs an experiment in a process of its own."""
    return python(_RUN, spec.model_dump_json(), str(workspace))


def wait_for(condition, seconds=120.0):
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_two_processes_running_one_experiment_at_once_share_the_work_and_agree(data, workspace):
    spec = tiny_spec(data, store__shard_images=2, store__batch_images=1)
    environment = python_environment()
    with (
        started(child(spec, workspace), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as first,
        started(child(spec, workspace), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as second,
    ):
        answers = [process.communicate(timeout=300) for process in (first, second)]
        assert [first.returncode, second.returncode] == [0, 0], [error[-2000:] for _, error in answers]
    results = [json.loads(output.splitlines()[-1]) for output, _ in answers]
    assert sum(result["computed"] for result in results) == 9, "every image is computed once, by one of them"
    assert results[0]["metrics"] == results[1]["metrics"]
    store = FeatureStore.open(next(workspace.glob("stores/*")))
    assert store.verify() == []
    assert run_tasks(spec, workspace).evaluated.metrics == results[0]["metrics"]


def test_training_killed_after_an_epoch_resumes_to_bit_identical_weights(data, workspace, tmp_path):
    spec = tiny_spec(data, train__epochs=40, train__batch=1, train__loss_stride=1, head__dropout=0.2, evaluate__baselines=[])
    undisturbed = run_tasks(spec, tmp_path / "undisturbed")
    checkpoints = workspace / "checkpoints" / undisturbed.trained.key
    with started(child(spec, workspace), env=python_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        wait_for(lambda: list(checkpoints.glob("epoch-00000[2-9].safetensors")) or run.poll() is not None)
        run.kill()
        run.wait()
    assert run.returncode == -9, "the run must have been killed in the middle of training"
    assert not (workspace / "models" / undisturbed.trained.key).exists()
    assert list(checkpoints.glob("*.safetensors"))
    resumed = run_tasks(spec, workspace)
    assert resumed.trained.key == undisturbed.trained.key
    assert [stage.cached for stage in resumed.stages] == [True, True, True, True, False, False]
    expected, _ = load_model(undisturbed.trained.path)
    found, _ = load_model(resumed.trained.path)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].tobytes() == value.tobytes(), name
    losses = [[epoch["loss"] for epoch in run.trained.history["epochs"]] for run in (undisturbed, resumed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 40
    assert not checkpoints.exists(), "checkpoints of a finished training are of no use"


def test_two_processes_that_train_the_same_do_not_stop_each_other(tmp_path):
    weights = {"w": torch.ones(3)}
    ours, theirs = FolderCheckpoints(tmp_path / "run"), FolderCheckpoints(tmp_path / "run")
    theirs.save(1, weights, {"seconds": 0.1})
    ours.save(1, weights, {"seconds": 0.2})
    assert ours.latest()[2] == {"seconds": 0.1}, "whoever came first"
    ours.save(2, weights, {"seconds": 0.3})
    assert theirs.latest()[0] == 2


@pytest.mark.slow
def test_an_extraction_killed_in_the_middle_goes_on_where_it_was(data, workspace):
    # So many layers and shards that there is a middle to be killed in.
    spec = tiny_spec(data, store__shard_images=1, store__batch_images=1, backbone__layers=None)
    with started(child(spec, workspace), env=python_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        wait_for(lambda: len(list(workspace.glob("stores/*/journal/records/*.json"))) >= 4 or run.poll() is not None)
        run.kill()
        run.wait()
    committed = {path: path.read_bytes() for path in workspace.glob("stores/*/journal/records/*.json")}
    extracted = extract_only(spec, workspace)
    assert 0 < extracted.images_computed < 9
    assert {path: path.read_bytes() for path in committed} == committed, "what was committed must stay as it was"
    assert FeatureStore.open(extracted.path).verify() == []


def damage(store_path, layer, shard):
    """Flip one bit in the middle of a shard's file."""
    path = FeatureStore.open(store_path).shard_path(layer, shard)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    return path


def test_a_damaged_shard_is_named_when_read_and_repair_extracts_exactly_it_again(data, workspace):
    spec = tiny_spec(data, store__shard_images=3)
    extracted = extract_only(spec, workspace)
    whole = digests(extracted.path)
    path = damage(extracted.path, LAYERS[1], 1)
    job = Job(spec=spec, workspace=workspace)
    prepared = prepare_dataset(job)
    source = open_source(job, load_manifest(prepared.path), "train", passes=1)
    assert source.maps([(0, "identity"), (2, "identity")])[1].shape[0] == 2, "other shards can be read"
    with pytest.raises(DamagedError, match=rf"shard 1 of layer {LAYERS[1]} is damaged"):
        source.maps([(index, "identity") for index in range(3, 6)])

    repaired = repair_store(job, prepared)
    assert len(repaired.retired) == 1
    assert f"layer {LAYERS[1]}, shard 1" in repaired.retired[0]
    assert repaired.extracted.images_computed == 3
    assert {name: count.misses for name, count in repaired.extracted.cache.items()} == {LAYERS[0]: 0, LAYERS[1]: 3}
    assert FeatureStore.open(extracted.path).verify() == []
    again = digests(extracted.path)
    assert again[str(path.relative_to(extracted.path))] == whole[str(path.relative_to(extracted.path))]
    shards = [name for name in whole if "/c." in name and name.startswith("features")]
    assert all(again[name] == whole[name] for name in shards)


def test_training_on_a_damaged_store_stops_and_never_learns_from_it(data, workspace):
    spec = tiny_spec(data)
    extracted = extract_only(spec, workspace)
    damage(extracted.path, LAYERS[0], 0)
    with pytest.raises(DamagedError, match=f"layer {LAYERS[0]} is damaged.*store repair"):
        run_tasks(spec, workspace)
    assert not list(workspace.glob("models/*"))


def test_repairing_a_whole_store_changes_nothing(data, workspace):
    spec = tiny_spec(data)
    extracted = extract_only(spec, workspace)
    before = digests(extracted.path)
    job = Job(spec=spec, workspace=workspace)
    repaired = repair_store(job, prepare_dataset(job))
    assert (repaired.lost_records, repaired.retired, repaired.extracted.images_computed) == ((), (), 0)
    assert {n: d for n, d in digests(extracted.path).items() if "/c." in n} == {n: d for n, d in before.items() if "/c." in n}


def test_activations_too_large_for_the_store_s_type_stop_with_layer_image_and_remedy(data, workspace):
    # Without a mean and with a tiny deviation pixels become huge, and float16 overflows.
    spec = tiny_spec(data, backbone__mean_rgb=[0, 0, 0], backbone__std_rgb=[1e-7, 1e-7, 1e-7])
    with pytest.raises(NonFiniteError, match=r"features\.1.*float32"):
        extract_only(spec, workspace)
    assert not list(workspace.rglob("*.partial"))
    assert not list(workspace.glob("stores/*/journal/leases/*")), "a rerun must not wait for a shard that was given up"
    wide = tiny_spec(data, backbone__mean_rgb=[0, 0, 0], backbone__std_rgb=[1e-7, 1e-7, 1e-7], store__dtype="float32")
    assert extract_only(wide, workspace).images_computed == 9


def test_a_lost_record_is_declared_void_and_what_it_counted_is_extracted_again(data, workspace):
    spec = tiny_spec(data, store__shard_images=3)
    extracted = extract_only(spec, workspace)
    records = sorted(extracted.path.glob("journal/records/*.json"))
    records[-2].unlink()
    job = Job(spec=spec, workspace=workspace)
    repaired = repair_store(job, prepare_dataset(job))
    assert repaired.lost_records == (int(records[-2].stem),)
    assert repaired.extracted.images_computed == 3
    assert FeatureStore.open(extracted.path).verify() == []
