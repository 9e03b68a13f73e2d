"""The feature store as its callers and stock Zarr see it."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import dask.array
import numpy as np
import pytest
import zarr

from storage.canonical import digest
from storage.errors import (
    DiskSpaceError,
    FormatError,
    KeyMismatchError,
    LayerMismatchError,
    NonFiniteError,
    RowsMissingError,
)
from storage.features import DTYPES, Busy, FeatureStore
from storage.inspection import list_stores
from storage.shards import ShardFile, index_bytes

work = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("extracting.py"))))
A, B, C = work.LAYERS


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    """Nothing here is about power loss; waiting for the disk would take most of the time."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("os.fdatasync", lambda descriptor: None)


def stock(store, layer):
    """Read a layer's array as anybody with Zarr would."""
    group = zarr.open_group(store.path, mode="r")
    return group[group.attrs["layers"][layer]]


def decoded(store, layer):
    array = stock(store, layer)
    if store.dtype == "bfloat16":
        return (array[:].astype(np.uint32) << 16).view(np.float32)
    if store.dtype == "uint8":
        scale_offset = zarr.open_group(store.path, mode="r")[array.attrs["scale_offset"]][:]
        return scale_offset[:, 0:1] * array[:] + scale_offset[:, 1:2]
    return array[:]


def truth(keys, layer):
    return np.stack([work.map_of(key, layer) for key in keys])


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_stock_zarr_and_dask_read_what_our_reader_reads(tmp_path, dtype, compression):
    store = work.opened(tmp_path, dtype=dtype, compression=compression)
    keys = work.keys_of(0, 10)
    work.extract(store, keys)
    rows = store.rows(keys, work.LAYERS)
    reader = store.reader(work.LAYERS)
    group = zarr.open_group(store.path, mode="r")
    assert group["valid"][:].tolist() == [True] * 10
    assert [bytes(line).rstrip(b"\0").decode() for line in group["row_keys"][:]] == [
        keys[list(rows).index(row)] for row in range(10)
    ]
    for layer in work.LAYERS:
        array = stock(store, layer)
        assert array.shape == (10, *work.SHAPES[layer])
        assert array.shards == (4, *work.SHAPES[layer])
        assert array.chunks == (1, *work.SHAPES[layer])
        np.testing.assert_array_equal(dask.array.from_zarr(str(store.path), component=array.basename).compute(), array[:])
        np.testing.assert_array_equal(reader.read(layer, rows), decoded(store, layer)[rows])
        for row in rows:
            np.testing.assert_array_equal(reader.read(layer, [row]), decoded(store, layer)[row][None])
    list(group.members(max_depth=None))
    assert store.verify() == []


def test_float32_keeps_every_bit_and_the_others_round_to_nearest(tmp_path):
    keys = work.keys_of(0, 5)
    for dtype, tolerance in (("float32", 0.0), ("float16", 2.0**-11), ("bfloat16", 2.0**-8)):
        store = work.opened(tmp_path, dtype=dtype)
        work.extract(store, keys)
        read = store.reader([A]).read(A, store.rows(keys, [A])).astype(np.float64)
        expected = truth(keys, A).astype(np.float64)
        assert np.all(np.abs(read - expected) <= tolerance * np.abs(expected)), dtype


def test_uint8_is_never_off_by_more_than_half_a_step_of_its_channel(tmp_path):
    store, keys = work.opened(tmp_path, dtype="uint8"), work.keys_of(0, 6)
    work.extract(store, keys)
    read, expected = store.reader([A]).read(A, store.rows(keys, [A])), truth(keys, A)
    step = (expected.max((1, 2), keepdims=True) - expected.min((1, 2), keepdims=True)) / 255
    assert np.all(np.abs(read - expected) <= step * 0.5001)
    assert np.abs(read - expected).max() > 0.4 * step.min(), "it must have been quantised"


def test_cells_are_the_columns_of_the_map(tmp_path):
    for dtype in DTYPES:
        for compression in ("none", "zstd"):
            store, keys = work.opened(tmp_path / compression, dtype=dtype, compression=compression), work.keys_of(0, 5)
            work.extract(store, keys)
            reader = store.reader([A])
            cells = np.array([19, 0, 7, 7])
            whole = reader.read(A, [3, 4])[0].reshape(-1, 6)
            np.testing.assert_array_equal(reader.read_cells(A, 3, cells), whole[cells])
    with pytest.raises(IndexError, match="cells from 0 to 19"):
        reader.read_cells(A, 3, [20])


