import collections
import hashlib
import multiprocessing
import os
import pickle
import random
import threading

import h5py
import numpy as np
import pytest

from storage.canonical import digest
from storage.errors import AlreadyPublishedError, DamagedError, FormatError, NonFiniteError, StorageError
from storage.samples import SampleSet, SampleSetWriter
from storage.unfinished import was_published

SPEC = {"per_class": 3, "seed": 7}
KEYS = ["1f:identity", "2e:hflip", "3d:é"]
DIMS = 5


def batch(count, seed=0, dims=DIMS):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((count, dims)).astype(np.float32),
        rng.integers(0, 4, count),
        rng.integers(0, len(KEYS), count),
        rng.uniform(0, 99, (count, 2)),
    )


def write(path, *batches, dims=DIMS, dtype="float16", keys=KEYS):
    with SampleSetWriter(path, SPEC, keys, dims, dtype) as writer:
        for one in batches:
            writer.append(*one)
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "set.h5", batch(100), batch(1, 1), batch(0, 2))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_was_appended_is_read(tmp_path, dtype):
    first, second = batch(100), batch(31, 1)
    with SampleSet.open(write(tmp_path / "set.h5", first, second, dtype=dtype)) as samples:
        assert len(samples) == len(samples.features) == 131
        assert samples.features.shape == (131, DIMS)
        assert samples.features.dtype == dtype
        for name, position in (("labels", 1), ("image_row", 2), ("points_xy", 3)):
            expected = np.concatenate([first[position], second[position]])
            np.testing.assert_array_equal(getattr(samples, name), expected.astype(getattr(samples, name).dtype))
        np.testing.assert_array_equal(samples.features.read(), np.concatenate([first[0], second[0]]).astype(dtype))
        assert samples.points_xy.dtype == np.float32
        assert samples.labels.dtype == np.int64
        assert samples.image_keys == KEYS
        assert samples.spec == SPEC
        assert samples.digest == digest(SPEC)
        assert samples.class_counts() == dict(sorted(collections.Counter([*first[1], *second[1]]).items()))
        samples.verify()


def test_a_stranger_reads_it_with_h5py_alone(path):
    with h5py.File(path) as file:
        assert sorted(file) == ["features", "image_keys", "image_row", "labels", "points_xy"]
        assert file["features"].shape == (101, DIMS)
        assert file["image_keys"][2].decode() == KEYS[2]
        assert file.attrs["spec"] == b'{"per_class":3,"seed":7}'
        assert file.attrs["sha256_labels"].decode() == hashlib.sha256(file["labels"][:].tobytes()).hexdigest()


def test_an_empty_set_is_a_set(tmp_path):
    samples = SampleSet.open(write(tmp_path / "set.h5", keys=[]))
    samples.verify()
    assert (len(samples), samples.image_keys, samples.class_counts()) == (0, [], {})
    assert samples.features.read().shape == samples.features.read(np.array([], np.int64)).shape == (0, DIMS)


def test_rows_come_in_the_order_asked_for_over_many_chunks(tmp_path):
    dims = 40_000  # a chunk of 256 KiB holds three rows
    rows = batch(60, dims=dims)
    features = SampleSet.open(write(tmp_path / "set.h5", rows, dims=dims)).features
    expected = rows[0].astype(np.float16)
    rng = np.random.default_rng(0)
    for chosen in (rng.integers(0, 60, 200), rng.permutation(60), np.array([59]), np.array([0, 59, 0], np.uint8)):
        np.testing.assert_array_equal(features.read(chosen), expected[chosen])
    for chosen in (slice(3, 50), slice(None, None, 7), slice(-5, None), slice(9, 9), slice(0, 60), slice(40, 2, -3)):
        np.testing.assert_array_equal(features.read(chosen), expected[chosen])


@pytest.mark.parametrize("indices", [[101], [-1], [[0]], [0.5], [True]])
def test_indices_that_are_none_are_refused(path, indices):
    with pytest.raises(IndexError, match="expected"):
        SampleSet.open(path).features.read(np.array(indices))


def test_the_files_bytes_depend_on_the_samples_and_not_on_how_they_are_batched(tmp_path):
    dims = 8000
    rows = batch(700, dims=dims)
    write(tmp_path / "at_once", rows, dims=dims)
    pieces = [tuple(column[start : start + 33] for column in rows) for start in range(0, 700, 33)]
    write(tmp_path / "in_pieces", *pieces, dims=dims)
    assert (tmp_path / "at_once").read_bytes() == (tmp_path / "in_pieces").read_bytes()


