"""What becomes of a feature store when processes are killed, files are damaged and records are lost."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import zarr

from storage.core import StoreCore
from storage.errors import (
    DamagedError,
    FormatError,
    LayerMismatchError,
    LeaseLostError,
    RowsMissingError,
    StorageError,
)
from storage.features import Busy, FeatureStore
from storage.layout import StoreLayout
from storage.mending import mend
from storage.records import RecordLog
from storage.verification import verify_path

PROGRAM = Path(__file__).with_name("extracting.py")
work = SimpleNamespace(**runpy.run_path(str(PROGRAM)))
A, B, C = work.LAYERS
KEYS = tuple(work.keys_of(0, 10))


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    """The order of flushes is another test's; waiting for the disk would take most of the time."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("os.fdatasync", lambda descriptor: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished store, to be copied."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.fsync", lambda descriptor: None)
        patched.setattr("os.fdatasync", lambda descriptor: None)
        store = work.opened(root)
        work.extract(store, KEYS)
    store.core.index.close()
    return root


@pytest.fixture
def root(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "stores")


def is_right(store, keys=KEYS):
    rows = store.rows(keys, work.LAYERS)
    assert len(set(rows)) == len(keys)
    for layer in work.LAYERS:
        expected = np.stack([work.map_of(key, layer) for key in keys]).astype(np.float16)
        np.testing.assert_array_equal(store.reader([layer]).read(layer, rows), expected)
        group = zarr.open_group(store.path, mode="r")
        np.testing.assert_array_equal(group[group.attrs["layers"][layer]][:][rows], expected)
    return True


def bytes_by_row_key(store):
    rows = store.rows(KEYS, work.LAYERS)
    return {
        (layer, key): store.reader([layer]).read(layer, [row]).tobytes()
        for layer in work.LAYERS
        for key, row in zip(KEYS, rows, strict=True)
    }


def flip(path, position, bit=3):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def test_a_run_killed_anywhere_is_resumed_without_loss_or_repetition(tmp_path):
    run = subprocess.run([sys.executable, PROGRAM, "kill", tmp_path, "499", "77"], capture_output=True, text=True, check=True)
    assert int(run.stdout) > 20, "it must have been killed at many places"
    *killed, ended = sorted(tmp_path.iterdir())
    uninterrupted = bytes_by_row_key(work.opened(ended))
    for folder in killed:
        store = work.opened(folder)
        for finding in store.verify():
            assert finding.kind in ("partial", "orphan", "metadata"), finding
        committed = {layer: set(KEYS) - set(store.missing(KEYS, [layer])) for layer in work.LAYERS}
        done = work.extract(store, KEYS)
        for layer, key in done:
            assert key not in committed[layer], "what was committed must not be computed again"
        assert is_right(store)
        assert bytes_by_row_key(store) == uninterrupted
        assert store.verify() == []
        assert not list(store.path.rglob("*.partial"))


def test_a_dead_writer_is_taken_over_at_once_and_a_silent_one_after_its_lease(tmp_path):
    now = [1000.0]
    silent = work.opened(tmp_path, clock=lambda: now[0])
    other = work.opened(tmp_path, clock=lambda: now[0])
    writer = silent.claim(KEYS[:4], [A]).__enter__()
    writer.write(0, work.maps_of(KEYS[:2], [A]))
    assert isinstance(other.claim(KEYS[:4], [A]), Busy)
    now[0] += 121
    work.fill(other.claim(KEYS[:4], [A]))
    assert not list(tmp_path.rglob("*.partial"))
    with pytest.raises(LeaseLostError, match="another writer took the shard over"):
        writer.write(2, work.maps_of(KEYS[2:4], [A]))
    writer.abandon()
    assert other.missing(KEYS[:4], [A]) == []
    assert other.verify() == []