def test_cells_that_are_not_verified_are_asked_for_together_when_their_row_is_touched_first(tmp_path, monkeypatch):
    store, keys, asked = work.opened(tmp_path), work.keys_of(0, 5), []
    work.extract(store, keys)
    original = ShardFile.expect
    monkeypatch.setattr(ShardFile, "expect", lambda *arguments: asked.append(arguments[1]) or original(*arguments))
    whole, reader = store.reader([A]).read(A, [3])[0].reshape(-1, 6), store.reader([A], verify_reads="never")
    for cells in ([19, 0, 7, 7], [1]):
        np.testing.assert_array_equal(reader.read_cells(A, 3, cells), whole[cells])
    np.testing.assert_array_equal(store.reader([A]).read_cells(A, 3, [19]), whole[[19]])
    assert asked == [3 % store.shard_images], "once, and not where the whole row is read to be verified"
    assert reader.read_cells(A, 3, []).shape == (0, 6)


def test_a_single_row_can_be_changed_by_its_reader_without_touching_the_file(tmp_path):
    store, keys = work.opened(tmp_path), work.keys_of(0, 4)
    work.extract(store, keys)
    view = store.reader([A]).read(A, [2])
    view[:] = 7
    assert not np.any(store.reader([A]).read(A, [2, 3]) == 7)
    assert store.verify() == []


def test_bfloat16_bits_pass_through_unchanged(tmp_path):
    store = work.opened(tmp_path, [A], dtype="bfloat16", shard_images=2)
    bits = (truth(work.keys_of(0, 2), A).view(np.uint32) >> 16).astype(np.uint16)
    with store.claim(work.keys_of(0, 2), [A]) as writer:
        writer.write(0, {A: bits})
    np.testing.assert_array_equal(stock(store, A)[:], bits)


def test_new_images_append_and_nothing_is_computed_twice(tmp_path):
    store = work.opened(tmp_path)
    assert len(work.extract(store, work.keys_of(0, 6))) == 18
    again = work.opened(tmp_path)
    assert again.claim(work.keys_of(0, 6), work.LAYERS) is None
    assert again.hits(work.keys_of(0, 9), [A, B]) == {A: 6, B: 6}
    assert again.missing(work.keys_of(0, 9), [A]) == work.keys_of(6, 9)
    assert sorted({key for _, key in work.extract(again, work.keys_of(0, 9))}) == sorted(work.keys_of(6, 9))
    assert again.rows(work.keys_of(0, 9), [A]).tolist() == [0, 1, 2, 3, 4, 5, 8, 9, 10]
    assert zarr.open_group(store.path, mode="r")["valid"][:].tolist() == [True] * 6 + [False] * 2 + [True] * 3


def test_gaps_are_nan_for_stock_readers_and_refused_by_ours(tmp_path):
    store = work.opened(tmp_path, [A], dtype="float16")
    work.extract(store, work.keys_of(0, 2), [A])
    work.extract(store, work.keys_of(0, 5), [A])
    array = stock(store, A)[:]
    assert np.isnan(array[2:4]).all()
    assert not np.isnan(array[[0, 1, 4, 5, 6]]).any()
    with pytest.raises(RowsMissingError, match="row 2 of layer"):
        store.reader([A]).read(A, [0, 2])


def test_adding_a_layer_extracts_only_that_layer_into_the_same_rows(tmp_path):
    store, keys = work.opened(tmp_path, [A]), work.keys_of(0, 10)
    work.extract(store, keys, [A])
    before = store.rows(keys, [A])
    store.declare_layers({B: work.SHAPES[B]})
    done = work.extract(store, keys, [A, B])
    assert sorted(done) == sorted((B, key) for key in keys)
    np.testing.assert_array_equal(store.rows(keys, [A, B]), before)
    np.testing.assert_allclose(store.reader([B]).read(B, before), truth(keys, B), rtol=1e-3)


def test_a_layer_added_for_some_images_gives_the_others_fresh_rows_later(tmp_path):
    store, keys = work.opened(tmp_path), work.keys_of(0, 6)
    work.extract(store, keys, [A])
    work.extract(store, keys[:2], [B])
    done = work.extract(store, keys, [A, B])
    assert sorted(done) == sorted([(A, keys[2]), (A, keys[3]), (B, keys[2]), (B, keys[3]), (B, keys[4]), (B, keys[5])])
    rows = store.rows(keys, [A, B])
    assert rows.tolist() == [0, 1, 8, 9, 4, 5]
    for layer in (A, B):
        np.testing.assert_allclose(store.reader([layer]).read(layer, rows), truth(keys, layer), rtol=1e-3)
    assert store.verify() == []


