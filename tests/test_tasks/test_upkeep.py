"""What the runs' records say of what they use, and what looking after stores does to it."""

import numpy as np
import pytest
import torch

from storage.errors import FormatError, RowsMissingError, VersionError
from storage.features import FeatureStore
from storage.garbage import sweep
from storage.references import named_keys
from storage.runs import read_run
from storage.verification import verify_path
from tasks.drift import _ordered, measure_drift
from tasks.evaluate import evaluate_model
from tasks.extract import extract_features
from tasks.jobs import Job
from tasks.plan import check_plan
from tasks.prepare import prepare_dataset
from tasks.pretrain import pretrain_classifier
from tasks.record import begin_run, computed_by
from tasks.repair import plan_repair, repair_store
from tasks.sample import sample_pixels
from tasks.train import train_dense
from tests.pipeline_factory import LAYERS, extract_only, tiny_spec

CPU = torch.device("cpu")


def run_recorded(spec, workspace, swept=lambda job: None):
    """Run all stages in a run of their own; call something between them."""
    job = begin_run(spec, workspace)
    stages = []
    for stage in (prepare_dataset, extract_features, sample_pixels, pretrain_classifier):
        stages.append(stage(job, *stages))
        swept(job)
    prepared, extracted, sampled, pretrained = stages
    check_plan(job, prepared)
    trained = train_dense(job, prepared, pretrained)
    swept(job)
    evaluated = evaluate_model(job, prepared, extracted, sampled, pretrained, trained)
    return job, [*stages, trained, evaluated]


def test_a_run_names_everything_it_uses_its_baselines_too_and_a_sweep_in_the_middle_takes_nothing(data, workspace):
    spec = tiny_spec(data, evaluate__baselines=["majority", "rgb", "random_weights"], backbone__weights="random:1")
    swept = []
    job, stages = run_recorded(spec, workspace, lambda job: swept.append(sweep(job.places, 0, remove=True)))
    assert [item for found in swept for item in found.garbage] == []
    named = named_keys(read_run(job.run_dir))
    assert {stage.key for stage in stages} <= named
    folders = (job.places.stores, job.places.models, job.places.evaluations, job.places.samples)
    made = {path.stem for folder in folders for path in folder.iterdir()}
    assert len(made) == 2 + 4 + 1 + 3
    assert made <= named
    assert sweep(job.places, 0, remove=True).garbage == ()


def test_what_a_run_is_about_to_use_is_named_before_it_is_looked_for(data, workspace, monkeypatch):
    seen = []

    def looking(root, key):
        seen.append((key, named_keys(read_run(job.run_dir))))
        raise InterruptedError

    job = begin_run(tiny_spec(data), workspace)
    prepared = prepare_dataset(job)
    extracted = extract_features(job, prepared)
    sampled = sample_pixels(job, prepared, extracted)
    monkeypatch.setattr("tasks.pretrain.model_exists", looking)
    try:
        pretrain_classifier(job, prepared, extracted, sampled)
    except InterruptedError:
        ((key, named),) = seen
        assert key in named


def harm(path, position):
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def prepared_job(spec, workspace):
    job = Job(spec=spec, workspace=workspace)
    return job, prepare_dataset(job)


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16", "uint8"])
def test_what_was_stored_here_is_what_is_computed_here(data, workspace, dtype):
    spec = tiny_spec(data, store__dtype=dtype)
    extract_only(spec, workspace)
    drift = measure_drift(*prepared_job(spec, workspace), 20)
    assert len(drift.row_keys) == 9
    assert drift.expected_identical
    assert not drift.is_defect
    assert {name: (layer.identical, layer.max_ulp) for name, layer in drift.layers.items()} == dict.fromkeys(LAYERS, (True, 0))


def stored_by_others(spec, workspace, dtype, change, recorded=None):
    """Put maps into the experiment's store that are changed by a function of the values computed here."""
    job, prepared = prepared_job(spec, workspace)
    extracted = extract_features(job, prepared)
    right = FeatureStore.open(extracted.path)
    keys = [key for shard in right.core.index.shards() for key in right.core.index.slot_keys(shard).values()]
    maps = {name: right.reader([name]).read(name, right.rows(keys, [name])).astype(np.float32) for name in LAYERS}
    fields, shapes = right.key_fields, right.layers
    extracted.path.rename(workspace / "aside")
    other = FeatureStore.create_or_open(workspace / "stores", fields, dtype=dtype, recorded=recorded or computed_by(CPU))
    other.declare_layers(shapes)
    with other.claim(keys, LAYERS) as writer:
        writer.write(0, {name: change(values) for name, values in maps.items()})
    return job, prepared


@pytest.mark.parametrize(("dtype", "least"), [("float16", 5), ("float32", 1000), ("uint8", 1)])
def test_maps_that_drifted_are_a_defect_where_bytes_are_expected_to_be_the_same(data, workspace, dtype, least):
    def scaled(values):
        return (values * 1.02).astype(np.float32)

    drift = measure_drift(*stored_by_others(tiny_spec(data, store__dtype=dtype), workspace, dtype, scaled), 2)
    assert drift.expected_identical
    assert drift.is_defect
    for layer in drift.layers.values():
        assert layer.max_abs > layer.tolerance
        assert layer.max_ulp >= least


def test_maps_that_drifted_under_another_version_are_reported_and_no_defect(data, workspace):
    elsewhere = {**computed_by(torch.device("cpu")), "torch": "1.0", "threads": 96}
    job, prepared = stored_by_others(tiny_spec(data), workspace, "float16", lambda values: values * 1.02, elsewhere)
    drift = measure_drift(job, prepared, 2)
    assert not drift.is_defect
    assert "torch was '1.0'" in drift.why
    assert "threads was 96" in drift.why
    assert drift.layers[LAYERS[0]].max_abs > 0
    assert measure_drift(job, prepared, 2, seed=0).row_keys == drift.row_keys
    assert {measure_drift(job, prepared, 2, seed=seed).row_keys for seed in range(6)} != {drift.row_keys}


