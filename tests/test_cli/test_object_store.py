"""The whole command line on a workspace whose feature stores lie in an object store."""

import json

import numpy as np
import pytest

from tests.pipeline_factory import LAYERS, extract_only, run_tasks, tiny_spec


@pytest.fixture
def at_the_bucket(bucket, hypercolumns, tmp_path):
    """A workspace whose stores lie in the bucket, by its own file."""
    workspace = tmp_path / "workspace"
    said = hypercolumns("store", "at", bucket.url, "--workspace", workspace, "--json")
    assert said.code == 0
    assert said.last["url"] == bucket.url
    return workspace


def test_a_whole_experiment_runs_on_a_bucket_and_gives_what_it_gives_on_a_disk(bucket, at_the_bucket, data, tmp_path):
    spec = tiny_spec(data)
    here, there = run_tasks(spec, tmp_path / "on disk"), run_tasks(spec, at_the_bucket)
    assert there.evaluated.metrics == here.evaluated.metrics
    assert not (at_the_bucket / "stores").exists()
    again = run_tasks(spec, at_the_bucket)
    assert all(stage.cached for stage in again.stages)
    assert again.extracted.images_computed == 0
    assert len(bucket.keys("/c.0.0.0.0")) == len(LAYERS)


def test_another_workspace_uses_what_one_has_extracted(bucket, at_the_bucket, data, tmp_path, monkeypatch):
    assert extract_only(tiny_spec(data), at_the_bucket).images_computed == 9
    monkeypatch.setenv("HYPERCOLUMNS_STORES", bucket.url)
    outcome = run_tasks(tiny_spec(data), tmp_path / "another")
    assert outcome.extracted.images_computed == 0


def test_commands_on_stores_work_or_say_that_they_do_not(bucket, at_the_bucket, hypercolumns, data, config):
    extracted = extract_only(tiny_spec(data), at_the_bucket)
    here = ("--workspace", at_the_bucket)
    (listed,) = hypercolumns("store", "ls", *here, "--json").last
    assert (listed["key"], listed["rows"], listed["path"]) == (extracted.key, 9, f"{bucket.url}/{extracted.key}")
    (info,) = hypercolumns("store", "info", extracted.key[:6], *here, "--json").last
    assert set(info["layers"]) == set(LAYERS)
    usage = hypercolumns("store", "du", *here, "--json").last[extracted.key]
    assert usage["total"] == sum(len(bucket.get(key)) for key in bucket.keys(extracted.key))
    verified = hypercolumns("store", "verify", *here)
    assert (verified.code, verified.out) == (0, f"{extracted.key}: whole\n")
    assert hypercolumns("store", "verify", "--quick", *here).code == 0
    drift = hypercolumns("store", "verify", config, "--against-backbone", "2", *here, "--json")
    assert drift.code == 0
    assert all(layer["identical"] for layer in drift.last["layers"].values())
    planned = hypercolumns("plan", config, *here, "--json").last
    assert (planned["missing"], planned["fits"]) == (0, True)
    for arguments in (("compact", "--yes"), ("evict", "--max-bytes", "1")):
        refused = hypercolumns("store", *arguments, *here)
        assert refused.code == 1
        assert f"{bucket.url}: expected stores on a disk" in refused.err
    swept = hypercolumns("store", "gc", "--older-than", "0", "--yes", *here)
    assert swept.code == 0
    assert "other workspaces may use it" in swept.out
    assert hypercolumns("store", "verify", *here).code == 0


def test_damage_is_named_and_repair_extracts_exactly_that_again(bucket, at_the_bucket, hypercolumns, data, config):
    extracted = extract_only(tiny_spec(data), at_the_bucket)
    here = ("--workspace", at_the_bucket)
    key = next(key for key in bucket.keys("/c.0.0.0.0") if LAYERS[1] in key)
    whole = bucket.get(key)
    bucket.flip(key, 4321)
    damaged = hypercolumns("store", "verify", *here, "--json")
    assert damaged.code == 1
    (finding,) = damaged.last[extracted.key]
    assert (finding["kind"], finding["layer"], len(finding["row_keys"])) == ("damaged", LAYERS[1], 1)
    dry = hypercolumns("store", "repair", config, "--dry-run", *here, "--json").last
    assert (dry["extract"], len(dry["retire"])) == (9, 1)
    repaired = hypercolumns("store", "repair", config, *here, "--json").last
    assert repaired["extracted"]["images_computed"] == 9
    assert bucket.get(key) == whole
    assert hypercolumns("store", "verify", *here).code == 0