def test_a_writer_that_lost_its_lease_cannot_commit(tmp_path):
    now = [1000.0]
    silent, other = (work.opened(tmp_path, clock=lambda: now[0]) for _ in range(2))
    writer = silent.claim(KEYS[:4], [A]).__enter__()
    writer.write(0, work.maps_of(KEYS[:4], [A]))
    now[0] += 121
    work.fill(other.claim(KEYS[:4], [A]))
    with pytest.raises(LeaseLostError):
        writer.__exit__(None, None, None)
    silent.refresh()
    assert other.record_count == silent.record_count == 3
    assert other.verify() == []


def test_a_lease_is_renewed_while_its_writer_writes(tmp_path):
    now = [1000.0]
    slow, other = (work.opened(tmp_path, clock=lambda: now[0]) for _ in range(2))
    with slow.claim(KEYS[:4], [A]) as writer:
        for image in range(4):
            now[0] += 100
            assert image == 0 or isinstance(other.claim(KEYS[:4], [A]), Busy)
            writer.write(image, work.maps_of(KEYS[image : image + 1], [A]))
    assert other.missing(KEYS[:4], [A]) == []


def test_a_torn_lease_hinders_nobody(tmp_path):
    store = work.opened(tmp_path)
    (store.path / "journal" / "leases").mkdir()
    (store.path / "journal" / "leases" / "torn.json").write_bytes(b'{"shard":')
    (store.path / "journal" / "leases" / "odd.json").write_bytes(b'{"shard": 3}')
    assert len(work.extract(store, KEYS)) == 30


def do_harm(store, harm):
    """Harm the second shard of layer B."""
    path = store.shard_path(B, 1)
    if harm == "flip":
        flip(path, 2 * (2 * 3 * 8 * 2 + 4) + 5)
    elif harm == "flip a checksum":
        flip(path, 3 * (2 * 3 * 8 * 2 + 4) - 2)
    elif harm == "flip the index":
        flip(path, -30)
    elif harm == "truncate":
        path.write_bytes(path.read_bytes()[:-1])
    elif harm == "grow":
        path.write_bytes(path.read_bytes() + b"\0")
    elif harm == "delete":
        path.unlink()
    else:
        other = store.shard_path(B, 0)
        path.rename(store.path / "aside")
        other.rename(path)
        (store.path / "aside").rename(other)


@pytest.mark.parametrize("harm", ["flip", "flip a checksum", "flip the index", "truncate", "grow", "delete", "swap"])
def test_a_damaged_shard_is_refused_named_and_redone_alone(root, harm):
    store = work.opened(root)
    rows = store.rows(KEYS, work.LAYERS)
    do_harm(store, harm)
    findings = store.verify()
    assert {(finding.shard, finding.layer) for finding in findings} == ({(0, B), (1, B)} if harm == "swap" else {(1, B)})
    named = {key for finding in findings if finding.shard == 1 for key in finding.row_keys}
    assert named == ({KEYS[6]} if harm in ("flip", "flip a checksum") else set(KEYS[4:8]))
    for single in (True, False) if harm != "flip a checksum" else ():
        reader = store.reader([A, B])
        with pytest.raises(DamagedError, match=f"shard 1 of layer.*{KEYS[6]}.*store repair"):
            reader.read(B, [rows[6]] if single else [rows[6], rows[5]])
        with pytest.raises(DamagedError):
            reader.read_cells(B, rows[6], [0])
        assert len(reader.read(A, rows)) == 10

    for finding in findings:
        store.retire(finding.layer, finding.shard, finding.what)
    assert store.missing(KEYS, [A]) == []
    done = work.extract(store, KEYS)
    assert sorted(done) == sorted((B, key) for key in (KEYS[:8] if harm == "swap" else KEYS[4:8]))
    np.testing.assert_array_equal(store.rows(KEYS, work.LAYERS), rows)
    assert is_right(store)
    assert store.verify() == []
    assert harm == "delete" or store.du()["quarantine"] > 0


