"""A feature store in an object store: it does what one on a disk does, with the same bytes."""

import runpy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import zarr

from storage.features import FeatureStore
from storage.inspection import list_stores

work = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("extracting.py"))))
A, B, C = work.LAYERS


@pytest.fixture
def root(bucket, tmp_path):
    return bucket.mirror(tmp_path / "mirrors")


def expected(keys, layer):
    return np.stack([work.map_of(key, layer) for key in keys]).astype(np.float16)


def is_right(store, keys, layers=work.LAYERS, **options):
    reader, rows = store.reader(layers, **options), store.rows(keys, layers)
    for layer in layers:
        np.testing.assert_array_equal(reader.read(layer, rows), expected(keys, layer))


def contents(bucket, store):
    """Return the store's objects by their names in it."""
    return {key.partition(f"{store.key}/")[2]: bucket.get(key) for key in bucket.keys(store.key)}


def test_what_is_extracted_into_a_bucket_is_read_back_by_whoever_comes_from_elsewhere(bucket, root, tmp_path):
    keys = work.keys_of(0, 10)
    store = work.opened(root)
    assert len(work.extract(store, keys)) == 30
    is_right(store, keys)
    elsewhere = bucket.mirror(tmp_path / "elsewhere")
    (path,) = list_stores(elsewhere)
    is_right(FeatureStore.open(path), keys)
    assert work.extract(work.opened(elsewhere), keys) == [], "all of it is there already"
    assert store.place == f"{bucket.url}/{store.key}"
    assert store.verify() == []


@pytest.mark.parametrize("options", [{}, {"dtype": "uint8"}, {"dtype": "bfloat16"}, {"compression": "zstd"}])
def test_the_objects_are_the_files_of_a_store_on_a_disk_byte_by_byte(bucket, root, tmp_path, options):
    keys = work.keys_of(0, 10)
    local, remote = work.opened(tmp_path / "disk", **options), work.opened(root, **options)
    work.extract(local, keys)
    work.extract(remote, keys)
    found = contents(bucket, remote)
    on_disk = {str(path.relative_to(local.path)): path.read_bytes() for path in local.path.rglob("*") if path.is_file()}
    public = {name for name in on_disk if not name.startswith("journal/") or name == "journal/zarr.json"}
    assert public == {name for name in found if not name.startswith("journal/")} | {"journal/zarr.json"}
    assert len(public) > 12
    assert {name for name in public if found[name] != on_disk[name]} == set()
    assert {name for name in found if name.startswith("journal/records/")} == {
        name for name in on_disk if name.startswith("journal/records/")
    }
    assert not [name for name in found if "partial" in name or "lease" in name], "nothing unfinished, no lease is left"
    layers = work.LAYERS
    np.testing.assert_array_equal(
        remote.reader(layers).read(A, remote.rows(keys, layers)), local.reader(layers).read(A, local.rows(keys, layers))
    )


def test_stock_zarr_reads_the_bucket(bucket, root):
    from obstore.store import S3Store
    from zarr.storage import ObjectStore

    store = work.opened(root)
    keys = work.keys_of(0, 6)
    work.extract(store, keys)
    options = {"endpoint": bucket.endpoint, "access_key_id": "tester", "secret_access_key": "secret", "region": "us-east-1"}
    client = S3Store.from_url(f"{bucket.url}/{store.key}", **options, client_options={"allow_http": True})
    group = zarr.open_group(ObjectStore(client, read_only=True), mode="r")
    assert group.attrs["format"] == "hypercolumns-features"
    np.testing.assert_array_equal(np.flatnonzero(group["valid"][:]), np.arange(6))
    for layer, name in group.attrs["layers"].items():
        np.testing.assert_array_equal(group[name][:6], expected(keys, layer))
    names = [bytes(row).rstrip(b"\0").decode() for row in group["row_keys"][:6]]
    assert names == keys


def test_a_layer_is_added_without_sending_the_others_again(bucket, root):
    keys = work.keys_of(0, 8)
    work.extract(work.opened(root, (A,)), keys, (A,))
    bucket.requests()
    done = work.extract(work.opened(root, (A, B)), keys, (A, B))
    assert {layer for layer, _ in done} == {B}
    puts = [line for line in bucket.requests() if line.startswith("PUT") and "/c." in line and "valid" not in line]
    puts = [line for line in puts if "row_keys" not in line]
    assert len(puts) == 2
    assert not any(A in line for line in puts)