def test_a_block_that_raises_publishes_nothing(tmp_path):
    with pytest.raises(KeyError), SampleSetWriter(tmp_path / "set.h5", SPEC, KEYS, DIMS) as writer:  # noqa: PT012
        writer.append(*batch(3))
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over_a_set_that_exists(path):
    before = path.read_bytes()
    with pytest.raises(AlreadyPublishedError, match="is kept"):
        write(path, batch(1))
    assert path.read_bytes() == before


def test_of_two_writers_the_first_to_finish_wins(tmp_path):
    path = tmp_path / "set.h5"
    with pytest.raises(AlreadyPublishedError), SampleSetWriter(path, SPEC, KEYS, DIMS) as slow:  # noqa: PT012
        write(path, batch(2))
        slow.append(*batch(9))
    assert len(SampleSet.open(path)) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["set.h5"]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5])
def test_a_value_that_is_not_finite_after_the_cast_is_refused(tmp_path, value):
    rows = batch(3)
    rows[0][1, 2] = value
    with pytest.raises(NonFiniteError, match="float16"):
        write(tmp_path / "set.h5", rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("position", "value", "named"),
    [
        (0, np.zeros((3, 4)), "features of shape"),
        (1, np.zeros(2, int), "labels of shape"),
        (3, np.zeros((3, 3)), "points_xy of shape"),
        (1, np.zeros(3), "labels to be integers"),
        (1, np.array([0, -1, 0]), r"labels .*\[-1, 0\]"),
        (2, np.array([0, 3, 0]), r"image_row to be integers in \[0, 2\]"),
    ],
)
def test_columns_that_do_not_fit_are_refused_by_name(tmp_path, position, value, named):
    rows = list(batch(3))
    rows[position] = value
    with pytest.raises(StorageError, match=named):
        write(tmp_path / "set.h5", rows)


def test_arguments_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(StorageError, match="dims"):
        SampleSetWriter(tmp_path / "set.h5", SPEC, KEYS, 0)
    with pytest.raises(StorageError, match="int8"):
        SampleSetWriter(tmp_path / "set.h5", SPEC, KEYS, 1, "int8")
    for key in ("a\0", "\ud800"):
        with pytest.raises(StorageError, match="printable"):
            SampleSetWriter(tmp_path / "set.h5", SPEC, [key], 1)
    with pytest.raises(StorageError, match="with"):
        SampleSetWriter(tmp_path / "set.h5", SPEC, KEYS, 1).__exit__(None, None, None)


def test_it_is_pickled_as_its_path_alone(tmp_path):
    samples = SampleSet.open(write(tmp_path / "set.h5", batch(5000)))
    expected = samples.features.read(), samples.labels
    data = pickle.dumps(samples)
    assert len(data) < 500
    copy = pickle.loads(data)
    np.testing.assert_array_equal(copy.features.read(), expected[0])
    np.testing.assert_array_equal(copy.labels, expected[1])


def test_a_closed_set_opens_again_when_it_is_touched(path):
    samples = SampleSet.open(path)
    samples.close()
    samples.close()
    assert samples.features.read(slice(0, 1)).shape == (1, DIMS)


def test_a_forked_child_opens_the_file_anew_and_reads_the_same(path):
    samples = SampleSet.open(path)
    expected = samples.features.read()
    handle = samples._handle
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        same = np.array_equal(samples.features.read(slice(1, 50)), expected[1:50]) and samples._handle != handle
        os.write(writing, b"same" if same else b"other")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 10) == b"same"
    os.close(reading)
    os.close(writing)
    np.testing.assert_array_equal(samples.features.read(slice(1, 50)), expected[1:50])


def test_a_spawned_process_reads_what_it_was_sent(path):
    samples = SampleSet.open(path)
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        assert pool.apply(pickle.loads, (pickle.dumps(samples),)).spec == SPEC


def test_threads_read_one_set_at_once(tmp_path):
    rows = batch(60, dims=40_000)
    samples = SampleSet(write(tmp_path / "set.h5", rows, dims=40_000))
    wrong = []

    def read(seed):
        chosen = np.random.default_rng(seed).integers(0, 60, 20)
        if not np.array_equal(samples.features.read(chosen), rows[0].astype(np.float16)[chosen]):
            wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_no_file_is_an_error_that_says_to_sample(tmp_path):
    with pytest.raises(StorageError, match="sample first"):
        SampleSet.open(tmp_path / "none.h5")