def test_damage_after_the_first_touch_is_seen_by_a_reader_that_always_verifies(root):
    store = work.opened(root)
    readers = {mode: store.reader([A], verify_reads=mode) for mode in ("first", "always", "never")}
    for reader in readers.values():
        reader.read(A, [0, 1])
    flip(store.shard_path(A, 0), 11)
    readers["first"].read(A, [0, 1])
    readers["never"].read(A, [0, 1])
    with pytest.raises(DamagedError):
        readers["always"].read(A, [0, 1])
    with pytest.raises(ValueError, match="first, always or never"):
        store.reader([A], verify_reads="sometimes")


def test_a_compressed_row_that_is_damaged_is_refused_even_unverified(tmp_path):
    store = work.opened(tmp_path, compression="zstd")
    work.extract(store, KEYS)
    flip(store.shard_path(A, 0), 1)
    for mode in ("first", "never"):
        with pytest.raises(DamagedError):
            store.reader([A], verify_reads=mode).read(A, [0])


def test_a_reader_goes_on_when_a_shard_is_repaired_under_it(root):
    store = work.opened(root)
    reader = store.reader([B])
    reader.read(B, [4])
    other = work.opened(root)
    flip(store.shard_path(B, 1), 0)
    other.retire(B, 1, "a test")
    work.extract(other, KEYS)
    np.testing.assert_array_equal(reader.read(B, [4, 5])[1], work.map_of(KEYS[5], B).astype(np.float16))


