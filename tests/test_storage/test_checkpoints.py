import errno
import logging
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from storage.canonical import canonical_bytes, digest
from storage.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from storage.errors import AlreadyPublishedError, DamagedError, DiskSpaceError, FormatError, StorageError
from storage.tensors import tensors_sha256

STATE = {"rng": [2**63, 1], "best": 0.1 + 0.2, "history": [{"loss": 1e-300}], "note": "é"}


def tensors(seed):
    rng = np.random.default_rng(seed)
    return {"w": rng.standard_normal((3, 4)).astype(np.float32), "m": rng.standard_normal(5), "step": np.array(seed)}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_is(checkpoint, epoch):
    assert checkpoint.epoch == epoch
    for name, expected in tensors(epoch).items():
        np.testing.assert_array_equal(checkpoint.tensors[name], expected, strict=True)


def test_the_latest_is_loaded_bit_for_bit(tmp_path):
    for epoch in (1, 2):
        save_checkpoint(tmp_path, epoch, tensors(epoch), {**STATE, "pair": (1, epoch)})
    latest = latest_checkpoint(tmp_path)
    assert_is(latest, 2)
    assert latest.state == {**STATE, "pair": [1, 2]}
    assert latest.tensors["w"].flags.writeable


def test_a_run_without_checkpoints_has_none(tmp_path):
    assert latest_checkpoint(tmp_path / "none") is None
    (tmp_path / "epoch-1.txt").write_text("mine")
    assert latest_checkpoint(tmp_path) is None


def test_the_last_two_are_kept_and_other_files_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for epoch in range(12):
        save_checkpoint(tmp_path, epoch, tensors(epoch), {})
    assert names(tmp_path) == ["epoch-000010.safetensors", "epoch-000011.safetensors", "notes.txt"]


def test_a_stranger_reads_it_with_safetensors_alone(tmp_path):
    np.testing.assert_array_equal(load_file(save_checkpoint(tmp_path, 1, tensors(1), STATE))["w"], tensors(1)["w"])


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_torn_newest_one_is_skipped_with_a_warning(tmp_path, caplog, keep):
    save_checkpoint(tmp_path, 1, tensors(1), STATE)
    newest = save_checkpoint(tmp_path, 2, tensors(2), STATE)
    newest.write_bytes(newest.read_bytes()[:keep])
    with caplog.at_level(logging.WARNING):
        assert_is(latest_checkpoint(tmp_path), 1)
    assert "epoch-000002" in caplog.text
    assert "skipped" in caplog.text


def test_any_flipped_bit_of_the_newest_one_is_noticed(tmp_path):
    save_checkpoint(tmp_path, 1, tensors(1), STATE)
    newest = save_checkpoint(tmp_path, 2, tensors(2), STATE)
    data = newest.read_bytes()
    noticed = 0
    places = range(0, len(data), 2)
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        newest.write_bytes(damaged)
        try:
            loaded = load_checkpoint(newest)
        except DamagedError:
            noticed += 1
        else:  # padding, or the spelling of the header, and nothing else
            assert_is(loaded, 2)
            assert loaded.state == STATE
    assert noticed > 0.95 * len(places)


def test_a_damaged_one_is_replaced_when_its_epoch_is_done_again(tmp_path, caplog):
    for epoch in (1, 2):
        save_checkpoint(tmp_path, epoch, tensors(epoch), STATE)
    (tmp_path / "epoch-000002.safetensors").write_bytes(b"torn")
    with caplog.at_level(logging.WARNING):
        save_checkpoint(tmp_path, 2, tensors(2), STATE)
    assert "replaced" in caplog.text
    assert_is(latest_checkpoint(tmp_path), 2)


