"""Sample sets, models, checkpoints and run records that were forged or harmed: our errors, or what was written."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.canonical import canonical_bytes, digest
from storage.checkpoints import load_checkpoint, save_checkpoint
from storage.errors import FormatError, StorageError
from storage.models import load_model, save_model
from storage.runs import append, create_run, list_runs, read_run
from storage.samples import SampleSet, SampleSetWriter
from tests.hostile.forging import mutations

_SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck)}
QUICK = settings(max_examples=200, derandomize=True, **_SETTINGS)
LONG = settings(max_examples=10_000, **_SETTINGS)
KEYS = ["a:identity", "b:identity"]


@pytest.fixture
def samples(tmp_path):
    path = tmp_path / "set.h5"
    with SampleSetWriter(path, {"seed": 1}, KEYS, 3, "float32") as writer:
        writer.append(np.ones((4, 3), np.float32), np.arange(4), np.array([0, 1, 0, 1]), np.zeros((4, 2)))
    return path


def rewritten(path, name, values):
    """Put other values into a column, with the checksums that belong to them."""
    with h5py.File(path, "r+", libver="v110") as file:
        file[name][:] = values
        file.attrs[f"sha256_{name}"] = np.bytes_(hashlib.sha256(np.ascontiguousarray(file[name][:]).data).hexdigest())


@pytest.mark.parametrize("rows", [[0, 1, 2, 0], [0, -1, 0, 0], [2**31 - 1] * 4])
def test_image_rows_that_name_no_image_are_refused(samples, rows):
    rewritten(samples, "image_row", rows)
    with pytest.raises(FormatError, match=r"expected image rows from 0 to 1, got .* Remedy"):
        _ = SampleSet.open(samples).image_row


def _linked(file, name, link):
    del file[name]
    file[name] = link


def _virtual(file, path):
    source = path.with_name("secret.h5")
    with h5py.File(source, "w") as other:
        other["labels"] = np.arange(4)
    layout = h5py.VirtualLayout(shape=(4,), dtype="i8")
    layout[:] = h5py.VirtualSource(source, "labels", shape=(4,))
    del file["labels"]
    file.create_virtual_dataset("labels", layout)


def _external(file, path):
    path.with_name("secret").write_bytes(bytes(32))
    del file["labels"]
    file.create_dataset("labels", (4,), "i8", external=[(path.with_name("secret"), 0, 32)])


ELSEWHERE = {
    "a link out of the file": lambda file, path: _linked(file, "labels", h5py.ExternalLink("/etc/passwd", "labels")),
    "a link within the file": lambda file, path: _linked(file, "labels", h5py.SoftLink("/image_row")),
    "a link to itself": lambda file, path: _linked(file, "labels", h5py.SoftLink("/labels")),
    "a link to nothing": lambda file, path: _linked(file, "labels", h5py.SoftLink("/gone")),
    "a virtual dataset of another file": _virtual,
    "raw values in another file": _external,
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_values_that_lie_elsewhere_are_refused_and_not_followed(samples, name):
    with h5py.File(samples, "r+", libver="v110") as file:
        ELSEWHERE[name](file, samples)
    with pytest.raises(FormatError, match=r"labels.*Remedy|labels.*sample again"):
        SampleSet.open(samples)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.mkdir(), lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_no_sample_set(tmp_path, make):
    make(tmp_path / "set.h5")
    with pytest.raises(StorageError, match="expected a sample set"):
        SampleSet.open(tmp_path / "set.h5")


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def model(tmp_path):
    tensors = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "count": np.array(3)}
    return save_model(tmp_path / "models", "0" * 20, tensors, {"classes": ["a", "b"]})


def test_a_pickle_in_place_of_a_model_whose_digest_was_forged_too_is_not_executed(model, tmp_path):
    data = pickle.dumps({"weight": _Trap(str(tmp_path / "executed"))})
    (model / "model.safetensors").write_bytes(data)
    document = json.loads((model / "model.json").read_bytes())
    document.pop("digest")
    document["weights_sha256"] = hashlib.sha256(data).hexdigest()
    (model / "model.json").write_bytes(canonical_bytes({**document, "digest": digest(document, 64)}))
    with pytest.raises(FormatError, match=r"expected safetensors, .* Nothing in it was executed. Remedy"):
        load_model(model)
    assert not (tmp_path / "executed").exists()


def redigested(body, digits):
    try:
        return canonical_bytes({**body, "digest": digest(body, digits)})
    except StorageError:
        return json.dumps(body).encode("utf-8", "surrogatepass")


def check_model(model, tmp_path, data):
    folder = shutil.copytree(model, tmp_path / "forged" / model.name, dirs_exist_ok=True)
    document = json.loads((model / "model.json").read_bytes())
    document.pop("digest")
    body = data.draw(mutations([document]))
    (folder / "model.json").write_bytes(redigested(body, 64))
    try:
        tensors, description = load_model(folder)
    except StorageError:
        return
    assert description == body["description"]
    np.testing.assert_array_equal(tensors["weight"], np.arange(6).reshape(2, 3))


@QUICK
@given(data=st.data())
def test_a_forged_description_is_refused_or_describes_the_weights_that_are_there(model, tmp_path, data):
    check_model(model, tmp_path, data)


@QUICK
@given(place=st.integers(0, 400), new=st.binary(min_size=1, max_size=9))
def test_a_harmed_checkpoint_is_refused_or_whole(tmp_path, place, new):
    shutil.rmtree(tmp_path / "c", ignore_errors=True)
    path = save_checkpoint(tmp_path / "c", 3, {"w": np.arange(4.0)}, {"step": 9})
    data = path.read_bytes()
    path.write_bytes(data[:place] + new + data[place + len(new) :])
    try:
        found = load_checkpoint(path)
    except StorageError:
        return
    np.testing.assert_array_equal(found.tensors["w"], np.arange(4.0))
    assert found.state == {"step": 9}


@pytest.fixture
def run(tmp_path):
    folder = create_run(tmp_path / "runs", "20261120-104629-a-4f2a", {"spec": {"name": "a"}, "keys": {"store": "k"}})
    append(folder, "stage", {"name": "extract", "seconds": 1.5})
    append(folder, "artefact", {"name": "report", "path": "runs/a/report.html"})
    append(folder, "metrics", {"mean_iu": 0.5})
    append(folder, "finished", {})
    return folder


def check_run(run, data):
    """Forge one line, with its own digest right, and chain all that follow to it."""
    path = run / "record.jsonl"
    whole = path.read_bytes()
    lines = [json.loads(line) for line in whole.splitlines()]
    place = data.draw(st.integers(0, len(lines) - 1))
    lines[place].pop("digest")
    lines[place] = data.draw(mutations([lines[place]]))
    previous, spelled = "", []
    for number, line in enumerate(lines):
        line.pop("digest", None)
        if number > place:
            line["previous"] = previous
        spelled.append(redigested(line, 32))
        previous = json.loads(spelled[-1]).get("digest", "")
    path.write_bytes(b"\n".join(spelled) + b"\n")
    try:
        views = [read_run(run)]
    except StorageError:
        views = []
    listed = list_runs(run.parent)
    path.write_bytes(whole)
    assert [view.status == "broken" for view in listed] == [not views]
    for view in views:
        assert isinstance(view.spec, dict)
        assert view.started_at.tzinfo is not None
        assert view.updated_at >= view.started_at or view.updated_at < view.started_at
        assert all(".." not in place and not place.startswith("/") for place in view.artefacts.values())


@QUICK
@given(data=st.data())
def test_a_forged_run_record_is_refused_or_can_be_shown(run, data):
    check_run(run, data)


@pytest.mark.slow
@LONG
@given(data=st.data())
def test_many_forged_run_records_are_refused_or_can_be_shown(run, data):
    check_run(run, data)


@pytest.mark.slow
@LONG
@given(data=st.data())
def test_many_forged_descriptions_are_refused_or_describe_the_weights_that_are_there(model, tmp_path, data):
    check_model(model, tmp_path, data)


@pytest.mark.parametrize("name", ["previous", "digest", "sequence", "time", "kind", "data", "process"])
def test_a_run_record_whose_line_lacks_a_field_is_refused(run, name):
    path = run / "record.jsonl"
    first, *rest = path.read_bytes().splitlines(keepends=True)
    line = json.loads(first)
    line.pop("digest")
    line.pop(name, None)
    data = canonical_bytes(line) if name == "digest" else redigested(line, 32)
    path.write_bytes(data + b"\n" + b"".join(rest))
    with pytest.raises(FormatError, match=r"record\.jsonl: line 1"):
        read_run(run)
