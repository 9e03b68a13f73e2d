"""What can go wrong with an object store: nothing is lost, nothing wrong is read, and every refusal says what to do."""

import contextlib
import os
import runpy
import sqlite3
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from storage.compaction import compact_store
from storage.core import StoreCore
from storage.errors import DamagedError, FormatError, LeaseLostError, ObjectStoreError, StorageError
from storage.eviction import evict
from storage.features import Busy, FeatureStore, ShardWriter
from storage.layout import StoreLayout
from storage.leases import Lease, Owner
from storage.leftovers import remove_strays
from storage.mending import mend
from storage.places import mirror_of
from storage.records import RecordLog
from storage.workspace import Workspace

work = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("extracting.py"))))
A, B, C = work.LAYERS
KEYS = work.keys_of(0, 8)
ELSEWHERE = Owner("another machine", 4711, "1")


@pytest.fixture
def root(bucket, tmp_path):
    return bucket.mirror(tmp_path / "mirrors")


@pytest.fixture
def fresh(bucket, tmp_path):
    """Open the store as another machine would: with no cache and no index."""
    count = iter(range(100))
    return lambda **options: work.opened(bucket.mirror(tmp_path / f"elsewhere {next(count)}"), **options)


def is_right(store, keys=KEYS, layers=work.LAYERS, **options):
    reader, rows = store.reader(layers, **options), store.rows(keys, layers)
    for layer in layers:
        expected = np.stack([work.map_of(key, layer) for key in keys]).astype(np.float16)
        np.testing.assert_array_equal(reader.read(layer, rows), expected)


def read_or_refused(reader, row):
    try:
        return reader.read(A, [row])[0]
    except DamagedError:
        return None


def shard_key(bucket, layer_part, shard):
    (key,) = [key for key in bucket.keys(f"/c.{shard}.0.0.0") if layer_part in key]
    return key


# --- damage --------------------------------------------------------------------------------------------------------