def test_gc_clears_up_after_a_writer_that_died(bucket, at_the_bucket, hypercolumns, data):
    from storage.features import FeatureStore
    from storage.leases import Lease, Owner

    core = FeatureStore.open(extract_only(tiny_spec(data), at_the_bucket).path).core
    gone = Owner(Owner.me().machine, 2**22 + 1, "0")
    lease = Lease(7, (LAYERS[0],), (0,), ("somebody:identity",), core.clock() + 100, gone)
    core.leases.grant(lease)
    partial = core.layout.shard(LAYERS[0], 7).with_name(f"c.7.0.0.0.{lease.name}.partial")
    partial.write_bytes(b"half a shard")
    swept = hypercolumns("store", "gc", "--yes", "--workspace", at_the_bucket)
    assert swept.code == 0
    assert partial.name in swept.out
    assert not partial.exists()
    assert bucket.keys("/leases/") == []
    assert hypercolumns("store", "verify", "--workspace", at_the_bucket).code == 0


def test_where_stores_lie_is_said_kept_and_changed_back(bucket, at_the_bucket, hypercolumns, data, monkeypatch, tmp_path):
    here = ("--workspace", at_the_bucket)
    assert bucket.url in hypercolumns("store", "at", *here).out
    monkeypatch.setenv("HYPERCOLUMNS_STORES", "local")
    assert hypercolumns("store", "at", *here, "--json").last["url"] is None
    assert "HYPERCOLUMNS_STORES is set" in hypercolumns("store", "at", bucket.url, *here).out
    monkeypatch.delenv("HYPERCOLUMNS_STORES")
    assert hypercolumns("store", "at", "local", *here, "--json").last["url"] is None
    assert extract_only(tiny_spec(data), at_the_bucket).path.parent == at_the_bucket / "stores"
    assert bucket.keys() == []
    assert hypercolumns("store", "at", bucket.url + "/", *here, "--json").last["url"] == bucket.url


@pytest.mark.parametrize(
    "url",
    ["https://bucket/x", "s3://", "s3://B/x", "s3://bucket/../other", "s3://bucket/a b", "gs://bucket", "bucket", "s3:/b"],
)
def test_what_is_no_url_of_a_bucket_is_refused_before_anything_is_kept(hypercolumns, tmp_path, url, monkeypatch):
    refused = hypercolumns("store", "at", url, "--workspace", tmp_path)
    assert refused.code == 1
    assert "expected s3://BUCKET" in refused.err
    assert not (tmp_path / "stores.url").exists()
    (tmp_path / "stores.url").write_text(url)
    assert f"{tmp_path / 'stores.url'}: expected s3://BUCKET" in hypercolumns("store", "ls", "--workspace", tmp_path).err


def test_a_bucket_that_is_not_there_is_not_chosen(bucket, hypercolumns, tmp_path):
    refused = hypercolumns("store", "at", "s3://there-is-no-such-bucket", "--workspace", tmp_path)
    assert refused.code == 1
    assert "make the bucket" in refused.err
    assert hypercolumns("store", "at", "--workspace", tmp_path, "--json").last["url"] is None


def test_a_bucket_that_is_not_there_is_one_line_and_nothing_is_computed(bucket, hypercolumns, config, tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERCOLUMNS_STORES", "s3://there-is-no-such-bucket")
    refused = hypercolumns("plan", config, "--workspace", tmp_path / "workspace")
    assert refused.code == 1
    assert "make the bucket" in refused.err
    assert len(refused.err.strip().splitlines()) == 1


def test_maps_are_the_same_wherever_the_stores_lie(bucket, at_the_bucket, data, tmp_path):
    """The maps themselves, read by the training's own reader."""
    from storage.features import FeatureStore

    spec = tiny_spec(data)
    stores = [FeatureStore.open(extract_only(spec, place).path) for place in (tmp_path / "on disk", at_the_bucket)]
    rows = [store.committed_rows(LAYERS[0]) for store in stores]
    np.testing.assert_array_equal(*rows)
    np.testing.assert_array_equal(*(store.reader(LAYERS).read(LAYERS[0], rows[0]) for store in stores))
    assert json.dumps(stores[0].key_fields) == json.dumps(stores[1].key_fields)