def test_repeated_row_keys_have_one_row(tmp_path):
    store, keys = work.opened(tmp_path, [A]), work.keys_of(0, 2)
    assert len(work.extract(store, keys + keys, [A])) == 2
    assert store.rows([keys[1], keys[0], keys[1]], [A]).tolist() == [1, 0, 1]


def test_rows_that_are_missing_are_counted_with_the_remedy(tmp_path):
    store = work.opened(tmp_path)
    work.extract(store, work.keys_of(0, 3), [A])
    with pytest.raises(RowsMissingError, match=r"2 of 5 images .* extract"):
        store.rows(work.keys_of(0, 5), [A])


def test_the_key_is_the_digest_of_fields_dtype_and_format(tmp_path):
    store = work.opened(tmp_path)
    assert store.key == store.path.name == digest({**work.FIELDS, "dtype": "float16", "format": 1})
    assert work.opened(tmp_path, dtype="uint8").key != store.key
    assert list_stores(tmp_path) == sorted([store.path, work.opened(tmp_path, dtype="uint8").path])
    assert list_stores(tmp_path / "nowhere") == []


def test_a_store_under_another_name_is_refused(tmp_path):
    store = work.opened(tmp_path)
    store.path.rename(tmp_path / "0123456789abcdef0123")
    with pytest.raises(KeyMismatchError, match="renamed or replaced"):
        FeatureStore.open(tmp_path / "0123456789abcdef0123")


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(FormatError, match="found no records"):
        FeatureStore.open(tmp_path)
    (tmp_path / "journal" / "records").mkdir(parents=True)
    with pytest.raises(FormatError, match="no record that creates one"):
        FeatureStore.open(tmp_path)


def test_a_store_of_another_format_version_is_refused_with_what_to_do(tmp_path):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("storage.records.FORMAT_VERSION", 2)
        path = FeatureStore.create_or_open(tmp_path, work.FIELDS).path
    (path / "journal" / "index.sqlite").unlink()
    with pytest.raises(FormatError, match="format version 2, this program reads 1; extract the store anew"):
        FeatureStore.open(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float64"}, "dtype: expected"),
        ({"compression": "gzip"}, "compression: expected"),
        ({"shard_images": 0}, "shard_images"),
    ],
)
def test_choices_that_no_store_can_be_are_refused(tmp_path, options, message):
    with pytest.raises(FormatError, match=message):
        FeatureStore.create_or_open(tmp_path, work.FIELDS, **options)
    assert list(tmp_path.iterdir()) == []


def test_layers_are_declared_once_and_keep_their_order(tmp_path):
    store = FeatureStore.create_or_open(tmp_path, work.FIELDS)
    with pytest.raises(LayerMismatchError, match="declare_layers first"):
        _ = store.shard_images
    store.declare_layers({"z": (2, 2, 3), "a": (1, 1, 5)})
    records = store.record_count
    store.declare_layers({"a": (1, 1, 5)})
    assert store.record_count == records
    assert list(FeatureStore.open(store.path).layers.items()) == [("z", (2, 2, 3)), ("a", (1, 1, 5))]
    with pytest.raises(LayerMismatchError, match=r"expected \(1, 1, 5\)"):
        store.declare_layers({"a": (1, 1, 6)})
    with pytest.raises(LayerMismatchError, match="positive numbers"):
        store.declare_layers({"b": (0, 1, 6)})
    with pytest.raises(LayerMismatchError, match="layer nope: the store has"):
        store.claim(["key"], ["nope"])


def test_shards_are_sized_for_files_of_twelve_megabytes(tmp_path):
    sizes = {}
    for width in (1, 500, 4000):
        store = FeatureStore.create_or_open(tmp_path / str(width), work.FIELDS)
        store.declare_layers({"small": (10, width, 100), "large": (100, width, 100)})
        sizes[width] = store.shard_images
    assert sizes == {1: 64, 500: 12, 4000: 2}