def test_appended_images_go_into_new_shards_and_rows_are_counted(bucket, root, tmp_path):
    store = work.opened(root)
    work.extract(store, work.keys_of(0, 3))
    work.extract(work.opened(bucket.mirror(tmp_path / "elsewhere")), work.keys_of(2, 9))
    is_right(store, work.keys_of(0, 9))
    assert store.info()["rows"] == 9
    assert store.info()["path"] == store.place
    usage = store.du()
    assert usage["total"] == sum(len(data) for data in contents(bucket, store).values())
    assert usage["layers"][A] > 9 * 4 * 5 * 6 * 2


def test_a_few_rows_are_read_by_ranges_and_only_once(bucket, root, tmp_path):
    keys = work.keys_of(0, 8)
    work.extract(work.opened(root), keys)
    store = work.opened(bucket.mirror(tmp_path / "elsewhere"))
    rows = store.rows(keys, (A,))
    bucket.requests()
    reader = store.reader((A,), keep_cached=False)
    np.testing.assert_array_equal(reader.read(A, rows[1:2]), expected(keys[1:2], A))
    gets = [line for line in bucket.requests() if line.startswith("GET") and A in line]
    assert len(gets) == 2, "the shard's index and one row"
    again = store.reader((A,), keep_cached=False, verify_reads="always")
    np.testing.assert_array_equal(again.read(A, rows[1:2]), expected(keys[1:2], A))
    np.testing.assert_array_equal(again.read_cells(A, rows[1], [3, 0]), expected(keys[1:2], A).reshape(-1, 6)[[3, 0]])
    assert not [line for line in bucket.requests() if "/c." in line], "both lie in the cache"


def test_whoever_reads_all_of_it_again_and_again_fetches_each_shard_once(bucket, root, tmp_path):
    keys = work.keys_of(0, 8)
    work.extract(work.opened(root), keys)
    store = work.opened(bucket.mirror(tmp_path / "elsewhere"))
    bucket.requests()
    for _ in range(3):
        is_right(store, keys, (A,), keep_cached=True)
        reader = store.reader((A,), keep_cached=True)
        for row, key in zip(store.rows(keys, (A,)), keys, strict=True):
            np.testing.assert_array_equal(reader.read(A, [row]), expected([key], A))
    gets = [line for line in bucket.requests() if line.startswith("GET") and f"{A}/c." in line]
    assert len(gets) == 2, "two shards"


def test_threads_that_want_the_same_shard_fetch_it_once(bucket, root, tmp_path):
    keys = work.keys_of(0, 8)
    work.extract(work.opened(root), keys)
    store = work.opened(bucket.mirror(tmp_path / "elsewhere"))
    rows, reader = store.rows(keys, (A,)), store.reader((A,), keep_cached=True)
    bucket.requests()
    with bucket.faults(delay=0.2, methods=["GET"]), ThreadPoolExecutor(8) as executor:
        found = list(executor.map(lambda row: reader.read(A, [row])[0], rows))
    np.testing.assert_array_equal(np.stack(found), expected(keys, A))
    assert len([line for line in bucket.requests() if line.startswith("GET") and f"{A}/c." in line]) == 2


def test_what_was_written_here_is_read_without_a_request(bucket, root):
    keys = work.keys_of(0, 8)
    store = work.opened(root)
    work.extract(store, keys)
    rows, reader = store.rows(keys, (B,)), store.reader((B,), keep_cached=False)
    bucket.requests()
    np.testing.assert_array_equal(reader.read(B, rows), expected(keys, B))
    assert not [line for line in bucket.requests() if "/c." in line]


def test_many_records_are_fetched_side_by_side_when_the_index_is_made_anew(bucket, root, tmp_path):
    store = work.opened(root, shard_images=1)
    work.extract(store, work.keys_of(0, 12))
    bucket.requests()
    fresh = FeatureStore.open(list_stores(bucket.mirror(tmp_path / "elsewhere"))[0])
    assert fresh.record_count == store.record_count == 14
    reads = [line for line in bucket.requests() if line.startswith("GET") and "records/0000" in line]
    assert len(reads) <= 16, "each record once, the first once more, and the one that is not there"


def test_leases_objects_and_documents_are_looked_at_as_rarely_as_can_be(bucket, root):
    store = work.opened(root)
    bucket.requests()
    work.extract(store, work.keys_of(0, 4))
    assert len(bucket.requests()) < 75, "one shard of three layers"
    assert store.hits(work.keys_of(0, 4), work.LAYERS) == dict.fromkeys(work.LAYERS, 4)
    bucket.requests()
    store.hits(work.keys_of(0, 4), work.LAYERS)
    assert len(bucket.requests()) == 1


def test_shards_of_new_stores_are_small_enough_to_be_sent_whole(bucket, root):
    store = FeatureStore.create_or_open(root, {"big": 1})
    store.declare_layers({"fine": (360, 480, 64), "coarse": (11, 15, 512)})
    assert store.shard_images == 128_000_000 // (360 * 480 * 64 * 2 + 4)
