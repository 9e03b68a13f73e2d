import hashlib
import json
import os
import pickle

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from storage.canonical import digest
from storage.errors import AlreadyPublishedError, DiskSpaceError, FormatError, StorageError
from storage.models import load_model, model_exists, read_description, save_model
from storage.tensors import TENSOR_TYPES, decode_tensors, header_metadata

TENSORS = {
    "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "bias": np.array(2.5),
    "mean": np.linspace(0, 1, 5, dtype=np.float16),
    "steps": np.array([1, 2], dtype=np.int64),
    "mask": np.array([True, False]),
}
DESCRIPTION = {"classes": ["sky", "é"], "keys": {"store": "1f"}, "metrics": {"mean_iu": 0.6}}


@pytest.fixture
def folder(tmp_path):
    return save_model(tmp_path / "models", "k1", TENSORS, DESCRIPTION)


def rewrite(folder, **changes):
    """Change model.json, digest and all, as a forger would."""
    document = json.loads((folder / "model.json").read_bytes())
    document.pop("digest")
    document.update(changes)
    (folder / "model.json").write_text(json.dumps({**document, "digest": digest(document, 64)}))


def test_a_model_is_loaded_as_it_was_saved(folder):
    tensors, description = load_model(folder)
    assert description == DESCRIPTION == read_description(folder)
    assert list(tensors) == sorted(TENSORS)
    for name, expected in TENSORS.items():
        np.testing.assert_array_equal(tensors[name], expected)
        assert (tensors[name].dtype, tensors[name].shape) == (expected.dtype, expected.shape)
        assert tensors[name].flags.writeable


def test_a_stranger_reads_the_weights_with_safetensors_alone(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    np.testing.assert_array_equal(load_file(folder / "model.safetensors")["weight"], TENSORS["weight"])


@pytest.mark.parametrize("dtype", sorted(TENSOR_TYPES))
def test_views_and_foreign_byte_orders_are_kept_by_value(tmp_path, dtype):
    whole = np.arange(24).reshape(4, 6).astype(dtype)
    views = {"transposed": whole.T, "strided": whole[::2, 1::2], "swapped": whole.astype(whole.dtype.newbyteorder(">"))}
    tensors, _ = load_model(save_model(tmp_path, "k", views, {}))
    for name, view in views.items():
        np.testing.assert_array_equal(tensors[name], view)


def test_the_same_model_has_the_same_bytes(tmp_path):
    one = save_model(tmp_path / "1", "k", TENSORS, DESCRIPTION)
    two = save_model(tmp_path / "2", "k", dict(reversed(TENSORS.items())), dict(reversed(DESCRIPTION.items())))
    for name in ("model.json", "model.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_a_model_exists_when_it_is_published(tmp_path, folder):
    assert model_exists(folder.parent, "k1")
    assert not model_exists(folder.parent, "k2")
    assert not model_exists(tmp_path / "none", "k1")


def test_a_model_is_never_replaced(folder):
    with pytest.raises(AlreadyPublishedError):
        save_model(folder.parent, "k1", {"weight": np.zeros(1)}, {})
    assert load_model(folder)[1] == DESCRIPTION
    assert [path.name for path in folder.parent.iterdir()] == ["k1"]


@pytest.mark.parametrize("key", ["../x", "", "a/b", ".x"])
def test_a_key_that_is_no_name_is_refused(tmp_path, key):
    with pytest.raises(StorageError, match="a model key"):
        save_model(tmp_path, key, {}, {})
    with pytest.raises(StorageError, match="a model key"):
        model_exists(tmp_path, key)


@pytest.mark.parametrize("tensor", [np.array([1j]), np.array([None]), np.array(["a"]), np.zeros(1, np.uint16), [1.0]], ids=str)
def test_a_tensor_that_is_not_kept_is_refused_before_anything_is_written(tmp_path, tensor):
    with pytest.raises(FormatError, match="weight: expected an array of bool, float16"):
        save_model(tmp_path, "k", {"weight": tensor}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_reserved_tensor_name_is_refused(tmp_path):
    with pytest.raises(FormatError, match="rename it"):
        save_model(tmp_path, "k", {"__metadata__": np.zeros(1)}, {})


def test_a_description_that_is_no_json_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(FormatError):
        save_model(tmp_path, "k", TENSORS, {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_folder(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskSpaceError, match="disk is full"):
        save_model(tmp_path, "k", TENSORS, DESCRIPTION)
    assert list(tmp_path.iterdir()) == []


def test_no_model_is_an_error_that_says_to_train(tmp_path):
    with pytest.raises(StorageError, match="train first"):
        load_model(tmp_path / "none")


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_any_flipped_bit_is_refused(folder, name):
    data = (folder / name).read_bytes()
    for place in range(0, len(data) - 1, 7):  # the last byte of model.json is a newline: white space may be any
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        (folder / name).write_bytes(damaged)
        with pytest.raises(FormatError):
            load_model(folder)


def test_a_model_without_its_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FormatError, match=r"expected model\.safetensors"):
        load_model(folder)


def test_a_model_under_another_key_is_refused(folder):
    with pytest.raises(FormatError, match="'k2'"):
        load_model(folder.rename(folder.parent / "k2"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "'other'"),
        ({"format_version": 2}, "version 1, got .* version 2"),
        ({"description": None}, "with its description"),
        ({"tensors": {}}, "are not those"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(folder, changes, message):
    rewrite(folder, **changes)
    with pytest.raises(FormatError, match=message):
        load_model(folder)


class Bomb:
    """A pickle that would leave a file behind when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_posing_as_weights_is_refused_and_not_executed(folder, tmp_path, protocol):
    data = pickle.dumps(Bomb(tmp_path / "executed"), protocol)
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(FormatError, match="sha256"):
        load_model(folder)
    rewrite(folder, weights_sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(FormatError, match="expected safetensors"):
        load_model(folder)
    assert not (tmp_path / "executed").exists()


def test_weights_of_a_type_that_is_not_kept_are_refused():
    with pytest.raises(FormatError, match="got uint16"):
        decode_tensors(save({"a": np.zeros(1, np.uint16)}), "file")
    brain = save({"a": np.zeros(1, np.float16)}).replace(b'"F16"', b'"BF16"').replace(b"  ", b" ", 1)
    with pytest.raises(FormatError, match="file: expected"):
        decode_tensors(brain, "file")


def test_metadata_that_is_no_json_is_refused():
    assert header_metadata(save({}), "file") == {}
    with pytest.raises(FormatError, match="header"):
        header_metadata(bytes(8) + b"{", "file")


def test_a_saver_killed_at_any_line_leaves_the_whole_model_or_none(killed_everywhere):
    killed, ended = killed_everywhere("model", stride=2)
    states = set()
    for folder in [*killed, ended]:
        states.add(model_exists(folder, "key"))
        if not model_exists(folder, "key"):
            save_model(folder, "key", {"weight": np.arange(6.0).reshape(2, 3)}, {"classes": ["a"]})
        tensors, description = load_model(folder / "key")
        np.testing.assert_array_equal(tensors["weight"], np.arange(6.0).reshape(2, 3))
        assert description == {"classes": ["a"]}
    assert states == {True, False}


def test_what_a_dead_writer_left_of_a_model_is_removed_by_the_next_one(tmp_path):
    (tmp_path / "k.0123456789ab.partial").mkdir()
    (tmp_path / "k.0123456789ab.partial" / "model.safetensors").write_bytes(b"half")
    save_model(tmp_path, "k", TENSORS, DESCRIPTION)
    assert [path.name for path in tmp_path.iterdir()] == ["k"]