@pytest.mark.parametrize(
    "name",
    ["a/b", "..", ".", "zarr.json", "valid", "journal", "émoji 🦊", "x" * 300, "x.scale_offset", "__z", "A-0123456789ab"],
)
def test_odd_layer_names_have_safe_folders_and_keep_their_names(tmp_path, name):
    store = FeatureStore.create_or_open(tmp_path, work.FIELDS, dtype="uint8", shard_images=2)
    store.declare_layers({name: (1, 2, 3), "plain": (1, 2, 3)})
    for key in ("one", "two"):
        with store.claim([key], [name, "plain"]) as writer:
            writer.write(0, {name: np.ones((1, 1, 2, 3), np.float32), "plain": np.zeros((1, 1, 2, 3), np.float32)})
    folder = store.array_path(name)
    assert folder.parent == store.path
    assert len(folder.name) < 100
    assert stock(store, name).attrs["layer"] == name
    assert (store.reader([name]).read(name, store.rows(["one", "two"], [name])) == 1).all()
    list(zarr.open_group(store.path, mode="r").members(max_depth=None))


@pytest.mark.parametrize("key", ["", "x" * 200, "a\0b"])
def test_row_keys_that_cannot_be_kept_are_refused(tmp_path, key):
    with pytest.raises(FormatError, match="row key: expected"):
        work.opened(tmp_path).claim([key], [A])


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("float16", 70000.0), ("float16", np.nan), ("bfloat16", 3.4e38), ("uint8", np.inf), ("float32", np.nan)],
)
def test_values_that_are_not_finite_stop_with_layer_image_and_remedy(tmp_path, dtype, value):
    store, keys = work.opened(tmp_path, dtype=dtype), work.keys_of(0, 3)
    maps = work.maps_of(keys, work.LAYERS)
    maps[B][1, 0, 2, 3] = value
    with pytest.raises(NonFiniteError, match=f"row {keys[1]}.*float32") as caught, store.claim(keys, work.LAYERS) as writer:
        writer.write(0, maps)
    assert B in str(caught.value)
    assert store.missing(keys, [A]) == keys
    assert not list(store.path.rglob("*.partial"))
    assert store.verify() == []


def test_the_largest_finite_values_are_kept(tmp_path):
    store = work.opened(tmp_path, [A], dtype="float16", shard_images=1)
    with store.claim(["k"], [A]) as writer:
        writer.write(0, {A: np.full((1, *work.SHAPES[A]), -65519.0, np.float32)})
    assert (store.reader([A]).read(A, [0]) == -65504).all()


def test_writes_of_the_wrong_shape_order_or_number_are_refused(tmp_path):
    store, keys = work.opened(tmp_path), work.keys_of(0, 4)
    maps = work.maps_of(keys, [A, B])
    with store.claim(keys, [A, B]) as writer:
        with pytest.raises(ValueError, match="at most 4 rows from 0 on"):
            writer.write(1, maps)
        with pytest.raises(LayerMismatchError, match="expected maps of the layers"):
            writer.write(0, {A: maps[A]})
        with pytest.raises(LayerMismatchError, match="expected maps of shape"):
            writer.write(0, {A: maps[A], B: maps[A]})
        with pytest.raises(ValueError, match="the same of every layer"):
            writer.write(0, {A: maps[A], B: maps[B][:2]})
        writer.write(0, maps)
    with pytest.raises(ValueError, match="expected 1 rows before the commit, got 0"), store.claim(["other"], [A]):
        pass
    assert store.missing(["other"], [A]) == ["other"]


def test_a_writer_that_is_left_with_an_exception_leaves_nothing(tmp_path):
    store, keys = work.opened(tmp_path), work.keys_of(0, 4)

    def interrupted():
        with store.claim(keys, work.LAYERS) as writer:
            writer.write(0, work.maps_of(keys[:2], work.LAYERS))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(store.path.rglob("*.partial"))
    assert not list((store.path / "journal" / "leases").iterdir())
    assert len(work.extract(store, keys)) == 12


def test_what_another_writer_has_is_busy_until_it_is_committed(tmp_path):
    store, other, keys = work.opened(tmp_path), work.opened(tmp_path), work.keys_of(0, 4)
    with store.claim(keys, [A]) as writer:
        busy = other.claim(keys, [A])
        assert isinstance(busy, Busy)
        assert 100 < busy.seconds_left <= 120
        assert busy.row_keys == 4
        writer.write(0, work.maps_of(keys, [A]))
    assert other.claim(keys, [A]) is None