def test_a_difference_of_one_step_is_within_the_tolerance(data, workspace):
    def nudged(values):
        return np.nextafter(values.astype(np.float16), np.float16(np.inf)).astype(np.float32)

    drift = measure_drift(*stored_by_others(tiny_spec(data), workspace, "float16", nudged), 9)
    assert {layer.max_ulp for layer in drift.layers.values()} == {1}
    assert not drift.is_defect


def test_steps_are_counted_across_zero():
    values = np.array(
        [-0.0, 0.0, np.nextafter(np.float16(0), np.float16(1)), np.nextafter(np.float16(0), np.float16(-1))], "f2"
    )
    assert _ordered(values).tolist() == [0, 0, 1, -1]
    walk = [np.float16(-2.0)]
    while walk[-1] < -1.9:
        walk.append(np.nextafter(walk[-1], np.float16(np.inf)))
    assert np.diff(_ordered(np.array(walk))).tolist() == [1] * (len(walk) - 1)


def test_drift_cannot_be_measured_where_nothing_is_stored(data, workspace):
    job, prepared = prepared_job(tiny_spec(data), workspace)
    with pytest.raises(RowsMissingError, match="extract first"):
        measure_drift(job, prepared, 2)
    assert not list(workspace.glob("stores/*"))
    check_plan(job, prepared)
    with pytest.raises(RowsMissingError, match="found none; extract first"):
        measure_drift(job, prepared, 2)


def test_a_repair_says_beforehand_what_it_would_do_and_changes_nothing(data, workspace):
    spec = tiny_spec(data, store__shard_images=3)
    job, prepared = prepared_job(spec, workspace)
    assert plan_repair(job, prepared).extract == 9, "nothing is there yet"
    extracted = extract_features(job, prepared)
    assert plan_repair(job, prepared).model_dump() == {"findings": (), "retire": (), "extract": 0, "other_images": 0}
    store = FeatureStore.open(extracted.path)
    harm(store.shard_path(LAYERS[1], 1), 10)
    stray = store.shard_path(LAYERS[0], 7)
    stray.write_bytes(b"no record counts this")
    unfinished = stray.with_name("c.8.0.0.0.abc.partial")
    unfinished.write_bytes(b"nobody writes this")
    plan = plan_repair(job, prepared)
    assert len(plan.findings) == 3
    assert plan.retire == (f"layer {LAYERS[1]}, shard 1: the bytes of 1 of 3 rows are not those committed",)
    assert (plan.extract, plan.other_images) == (3, 0)
    assert len(verify_path(extracted.path)) == 3
    fewer = job.model_copy(update={"spec": tiny_spec(data, store__shard_images=3, dataset__limit_train=4)})
    assert (plan_repair(fewer, prepare_dataset(fewer)).extract, plan_repair(fewer, prepare_dataset(fewer)).other_images) == (
        1,
        2,
    )
    repaired = repair_store(job, prepared)
    assert repaired.retired == plan.retire
    assert repaired.extracted.images_computed == 3
    assert set(repaired.removed) == {str(stray)}
    assert not unfinished.exists(), "whoever opens a store to write to it tidies up first"
    assert verify_path(extracted.path) == []


def test_images_of_other_experiments_in_a_damaged_shard_wait_for_theirs(data, workspace):
    whole, fewer = (tiny_spec(data, store__shard_images=3, **limit) for limit in ({}, {"dataset__limit_train": 4}))
    extracted = extract_only(whole, workspace)
    harm(FeatureStore.open(extracted.path).shard_path(LAYERS[0], 1), 10)
    repaired = repair_store(*prepared_job(fewer, workspace))
    assert (repaired.extracted.images_computed, repaired.other_images) == (1, 2)
    assert extract_only(whole, workspace).images_computed == 2
    assert verify_path(extracted.path) == []


def test_a_store_whose_records_are_broken_is_repaired_though_it_cannot_be_opened(data, workspace):
    spec = tiny_spec(data, store__shard_images=3)
    extracted = extract_only(spec, workspace)
    harm(extracted.path / "journal" / "records" / "0000000004.json", 200)
    (extracted.path / "journal" / "index.sqlite").unlink()
    with pytest.raises(FormatError, match="store repair"):
        FeatureStore.open(extracted.path)
    job, prepared = prepared_job(spec, workspace)
    assert [finding["kind"] for finding in plan_repair(job, prepared).findings][:1] == ["record"]
    repaired = repair_store(job, prepared)
    assert repaired.lost_records == (4,)
    assert repaired.extracted.images_computed == 3
    assert verify_path(extracted.path) == []


def test_a_store_of_another_format_is_not_repaired_to_death(data, workspace):
    spec = tiny_spec(data)
    job, prepared = prepared_job(spec, workspace)
    extracted = extract_features(job, prepared)
    records = extracted.path / "journal" / "records"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("storage.records.FORMAT_VERSION", 2)
        FeatureStore.create_or_open(workspace / "newer", {"any": "fields"})
    (newer,) = (workspace / "newer").iterdir()
    (records / "0000000001.json").write_bytes((newer / "journal" / "records" / "0000000001.json").read_bytes())
    before = {path: path.read_bytes() for path in records.iterdir()}
    for attempt in (plan_repair, repair_store):
        with pytest.raises(VersionError, match=r"format version 2, this program reads 1.*newer release that wrote it"):
            attempt(job, prepared)
    assert {path: path.read_bytes() for path in records.iterdir()} == before