@pytest.mark.parametrize("harm", ["delete", "empty", "noise", "flip", "half", "with its journal"])
def test_the_index_is_built_anew_from_the_records(root, harm):
    before = work.opened(root)
    before.core.index.close()
    index = before.path / "journal" / "index.sqlite"
    data = index.read_bytes()
    for suffix in ("-wal", "-shm"):
        Path(f"{index}{suffix}").unlink(missing_ok=True)
    if harm == "delete":
        index.unlink()
    elif harm == "flip":
        changed = bytearray(data)
        place = data.rindex(KEYS[3].encode())
        changed[place : place + 4] = b"zzzz"
        index.write_bytes(changed)
    else:
        index.write_bytes(
            {"empty": b"", "noise": os.urandom(5000), "half": data[: len(data) // 2], "with its journal": data}[harm]
        )
        if harm == "with its journal":
            Path(f"{index}-wal").write_bytes(os.urandom(9000))
    store = work.opened(root)
    assert store.claim(KEYS, work.LAYERS) is None or harm == "flip"
    assert is_right(work.opened(root)) or harm == "flip"


def test_an_index_line_that_was_changed_is_never_believed(root):
    index = work.opened(root).core.index
    index._run(lambda connection: connection.execute("UPDATE rows SET slot = 1 - slot WHERE shard = 0 AND slot < 2").close())
    assert is_right(work.opened(root))


def test_a_store_that_cannot_be_written_can_be_read(root, monkeypatch):
    store_path = work.opened(root).path
    shutil.rmtree(store_path / "journal" / "leases")
    (store_path / "journal" / "index.sqlite").unlink()
    monkeypatch.setattr("storage.rows_index.sqlite3.connect", in_memory_only(monkeypatch))
    assert is_right(FeatureStore.open(store_path))


def in_memory_only(monkeypatch):
    import sqlite3

    connect = sqlite3.connect

    def refusing(name, **options):
        if name != ":memory:":
            raise sqlite3.OperationalError("unable to open database file")
        return connect(name, **options)

    return refusing


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("harm", ["delete", "flip", "empty"])
@pytest.mark.parametrize("with_index", [True, False])
def test_a_lost_record_is_noticed_and_what_it_committed_is_redone(root, number, harm, with_index):
    store = work.opened(root)
    assert store.record_count == 5
    record = store.core.log.path(number)
    if harm == "delete":
        record.unlink()
    elif harm == "flip":
        flip(record, 100)
    else:
        record.write_bytes(b"")
    if not with_index:
        store.core.index.close()
        (store.path / "journal" / "index.sqlite").unlink()

    silent = number == 5 and harm == "delete" and not with_index
    found = {finding.kind for finding in verify_path(store.path)}
    assert found == ({"orphan", "metadata"} if silent else found | {"record"})
    if silent or (with_index and number < 5):
        assert FeatureStore.open(store.path).record_count
    else:
        with pytest.raises(FormatError, match=r"record|creates"):
            FeatureStore.open(store.path)

    assert mend(store.core) == ([] if silent else [number])
    healed = work.opened(root)
    redone = {3: 4, 4: 4, 5: 2}.get(number, 0) * 3
    assert len(work.extract(healed, KEYS)) == redone
    assert is_right(healed)
    assert verify_path(store.path) == []


def test_two_neighbouring_records_lost_are_mended_together(root):
    store = work.opened(root)
    for number in (3, 4):
        store.core.log.path(number).unlink()
    assert mend(store.core) == [3, 4]
    assert mend(store.core) == []
    healed = work.opened(root)
    assert len(work.extract(healed, KEYS)) == 24
    assert is_right(healed)


def test_a_first_record_that_nothing_replaces_is_said_to_be_beyond_repair(root):
    store = work.opened(root)
    store.core.log.path(1).unlink()
    (store.path / "zarr.json").write_text("{}")
    with pytest.raises(FormatError, match="extract the store anew"):
        mend(store.core)


def test_records_that_were_swapped_or_do_not_parse_are_noticed(root):
    store = work.opened(root)
    third, fourth = store.core.log.path(3), store.core.log.path(4)
    data = third.read_bytes()
    third.write_bytes(fourth.read_bytes())
    fourth.write_bytes(data)
    assert {finding.kind for finding in store.verify()} >= {"record"}
    (store.path / "journal" / "index.sqlite").unlink()
    with pytest.raises(FormatError, match="says it is number 4"):
        FeatureStore.open(store.path)


def test_derived_files_that_are_harmed_are_named_and_written_anew(root):
    store = work.opened(root)
    (store.path / "zarr.json").write_text("{")
    store.array_path(A).joinpath("zarr.json").unlink()
    (store.path / "valid" / "c.0").write_bytes(b"")
    findings = store.verify()
    assert {finding.kind for finding in findings} == {"metadata"}
    assert len(findings) == 3
    mend(store.core)
    assert store.verify() == []
    assert is_right(store)


def test_stray_files_are_named(root):
    store = work.opened(root)
    shutil.copy(store.shard_path(A, 0), store.shard_path(A, 9))
    store.shard_path(A, 0).with_name("c.7.0.0.0.abc.partial").write_bytes(b"x")
    assert {(finding.kind, finding.shard) for finding in store.verify()} == {("orphan", 9), ("partial", 7)}
    assert store.verify()[0].as_json()["row_keys"] == []
    with pytest.raises(FormatError, match="found no records"):
        verify_path(root)


def test_a_shallow_verify_reads_no_maps(root):
    store = work.opened(root)
    flip(store.shard_path(A, 0), 5)
    store.shard_path(B, 2).unlink()
    assert [finding.layer for finding in store.verify(deep=False)] == [B]
    assert {finding.layer for finding in store.verify(deep=True)} == {A, B}


def harm_one_file(folder, random):
    """Flip a bit of, truncate, empty, delete or overwrite some file; return its path and what was done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    path = files[random.integers(len(files))]
    harm = ("flip", "truncate", "empty", "delete", "replace")[random.integers(5)]
    if harm == "flip":
        flip(path, int(random.integers(path.stat().st_size)), int(random.integers(8)))
    elif harm == "truncate":
        path.write_bytes(path.read_bytes()[: random.integers(path.stat().st_size)])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "delete":
        path.unlink()
    else:
        path.write_bytes(files[random.integers(len(files))].read_bytes())
    return path, harm


def no_wrong_columns(path):
    """Read all that can be read; tell whether anything was refused."""
    try:
        store = FeatureStore.open(path)
        rows = store.rows(KEYS, work.LAYERS)
    except StorageError:
        return False
    refused = False
    for layer in work.LAYERS:
        reader = store.reader([layer])
        for key, row in zip(KEYS, rows, strict=True):
            try:
                read = reader.read(layer, [row])[0]
            except StorageError:
                refused = True
                continue
            np.testing.assert_array_equal(read, work.map_of(key, layer).astype(np.float16))
    return not refused


def survives(finished, folder, seed):
    """Harm one file of a copy of a store: nothing wrong is read, verify names it, and repair brings all back."""
    shutil.copytree(finished, folder)
    path = next(folder.iterdir())
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    harmed, harm = harm_one_file(path, np.random.default_rng(seed))
    changed = not harmed.exists() or harmed.read_bytes() != before[harmed]
    derived = "index.sqlite" in harmed.name or harmed.name == "store.lock"
    findings = verify_path(path)
    whole = no_wrong_columns(path)
    assert not changed or derived or findings, (seed, harmed, harm)
    assert whole or findings or derived, (seed, harmed, harm)
    mend(StoreCore(StoreLayout(path), 60.0))
    store = work.opened(folder)
    for finding in store.damaged():
        store.retire(finding.layer, finding.shard, finding.what)
    work.extract(store, KEYS)
    assert is_right(store), (seed, harmed, harm)
    assert store.verify() == [], (seed, harmed, harm)


@pytest.mark.parametrize("seed", range(40))
def test_a_store_with_one_harmed_file_gives_no_wrong_columns_and_is_repaired(finished, tmp_path, seed):
    survives(finished, tmp_path / "harmed", seed)


@pytest.mark.slow
def test_a_thousand_harmed_stores_give_no_wrong_columns_and_are_repaired(finished, tmp_path):
    for seed in range(1000, 2000):
        survives(finished, tmp_path / "harmed", seed)
        shutil.rmtree(tmp_path / "harmed")


def test_every_single_byte_of_a_record_is_covered(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "harmed")
    path = next((tmp_path / "harmed").iterdir())
    record = path / "journal" / "records" / "0000000001.json"
    data = record.read_bytes()
    for position in range(len(data)):
        record.write_bytes(data[:position] + bytes([data[position] ^ 8]) + data[position + 1 :])
        with pytest.raises(FormatError):
            RecordLog(record.parent).read(1)


def test_a_row_that_no_longer_counts_is_missing_for_a_reader_that_had_it(root):
    store = work.opened(root)
    reader = store.reader([B])
    reader.read(B, [4, 5])
    work.opened(root).retire(B, 1, "a test")
    fresh = store.reader([B])
    with pytest.raises(RowsMissingError, match="row 4 of layer"):
        fresh.read(B, [4, 5])
    with pytest.raises(LayerMismatchError, match="this reader was made for"):
        reader.read(A, [0])


def test_a_file_that_shrinks_under_a_reader_is_damage_and_no_crash(root):
    store = work.opened(root)
    reader = store.reader([A])
    reader.read(A, [0])
    os.truncate(store.shard_path(A, 0), 10)
    for rows in ([1], [0, 1]):
        with pytest.raises(DamagedError, match="expected"):
            reader.read(A, rows)


def test_more_files_than_may_be_open_are_read_in_turn(root, monkeypatch):
    monkeypatch.setattr("storage.reading._OPEN_FILES", 1)
    store = work.opened(root)
    reader = store.reader(work.LAYERS)
    for _ in range(2):
        for layer in work.LAYERS:
            expected = np.stack([work.map_of(key, layer) for key in KEYS]).astype(np.float16)
            np.testing.assert_array_equal(reader.read(layer, store.rows(KEYS, [layer])), expected)


def test_a_record_with_a_right_digest_and_wrong_fields_is_refused(root):
    store = work.opened(root)
    wrong = {"kind": "commit", "shard": "x", "slots": [], "row_keys": [], "layers": {}}
    with pytest.raises(FormatError, match=r"shard: expected a number from 0, got 'x'"), store.core.locked():
        store.core.append(wrong)
    assert store.verify() == []
    store.core.log.append(wrong, store.core.state.number, store.core.state.link)
    with pytest.raises(FormatError, match="expected a record this program wrote"):
        store.refresh()
    with pytest.raises(FormatError, match="record 6"):
        work.opened(root)


def test_a_record_number_that_another_took_first_is_followed_not_fought(root, monkeypatch):
    ours, theirs = work.opened(root), work.opened(root)
    append = ours.core.log.append

    def late(body, number, link):
        if number == 5:
            theirs.core.append({"kind": "retire", "layer": A, "shard": 0, "reason": "they were first"})
        return append(body, number, link)

    monkeypatch.setattr(ours.core.log, "append", late)
    ours.retire(B, 1, "we were second")
    assert ours.record_count == 7
    assert sorted(work.extract(work.opened(root), KEYS)) == sorted(
        [(A, key) for key in KEYS[:4]] + [(B, key) for key in KEYS[4:8]]
    )
    assert is_right(ours)
    assert ours.verify() == []


def test_what_a_power_loss_took_of_the_derived_arrays_is_written_anew_at_the_next_opening(root):
    store = work.opened(root)
    work.extract(store, work.keys_of(10, 14))
    store.core.index.close()
    # Written without a flush by the last commit; the index, which SQLite flushes by itself, knows of nothing to be done.
    (store.path / "valid" / "c.0").write_bytes(b"")
    keys = store.path / "row_keys" / "c.0.0"
    keys.write_bytes(bytes(keys.stat().st_size))
    again = work.opened(root)
    assert again.verify() == []
    assert zarr.open_group(again.path, mode="r")["valid"][:].sum() == 14


def test_a_record_is_flushed_into_its_folder_before_another_process_counts_it(root, monkeypatch):
    ours, theirs = work.opened(root), work.opened(root)
    seen = []
    monkeypatch.setattr("storage.files.flush_folder", lambda folder: seen.append(Path(folder).name))
    ours.retire(B, 1, "a test")
    assert seen == [], "its own record is flushed by publishing it"
    theirs.core.index.close()
    (theirs.path / "journal" / "index.sqlite").unlink()
    theirs.core.log._flushed = 0
    theirs.refresh()
    assert seen == ["records"]


def test_unfinished_bookkeeping_of_the_dead_is_removed_and_that_of_the_living_is_not(root):
    store = work.opened(root)
    dead = [
        store.path / "zarr.json.abc.partial",
        store.path / "journal" / "records" / "0000000009.json.abc.partial",
        store.path / "valid" / "c.0.abc.partial",
        store.array_path(A) / "zarr.json.abc.partial",
        store.array_path(A) / "c.7.0.0.0.abc.partial",
    ]
    for path in dead:
        path.write_bytes(b"half")
    with store.claim(work.keys_of(20, 24), [A]) as writer:
        living = [path for path in store.path.rglob("*.partial") if path not in dead]
        work.opened(root)
        assert list(store.path.rglob("*.partial")) == living
        assert len(living) == 1
        writer.write(0, work.maps_of(writer.row_keys, [A]))
    assert store.verify() == []


@pytest.mark.parametrize(
    "harm",
    [
        "DELETE FROM files WHERE shard = 0",
        "DELETE FROM rows WHERE shard = 2",
        "DELETE FROM rows WHERE shard > 0",
        "INSERT INTO holes VALUES (1)",
        "INSERT INTO holes VALUES (0)",
    ],
)
def test_a_committed_shard_is_never_given_away_on_the_word_of_an_index_that_lost_lines(root, harm):
    store = work.opened(root)
    store.core.index._run(lambda connection: connection.execute(harm).close())
    before = {path: path.read_bytes() for path in store.path.rglob("c.*.0.0.0")}
    other = work.opened(root)
    work.extract(other, [*KEYS[:2], *work.keys_of(20, 23)], [B])
    work.extract(other, KEYS)
    work.extract(other, work.keys_of(20, 23))
    assert {path: path.read_bytes() for path in before} == before, "what was committed must stay as it was"
    fresh = work.opened(root)
    assert is_right(fresh, [*KEYS, *work.keys_of(20, 23)])
    assert fresh.core.log.numbers()[-1] <= 8