def test_when_all_are_damaged_training_begins_anew_and_its_checkpoints_are_kept(tmp_path):
    for epoch in (5, 6):
        save_checkpoint(tmp_path, epoch, tensors(epoch), STATE).write_bytes(b"torn")
    assert latest_checkpoint(tmp_path) is None
    for epoch in (0, 1):
        save_checkpoint(tmp_path, epoch, tensors(epoch), STATE)
        assert_is(latest_checkpoint(tmp_path), epoch)


def test_the_same_checkpoint_may_be_saved_twice_and_another_may_not(tmp_path):
    first = save_checkpoint(tmp_path, 1, tensors(1), STATE)
    assert save_checkpoint(tmp_path, 1, tensors(1), STATE) == first
    with pytest.raises(AlreadyPublishedError, match="two processes"):
        save_checkpoint(tmp_path, 1, tensors(2), STATE)
    assert_is(load_checkpoint(first), 1)


def test_a_checkpoint_under_another_epochs_name_is_damage(tmp_path):
    path = save_checkpoint(tmp_path, 1, tensors(1), STATE)
    with pytest.raises(DamagedError, match="digest"):
        load_checkpoint(path.rename(tmp_path / "epoch-000009.safetensors"))


def test_safetensors_of_something_else_are_no_checkpoint(tmp_path):
    (tmp_path / "epoch-000001.safetensors").write_bytes(save({"a": np.zeros(1)}))
    with pytest.raises(DamagedError, match="something else"):
        load_checkpoint(tmp_path / "epoch-000001.safetensors")


def test_a_checkpoint_of_another_version_stops_instead_of_being_overwritten(tmp_path):
    save_checkpoint(tmp_path, 1, tensors(1), STATE)
    document = {"format": "hypercolumns checkpoint", "format_version": 2, "epoch": 2, "state": {}}
    document["digest"] = digest([document, tensors_sha256(tensors(2))], 64)
    newer = save(tensors(2), {"checkpoint": canonical_bytes(document).decode()})
    (tmp_path / "epoch-000002.safetensors").write_bytes(newer)
    with pytest.raises(FormatError, match="expected checkpoint format 1, got 2"):
        latest_checkpoint(tmp_path)
    with pytest.raises(FormatError):
        save_checkpoint(tmp_path, 2, tensors(2), {})


@pytest.mark.parametrize("epoch", [-1, 1_000_000])
def test_an_epoch_out_of_range_is_refused(tmp_path, epoch):
    with pytest.raises(StorageError, match="from 0 to 999999"):
        save_checkpoint(tmp_path, epoch, {}, {})


@pytest.mark.parametrize(
    ("arrays", "state"),
    [({"w": np.zeros(1, np.uint16)}, {}), ({}, {"loss": float("inf")}), ({}, {"seen": {1, 2}})],
)
def test_what_is_not_kept_is_refused_before_anything_is_written(tmp_path, arrays, state):
    with pytest.raises(FormatError):
        save_checkpoint(tmp_path, 1, arrays, state)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_one_before(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, tensors(1), STATE)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(DiskSpaceError):
        save_checkpoint(tmp_path, 2, tensors(2), STATE)
    assert names(tmp_path) == ["epoch-000001.safetensors"]
    assert_is(latest_checkpoint(tmp_path), 1)


def test_a_saver_killed_at_any_line_leaves_the_new_checkpoint_or_the_one_before(killed_everywhere):
    killed, ended = killed_everywhere("checkpoint", stride=4)
    epochs = set()
    for folder in [*killed, ended]:
        latest = latest_checkpoint(folder)
        epochs.add(latest.epoch)
        assert latest.state == {"epoch": latest.epoch}
        np.testing.assert_array_equal(latest.tensors["weight"], np.arange(6.0).reshape(2, 3))
        save_checkpoint(folder, 3, latest.tensors, {"epoch": 3})
        assert latest_checkpoint(folder).epoch == 3
        left = [name for name in names(folder) if not name.endswith(".partial")]
        assert left == ["epoch-000002.safetensors", "epoch-000003.safetensors"]
    assert epochs == {2, 3}