def test_the_metadata_say_what_the_store_is(tmp_path):
    store = work.opened(tmp_path, recorded={"device": "cpu"})
    work.extract(store, work.keys_of(0, 5))
    attributes = dict(zarr.open_group(store.path, mode="r").attrs)
    assert attributes["key_fields"] == work.FIELDS
    assert attributes["recorded"] == {"device": "cpu"}
    info = json.loads(json.dumps(store.info()))
    assert info["layers"][A]["rows"] == 5
    assert info["rows"] == 5
    assert info["shards"] == 2
    assert info["records"] == store.record_count == 4
    usage = store.du()
    assert usage["total"] == sum(usage["layers"].values()) + usage["overhead"]
    assert info["layers"][A]["bytes"] == sum(path.stat().st_size for path in store.array_path(A).glob("c.*"))
    assert info["bytes"] == sum(path.stat().st_size for layer in work.LAYERS for path in store.array_path(layer).glob("c.*"))
    assert usage["layers"][A] == sum(path.stat().st_size for path in store.array_path(A).iterdir())
    assert (store.key_fields, store.compression) == (work.FIELDS, "none")
    assert store.bytes_of(A, 1) == 4 * 5 * 6 * 2 + 4 + index_bytes(store.shard_images)


def test_a_full_disk_is_explained_and_the_next_run_goes_on(tmp_path, monkeypatch):
    store, keys = work.opened(tmp_path), work.keys_of(0, 8)
    work.fill(store.claim(keys, work.LAYERS))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fdatasync", full)
        with pytest.raises(DiskSpaceError, match="resumes"):
            work.extract(store, keys)
    assert store.verify() == []
    assert sorted({key for _, key in work.extract(store, keys)}) == sorted(keys[4:])


def test_a_shard_that_the_disk_cannot_hold_is_refused_beforehand(tmp_path):
    store = FeatureStore.create_or_open(tmp_path, work.FIELDS)
    store.declare_layers({"huge": (100_000, 100_000, 1)})
    monkey = SimpleNamespace(f_bavail=10, f_frsize=1000)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.statvfs", lambda path: monkey)
        patched.setattr("storage.writing.np.empty", lambda shape, dtype: np.broadcast_to(np.zeros((), dtype), shape))
        with pytest.raises(DiskSpaceError, match=r"needs 20000\.0 MB, the disk has 0\.0 MB"):
            store.claim(["key"], ["huge"]).__enter__()
    assert not list((store.path / "journal" / "leases").iterdir())


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_reading_past_the_page_cache_gives_the_same_maps_and_cells(tmp_path, dtype, compression):
    store = work.opened(tmp_path, dtype=dtype, compression=compression)
    keys = work.keys_of(0, 10)
    work.extract(store, keys)
    rows = store.rows(keys, work.LAYERS)
    cached, past = (store.reader(work.LAYERS, keep_cached=keep) for keep in (True, False))
    for layer in work.LAYERS:
        np.testing.assert_array_equal(past.read(layer, rows), cached.read(layer, rows))
        np.testing.assert_array_equal(past.read(layer, rows[:1]), cached.read(layer, rows[:1]))
    for _ in range(2):  # the second time the row is verified, and only the cells are read
        np.testing.assert_array_equal(past.read_cells(A, rows[3], [0, 7, 19]), cached.read_cells(A, rows[3], [0, 7, 19]))


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16", "uint8"])
def test_the_bytes_a_row_is_said_to_take_are_those_on_the_disk(tmp_path, dtype):
    store = work.opened(tmp_path, dtype=dtype, shard_images=64)
    work.extract(store, work.keys_of(0, 64))
    for layer in work.LAYERS:
        folders = [store.array_path(layer), store.array_path(layer).with_name(store.array_path(layer).name + ".scale_offset")]
        files = [path for folder in folders for path in folder.glob("c.*")]
        assert sum(path.stat().st_size for path in files) == store.bytes_of(layer, 64)


def test_a_reader_that_passes_the_cache_by_keeps_no_file_mapped(tmp_path):
    store = work.opened(tmp_path)
    work.extract(store, work.keys_of(0, 8))
    reader = store.reader(work.LAYERS, keep_cached=False)
    for layer in work.LAYERS:
        reader.read(layer, range(8))
    mapped = Path("/proc/self/maps").read_text()
    assert not [line for line in mapped.splitlines() if str(store.path) in line and ".sqlite" not in line]


def test_a_lease_that_does_not_fit_on_the_disk_is_a_full_disk_and_leaves_nothing(tmp_path, monkeypatch):
    store = work.opened(tmp_path)
    replace = Path.replace

    def full(path, target):
        if "leases" in str(target):
            raise OSError(28, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DiskSpaceError, match=r"MB were to be written.*free.*it resumes"):
        store.claim(work.keys_of(0, 4), work.LAYERS)
    assert list((store.path / "journal" / "leases").iterdir()) == []