@pytest.mark.parametrize("data", [b"", b"not HDF5 at all", pickle.dumps([1]), b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_what_is_no_hdf5_is_refused(tmp_path, data):
    (tmp_path / "set.h5").write_bytes(data)
    with pytest.raises(FormatError, match="expected a whole sample set"):
        SampleSet.open(tmp_path / "set.h5")


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(path, fraction):
    os.truncate(path, int(path.stat().st_size * fraction))
    with pytest.raises(FormatError, match="expected a whole sample set"):
        SampleSet.open(path)


def _change_attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


def _replace(name, **options):
    def change(file):
        del file[name]
        file.create_dataset(name, **options)

    return change


def _link(file):
    del file["labels"]
    file["labels"] = h5py.ExternalLink("/etc/passwd", "labels")


FOREIGN = {
    "another format": (_change_attribute("format", np.bytes_(b"other")), "something else"),
    "a text that is no bytes": (_change_attribute("format", 3), "something else"),
    "another version": (_change_attribute("format_version", np.int64(2)), "expected sample set format 1, got .*2"),
    "no version": (lambda file: file.attrs.__delitem__("format_version"), "got None"),
    "a spec that is no JSON": (_change_attribute("spec", np.bytes_(b"{")), "not JSON"),
    "a spec too deep": (_change_attribute("spec", np.bytes_(b"[" * 40_000)), "not JSON"),
    "another spec": (_change_attribute("spec", np.bytes_(b"{}")), "digest was made of"),
    "no checksum": (lambda file: file.attrs.__delitem__("sha256_labels"), "no checksum of 'labels'"),
    "no labels": (lambda file: file.__delitem__("labels"), "expected a dataset 'labels'"),
    "labels elsewhere": (_link, "expected a dataset 'labels' inside the file"),
    "a group": (lambda file: (file.__delitem__("labels"), file.create_group("labels")), "expected a dataset 'labels'"),
    "labels of another type": (_replace("labels", data=np.zeros(101), chunks=(101,), fletcher32=True), "labels is not"),
    "too few labels": (_replace("labels", data=np.zeros(9, int), chunks=(9,), fletcher32=True), "labels is not"),
    "flat features": (_replace("features", data=np.zeros(101, "f2"), chunks=(9,), fletcher32=True), "features is not"),
    "keys that are numbers": (_replace("image_keys", data=np.zeros(3), chunks=(3,), fletcher32=True), "image_keys is not"),
    "no chunk checksums": (_replace("labels", data=np.zeros(101, int), chunks=(9,)), "labels is not stored as"),
    "a claim of a terabyte": (_replace("labels", shape=(1 << 37,), dtype="i8", chunks=(9,), fletcher32=True), "not stored as"),
    "a bomb": (_replace("labels", data=np.zeros(101, int), chunks=(9,), compression="gzip"), "not stored as"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_an_hdf5_file_that_is_no_sample_set_of_ours_is_refused(path, case):
    change, message = FOREIGN[case]
    with h5py.File(path, "r+", libver="v110") as file:
        change(file)
    with pytest.raises(FormatError, match=message):
        SampleSet.open(path)


def test_keys_that_are_no_text_are_refused(path):
    with h5py.File(path, "r+") as file:
        wrong = np.array([b"\xff"] * len(file["image_keys"]), file["image_keys"].dtype)
        file["image_keys"][:] = wrong
        file.attrs["sha256_image_keys"] = np.bytes_(hashlib.sha256(wrong.data).hexdigest())
    with pytest.raises(FormatError):
        _ = SampleSet.open(path).image_keys


@pytest.mark.parametrize("name", ["features", "labels", "image_row", "points_xy", "image_keys"])
def test_values_that_were_changed_with_their_chunk_checksum_are_damage(path, name):
    with h5py.File(path, "r+") as file:
        file[name][0] = b"z" if name == "image_keys" else 3 if file[name][0].ndim else file[name][0] + 1
    samples = SampleSet.open(path)
    with pytest.raises(DamagedError, match=f"{name} is damaged"):
        samples.verify()
    with pytest.raises(DamagedError, match=f"{name} is damaged"):
        _ = samples.features.read() if name == "features" else getattr(samples, name)


def test_a_flipped_bit_in_a_chunk_fails_the_read_of_it_and_of_no_other(tmp_path):
    rows = batch(60, dims=40_000)
    path = write(tmp_path / "set.h5", rows, dims=40_000)
    with h5py.File(path) as file:
        offset = file["features"].id.get_chunk_info(2).byte_offset
    data = bytearray(path.read_bytes())
    data[offset + 1000] ^= 4
    path.write_bytes(data)
    features = SampleSet.open(path).features
    np.testing.assert_array_equal(features.read(slice(0, 6)), rows[0][:6].astype(np.float16))
    with pytest.raises(DamagedError, match="features is damaged"):
        features.read(np.array([7]))
    with pytest.raises(DamagedError, match="features is damaged"):
        SampleSet.open(path).verify()


def test_no_flipped_bit_anywhere_gives_other_samples_silently(tmp_path):
    path = write(tmp_path / "set.h5", batch(2000, dims=100), dims=100)
    data = path.read_bytes()
    whole = SampleSet.open(path)
    expected = [whole.features.read(), whole.labels, whole.image_row, whole.points_xy]
    whole.close()
    random_ = random.Random(0)
    # Metadata lies in the first 4 KiB and between chunks: half of the flips go to the beginning.
    places = [random_.randrange(4096) for _ in range(80)] + [random_.randrange(len(data)) for _ in range(80)]
    detected = 0
    for number, place in enumerate(places):
        damaged = bytearray(data)
        damaged[place] ^= 1 << random_.randrange(8)
        copy = tmp_path / f"{number}.h5"
        copy.write_bytes(damaged)
        samples = SampleSet(copy)
        try:
            samples.verify()
            read = [samples.features.read(), samples.labels, samples.image_row, samples.points_xy]
        except (DamagedError, FormatError):
            detected += 1
        else:
            assert (samples.spec, samples.image_keys) == (SPEC, KEYS)
            for array, array_expected in zip(read, expected, strict=True):
                np.testing.assert_array_equal(array, array_expected)
        samples.close()
        copy.unlink()
    assert detected > 50


def test_a_writer_killed_at_many_lines_leaves_the_whole_set_or_none_and_a_rerun_makes_the_same_file(killed_everywhere):
    killed, ended = killed_everywhere("samples", stride=43)
    whole = (ended / "set.h5").read_bytes()
    for folder in killed:
        file = folder / "set.h5"
        if not file.exists():
            with SampleSetWriter(file, {"seed": 1}, ["a", "b"], dims=3000) as writer:
                for row in range(2):
                    writer.append(np.full((700, 3000), row), np.full(700, row), np.full(700, row), np.zeros((700, 2)))
        assert file.read_bytes() == whole
    SampleSet.open(ended / "set.h5").verify()


@pytest.mark.parametrize("kib", [100, 600, 3000])
def test_a_full_disk_is_an_error_that_says_so_and_never_a_crash(on_a_tiny_disk, kib):
    run = on_a_tiny_disk(
        """
import numpy as np
from storage.errors import DiskSpaceError
from storage.samples import SampleSet, SampleSetWriter
def attempt(path, rows):
    with SampleSetWriter(path, {}, ["a"], dims=1000) as writer:
        for _ in range(rows // 100):
            writer.append(np.zeros((100, 1000)), np.zeros(100, int), np.zeros(100, int), np.zeros((100, 2)))
try:
    attempt(disk / "set.h5", 10_000)
except DiskSpaceError as error:
    print(error, [path.name for path in disk.iterdir()])
if __import__("os").statvfs(disk).f_blocks * 4 > 2000:
    attempt(disk / "set.h5", 200)
    SampleSet.open(disk / "set.h5").verify()
print("alive")
""",
        kib,
    )
    assert run.returncode == 0, run.stderr
    assert "the disk is full" in run.stdout
    assert "[]" in run.stdout
    assert run.stdout.endswith("alive\n")


def test_what_a_dead_writer_left_is_removed_by_the_next_one_and_a_living_one_is_left_alone(tmp_path):
    file = tmp_path / "set.h5"
    (tmp_path / "set.h5.0123456789ab.partial").write_bytes(b"half a sample set")
    (tmp_path / "other.h5.0123456789ab.partial").write_bytes(b"not ours")
    first = SampleSetWriter(file, SPEC, KEYS, DIMS).__enter__()
    assert len(list(tmp_path.glob("set.h5.*.partial"))) == 1
    write(file, batch(10))
    assert len(list(tmp_path.glob("set.h5.*.partial"))) == 1, "the first one still writes"
    first.append(*batch(10))
    with pytest.raises(AlreadyPublishedError):
        first.__exit__(None, None, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.h5.0123456789ab.partial", "set.h5"]


def test_a_set_whose_writer_was_killed_right_after_naming_it_is_made_safe_before_it_is_counted_on(path, monkeypatch):
    os.link(path, path.with_name("set.h5.0123456789ab.partial"))
    flushed = []
    monkeypatch.setattr("storage.unfinished.flush_folder", flushed.append)
    assert was_published(path)
    assert flushed == [path.parent]
    assert list(path.parent.iterdir()) == [path]
    assert not was_published(path.with_name("none.h5"))