DAMAGES = {
    "a bit of a row": lambda bucket, key: bucket.flip(key, 100),
    "the checksum behind a row": lambda bucket, key: bucket.flip(key, 4 * 5 * 6 * 2 + 1),
    "the index": lambda bucket, key: bucket.flip(key, -30),
    "cut": lambda bucket, key: bucket.put(key, bucket.get(key)[:-7]),
    "longer": lambda bucket, key: bucket.put(key, bucket.get(key) + b"\0"),
    "empty": lambda bucket, key: bucket.put(key, b""),
    "gone": lambda bucket, key: bucket.delete(key),
    "another shard's": lambda bucket, key: bucket.put(key, bucket.get(key.replace("/c.1.", "/c.0."))),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_object_is_named_never_read_and_made_again(bucket, root, fresh, damage):
    store = work.opened(root)
    work.extract(store, KEYS)
    DAMAGES[damage](bucket, shard_key(bucket, A, 1))
    (finding,) = store.verify()
    assert finding.kind == ("missing" if damage == "gone" else "damaged")
    assert (finding.layer, finding.shard) == (A, 1)
    assert set(finding.row_keys) <= set(KEYS[4:])
    assert finding.path == f"{bucket.url}/{store.key}/{A}/c.1.0.0.0"
    for keep_cached in (True, False):
        other = fresh()
        reader, rows = other.reader((A, B), keep_cached=keep_cached), other.rows(KEYS, (A, B))
        is_right(other, layers=(B,), keep_cached=keep_cached)
        # A row that is whole may be read, by its range.
        for row, key in zip(rows, KEYS, strict=True):
            if (got := read_or_refused(reader, row)) is None:
                assert key in KEYS[4:]
            else:
                np.testing.assert_array_equal(got, work.map_of(key, A).astype(np.float16))
        if damage != "the checksum behind a row":
            with pytest.raises(DamagedError, match="store repair"):
                reader.read(A, rows)
    store.retire(A, 1, "damaged")
    assert sorted(work.extract(store, KEYS)) == sorted((A, key) for key in KEYS[4:])
    assert store.verify() == []
    is_right(fresh())
    is_right(store)
    assert bool(bucket.keys("quarantine")) == (damage != "gone"), "a copy of what was damaged is kept"


def test_what_is_damaged_only_in_the_cache_is_fetched_again_without_a_word(bucket, root, fresh):
    work.extract(work.opened(root), KEYS)
    for keep_cached in (True, False):
        store = fresh()
        is_right(store, keep_cached=keep_cached)
        entries = [path for path in (store.path.parent / "cache").iterdir() if path.stat().st_size]
        assert len(entries) >= 6
        for number, path in enumerate(entries):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(bytes(data) if number % 2 else b"")
        is_right(store, keep_cached=keep_cached)
        is_right(FeatureStore.open(store.path), keep_cached=keep_cached)


def test_a_cache_that_is_damaged_or_removed_while_it_is_read_changes_nothing(bucket, root):
    store = work.opened(root)
    work.extract(store, KEYS)
    rows, reader = store.rows(KEYS, (A,)), store.reader((A,), verify_reads="always", keep_cached=True)
    before = reader.read(A, rows)
    for path in (store.path.parent / "cache").iterdir():
        with path.open("r+b") as file:
            file.truncate(50)
    np.testing.assert_array_equal(reader.read(A, rows), before)
    for path in (store.path.parent / "cache").iterdir():
        path.unlink()
    np.testing.assert_array_equal(reader.read(A, rows), before)
    np.testing.assert_array_equal(reader.read(A, rows[3:4]), before[3:4])


@pytest.mark.parametrize("harm", ["gone", "torn"])
def test_a_lost_record_is_named_and_what_it_committed_is_extracted_again(bucket, root, fresh, harm):
    store = work.opened(root)
    work.extract(store, KEYS)
    key = bucket.keys("records/0000000003")[0]
    if harm == "gone":
        bucket.delete(key)
    else:
        bucket.put(key, bucket.get(key)[:-9])
    assert any(finding.kind == "record" and finding.path.endswith("0000000003.json") for finding in store.verify())
    with pytest.raises(FormatError, match="store repair"):
        fresh()
    assert mend(StoreCore(StoreLayout(store.path), 60.0)) == [3]
    store = work.opened(root)
    assert len(work.extract(store, KEYS)) == 12
    is_right(store)
    is_right(fresh())
    assert [finding.kind for finding in store.verify()] == []


def test_derived_objects_that_were_harmed_are_found_and_written_anew(bucket, root, fresh):
    store = work.opened(root)
    work.extract(store, KEYS)
    names = [key for key in bucket.keys(store.key) if "journal" not in key and ("valid/c" in key or key.endswith("zarr.json"))]
    whole = {name: bucket.get(name) for name in names}
    for name in names:
        bucket.put(name, b"{}")
    assert {finding.kind for finding in store.verify()} == {"metadata"}
    is_right(fresh())
    mend(StoreCore(StoreLayout(store.path), 60.0))
    assert {name: bucket.get(name) for name in names} == whole
    assert store.verify() == []


def test_an_object_that_no_record_counts_is_named_and_removed_or_written_over(bucket, root):
    store = work.opened(root)
    work.extract(store, KEYS[:4])
    orphan = shard_key(bucket, A, 0).replace("/c.0.", "/c.1.")
    bucket.put(orphan, b"what a writer left that was killed before its record")
    findings = store.verify()
    assert [(finding.kind, finding.layer, finding.shard) for finding in findings] == [("orphan", A, 1)]
    assert remove_strays(store.core, findings) == [findings[0].path]
    assert store.verify() == []
    bucket.put(orphan, b"another one")
    work.extract(store, KEYS)
    assert store.verify() == []
    is_right(store)


def test_nothing_is_found_that_others_are_about_to_put_right(bucket, root, fresh, monkeypatch):
    store, other = work.opened(root), fresh()
    work.extract(other, KEYS[:4])
    writer = other.claim(tuple(KEYS), work.LAYERS)
    work.fill(writer)
    assert store.refresh() is None
    second = other.claim(tuple(work.keys_of(0, 12)), work.LAYERS)
    assert isinstance(second, ShardWriter)
    assert store.verify() == [], "somebody writes: documents may lag behind"
    live_and_dead = store.core.leases.live_and_dead

    def committed_meanwhile():
        monkeypatch.setattr(store.core.leases, "live_and_dead", live_and_dead)
        work.fill(second)
        return live_and_dead()

    monkeypatch.setattr(store.core.leases, "live_and_dead", committed_meanwhile)
    assert store.verify() == [], "what was committed since the records were read is no orphan"
    assert work.extract(other, work.keys_of(0, 12)) == []
    assert store.verify() == []


def test_two_who_declare_different_layers_at_once_agree_on_the_size_of_shards(bucket, tmp_path, monkeypatch):
    here, there = (FeatureStore.create_or_open(bucket.mirror(tmp_path / name), {"made": "at once"}) for name in ("a", "b"))
    append = here.core.log.append

    def after_the_other(body, number, link):
        monkeypatch.setattr(here.core.log, "append", append)
        there.declare_layers({"large": (100, 100, 256)})
        return append(body, number, link)

    monkeypatch.setattr(here.core.log, "append", after_the_other)
    here.declare_layers({"small": (10, 10, 8), "large": (100, 100, 256)})
    there.refresh()
    assert here.layers == there.layers == {"large": (100, 100, 256), "small": (10, 10, 8)}
    assert here.shard_images == there.shard_images


def test_two_who_create_a_store_at_once_create_one(bucket, tmp_path, monkeypatch):
    there = []

    def first(self, body, number, link):
        monkeypatch.setattr(RecordLog, "append", append)
        there.append(FeatureStore.create_or_open(bucket.mirror(tmp_path / "b"), {"made": "at once"}, recorded={"machine": "b"}))
        return self.append(body, number, link)

    append = RecordLog.append
    monkeypatch.setattr(RecordLog, "append", first)
    here = FeatureStore.create_or_open(bucket.mirror(tmp_path / "a"), {"made": "at once"}, recorded={"machine": "a"})
    assert here.record_count == there[0].record_count == 1
    assert here.info()["recorded"] == {"machine": "b"}


# --- leases --------------------------------------------------------------------------------------------------------


def test_what_another_machine_writes_is_waited_for_until_its_lease_expires(bucket, root, tmp_path):
    now = [1000.0]
    store = work.opened(root, clock=lambda: now[0], lease_seconds=60)
    lease = Lease(0, (A,), (0, 1, 2, 3), tuple(KEYS[:4]), now[0] + 60, ELSEWHERE)
    store.core.leases.grant(lease)
    claimed = store.claim(tuple(KEYS[:4]), (A,))
    assert isinstance(claimed, Busy)
    assert claimed.owners == (ELSEWHERE,)
    now[0] += 61
    with store.claim(tuple(KEYS[:4]), (A,)) as writer:
        assert writer.shard == 0
        writer.write(0, work.maps_of(writer.row_keys, writer.layers))
    is_right(store, KEYS[:4], (A,))
    with pytest.raises(LeaseLostError):
        store.core.leases.check(lease)
    with pytest.raises(LeaseLostError):
        store.core.leases.renew(lease, 60)


@pytest.mark.parametrize("before_upload", [True, False], ids=["before it sent anything", "with its objects sent"])
def test_a_writer_that_was_taken_over_can_neither_commit_nor_overwrite(bucket, tmp_path, before_upload, monkeypatch):
    now = [1000.0]
    slow, quick = (
        work.opened(bucket.mirror(tmp_path / name), clock=lambda: now[0], lease_seconds=60) for name in ("slow", "quick")
    )
    writer = slow.claim(tuple(KEYS[:4]), work.LAYERS).__enter__()
    wrong = {layer: np.full_like(maps, 7) for layer, maps in work.maps_of(KEYS[:4], work.LAYERS).items()}
    writer.write(0, wrong)
    if not before_upload:
        for file in writer._files.values():
            file.finish()
        assert len(bucket.keys("/c.0.0.0.0")) == 3
    now[0] += 61
    monkeypatch.setattr(Owner, "is_gone", lambda self: False)
    work.extract(quick, KEYS[:4])
    assert any(record.kind == "fence" for record in quick.core.log.follow(0, ""))
    with pytest.raises(LeaseLostError, match="another writer took the shard over"):
        writer.commit()
    writer.abandon()
    assert quick.verify() == []
    is_right(quick, KEYS[:4])
    assert slow.missing(KEYS[:4], work.LAYERS) == []


def test_an_upload_that_arrives_late_is_written_over_and_one_that_was_counted_never(bucket, tmp_path):
    here, there = (work.opened(bucket.mirror(tmp_path / name)) for name in ("here", "there"))
    writer = here.claim(tuple(KEYS[:4]), (A,)).__enter__()
    writer.write(0, work.maps_of(KEYS[:4], (A,)))
    late = f"{bucket.url.removeprefix(f's3://{bucket.name}/')}/{here.key}/{A}/c.0.0.0.0"
    bucket.put(late, b"sent by a process that has died since")
    writer.__exit__(None, None, None)
    assert work.extract(here, KEYS[:4], (A,)) == []
    assert here.verify() == []
    is_right(there, KEYS[:4], (A,))


def test_an_object_that_is_removed_while_it_is_written_over_is_made_again(bucket, root, monkeypatch):
    store = work.opened(root)
    client = store.core.backend._client
    late, head = f"{store.key}/{A}/c.0.0.0.0", type(client).head
    bucket.put(f"some/where/{late}", b"an orphan")
    removed = []

    def removing(self, key):
        if key == late and not removed:
            removed.append(bucket.delete(f"some/where/{late}"))
        return head(self, key)

    monkeypatch.setattr(type(client), "head", removing)
    work.extract(store, KEYS[:4], (A,))
    assert removed
    assert store.verify() == []
    is_right(store, KEYS[:4], (A,))


def test_who_is_written_over_again_and_again_gives_up_and_commits_nothing(bucket, root, monkeypatch):
    store = work.opened(root)
    client = store.core.backend._client
    late, head = f"{store.key}/{A}/c.0.0.0.0", type(client).head
    count = iter(range(100))
    bucket.put(f"some/where/{late}", b"an orphan")

    def replaced(self, key):
        seen = head(self, key)
        if key == late:
            bucket.put(f"some/where/{late}", f"another {next(count)}".encode())
        return seen

    monkeypatch.setattr(type(client), "head", replaced)
    with pytest.raises(LeaseLostError, match="others keep writing"):
        work.extract(store, KEYS[:4], (A,))
    monkeypatch.undo()
    assert store.missing(KEYS[:4], (A,)) == KEYS[:4]
    work.extract(store, KEYS[:4], (A,))
    is_right(store, KEYS[:4], (A,))


def test_what_an_index_that_lost_lines_takes_for_missing_is_not_written_over(bucket, root):
    store = work.opened(root)
    work.extract(store, KEYS)
    before = {key: bucket.get(key) for key in bucket.keys("/c.")}
    store.core.index.close()
    with contextlib.closing(sqlite3.connect(store.core.layout.index, isolation_level=None)) as connection:
        connection.execute("DELETE FROM rows WHERE shard = 1")
        connection.execute("DELETE FROM files WHERE shard = 1")
    other = work.keys_of(100, 104)
    with pytest.raises(LeaseLostError, match="run again"):
        work.extract(store, other)
    assert {key: bucket.get(key) for key in before} == before
    work.extract(store, other)
    is_right(store, [*KEYS, *other])
    assert store.verify() == []


def test_a_shard_that_no_put_can_hold_is_refused(bucket, root):
    class Vast(bytes):
        def __len__(self):
            return 6 * 10**9

    with pytest.raises(ObjectStoreError, match=r"smaller store\.shard_images"):
        work.opened(root).core.backend._client.create("vast", Vast())


def test_of_two_who_want_the_same_at_once_only_one_gets_it(bucket, tmp_path, monkeypatch):
    here, there = (work.opened(bucket.mirror(tmp_path / name)) for name in ("here", "there"))
    grant, granted = here.core.leases.grant, []

    def ours(lease):
        monkeypatch.setattr(here.core.leases, "grant", grant)
        granted.append(there.claim(tuple(KEYS[:4]), work.LAYERS))
        grant(lease)

    monkeypatch.setattr(here.core.leases, "grant", ours)
    claimed = here.claim(tuple(KEYS), work.LAYERS)
    assert granted[0].row_keys == tuple(KEYS[:4])
    assert claimed.row_keys == tuple(KEYS[4:]), "having seen the other's lease, it took the next images"
    claimed.abandon()
    granted[0].abandon()
    assert bucket.keys("leases") == []


def test_something_that_is_no_lease_holds_nobody_up(bucket, root):
    store = work.opened(root)
    bucket.put(f"some/where/{store.key}/journal/leases/odd.json", b"[]")
    work.extract(store, KEYS)
    is_right(store)
    assert bucket.keys("leases") == []


# --- requests that fail --------------------------------------------------------------------------------------------


def test_requests_that_fail_now_and_then_are_tried_again(bucket, root):
    with bucket.faults(status=503, count=6):
        store = work.opened(root)
        work.extract(store, KEYS[:4])
    is_right(store, KEYS[:4])


def test_an_answer_that_is_lost_does_not_make_us_think_that_somebody_else_was_first(bucket, root):
    with bucket.faults(status=500, methods=["PUT"], count=4, after=True):
        store = work.opened(root)
    with bucket.faults(status=500, methods=["PUT"], match="records|leases|/c\\.", count=5, after=True):
        assert len(work.extract(store, KEYS[:4])) == 12
    is_right(store, KEYS[:4])
    assert store.verify() == []
    assert store.info()["rows"] == 4


@pytest.mark.parametrize("match", ["/c\\.1", "records", "leases"])
def test_a_store_that_fails_for_good_says_so_and_the_rerun_resumes(bucket, root, fresh, match, monkeypatch):
    monkeypatch.setenv("HYPERCOLUMNS_S3_SECONDS", "0.3")
    store = fresh()
    work.extract(store, KEYS[:4])
    with bucket.faults(status=503, methods=["PUT"], match=match), pytest.raises(ObjectStoreError, match="it resumes"):
        work.extract(store, KEYS)
    is_right(store, KEYS[:4])
    again = fresh()
    assert len(work.extract(again, KEYS)) == 12
    assert again.verify() == []
    is_right(again)


def test_a_slow_store_is_given_up_after_a_while_with_the_remedy(bucket, root, monkeypatch):
    monkeypatch.setenv("HYPERCOLUMNS_S3_SECONDS", "0.4")
    with bucket.faults(delay=0.6), pytest.raises(ObjectStoreError, match="HYPERCOLUMNS_S3_SECONDS"):
        work.opened(root)
    monkeypatch.setenv("HYPERCOLUMNS_S3_SECONDS", "20")
    with bucket.faults(delay=0.1):
        store = work.opened(root)
    work.extract(store, KEYS)
    is_right(store)


REFUSALS = {
    "away": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, None, "AWS_ENDPOINT_URL is right and the server is up"),
    "no bucket": ({}, "s3://there-is-no-such-bucket/x", "make the bucket"),
    "plain http": ({"AWS_ALLOW_HTTP": ""}, None, "AWS_ALLOW_HTTP=true"),
    "no number": ({"HYPERCOLUMNS_S3_SECONDS": "soon"}, None, "expected seconds"),
    "no bytes": ({"HYPERCOLUMNS_CACHE_BYTES": "lots"}, None, "expected a number of bytes"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_store_that_cannot_be_used_is_refused_with_the_reason(bucket, tmp_path, monkeypatch, case):
    environment, url, message = REFUSALS[case]
    for name, value in {"HYPERCOLUMNS_S3_SECONDS": "1", **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=message):
        work.opened(mirror_of(tmp_path, url or bucket.url))
    assert bucket.keys() == []


def test_wrong_credentials_are_named(bucket, root):
    with bucket.faults(status=403), pytest.raises(ObjectStoreError, match="AWS_SECRET_ACCESS_KEY are right"):
        work.opened(root)
    store = work.opened(root)
    with bucket.faults(status=403, methods=["PUT"]), pytest.raises(ObjectStoreError, match="may read, list, write and delete"):
        work.extract(store, KEYS)
    work.extract(store, KEYS)
    is_right(store)


def test_without_the_client_library_the_extra_is_named(bucket, root, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ObjectStoreError, match=r"pip install 'hypercolumns\[s3\]'"):
        work.opened(root)


def test_a_mirror_that_does_not_say_of_what_is_refused(tmp_path):
    (tmp_path / "object-store.json").write_text('{"url": 3}')
    with pytest.raises(FormatError, match="URL of an object store"):
        work.opened(tmp_path)


@pytest.mark.parametrize("use", ["the parent's store", "a store of its own"])
def test_a_fork_is_refused_instead_of_hanging(bucket, root, use):
    store = work.opened(root)
    work.extract(store, KEYS[:4])
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            store.refresh() if use == "the parent's store" else FeatureStore.open(store.path)
        except ObjectStoreError as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    assert b"spawn" in os.read(reading, 10_000)
    os.close(reading)


def test_what_needs_a_disk_is_refused_by_name(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERCOLUMNS_STORES", bucket.url)
    workspace = Workspace(tmp_path)
    store = work.opened(workspace.stores)
    work.extract(store, KEYS)
    with pytest.raises(StorageError, match="nothing is compacted in an object store"):
        compact_store(store.path, rewrite_rows=True)
    with pytest.raises(StorageError, match="nothing is evicted from an object store"):
        evict(workspace, 1, named_too=True, remove=True)
    is_right(store)
