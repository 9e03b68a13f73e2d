"""Bad input ends with exit code 2 and one line that says what to do; what goes wrong on the way ends with 1."""

import re
import shutil
from collections import namedtuple

import pytest

from storage.features import FeatureStore
from tests.pipeline_factory import LAYERS, tiny_values, write_config

Usage = namedtuple("Usage", "total used free")


def refused(ran, message, code=2):
    """Check that a command ended as it should: explained, without a traceback, and with nothing on stdout."""
    assert ran.code == code, (ran.out, ran.err)
    assert ran.err.splitlines()[-1].startswith("error: ") or "error: " in ran.err
    assert re.search(message, ran.err, re.DOTALL), ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", r"bad\.yaml: expected YAML, got text that does not parse"),
        ("- just\n- a list\n", r"bad\.yaml: expected a mapping of sections .* got list"),
        ("head: {hiden: 3}", r"head\.hiden: Extra inputs are not permitted, got 3"),
        ("head: {hidden: -3}", r"head\.hidden: .*greater than or equal to 0, got -3"),
        ("evaluate: {protocol: mine}", r"evaluate\.protocol: .*'strict' or 'notebook', got 'mine'"),
        ("store: {canvas: {size_hw: [64]}}", r"store\.canvas\.size_hw"),
        ("head: {output_stride: 3}", r"head\.output_stride: expected a divisor"),
        ("dataset: {kind: voc}", r"expected `root`"),
        ("dataset: {kind: voc, root: $NO_SUCH_VARIABLE/data}", r"dataset\.root: .*NO_SUCH_VARIABLE.* not set"),
        ("dataset: {kind: voc, root: /nowhere/at/all}", r"/nowhere/at/all: expected the data set's folder, found none"),
        ("name: 'no spaces, please'", r"name: "),
    ],
)
@pytest.mark.parametrize("command", [("plan",), ("store", "repair")])
def test_a_bad_experiment_file_is_refused_by_the_field_s_path(hypercolumns, tmp_path, command, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    refused(hypercolumns(*command, path, "--workspace", tmp_path / "w", "--json"), message)


@pytest.mark.parametrize("command", ["run", "extract", "sample", "pretrain", "train", "evaluate", "report", "plan"])
def test_a_missing_experiment_file_is_refused_before_anything_starts(hypercolumns, tmp_path, command):
    refused(hypercolumns(command, tmp_path / "nowhere.yaml"), r"nowhere\.yaml: expected an experiment file, got No such file")


@pytest.mark.parametrize("command", ["run", "train"])
def test_an_experiment_file_that_is_wrong_is_refused_before_prefect_starts(hypercolumns, config, command):
    ran = hypercolumns(command, config, "head.hidden=many")
    refused(ran, r"head\.hidden: .*got 'many'")
    assert "Prefect" not in ran.err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone.layers=[features.12.act]", r"features\.12\.cat"),
        ("backbone.name=squeezenet1_9", r"squeezenet1_"),
        ("backbone.weights=/nowhere/weights.pth", r"/nowhere/weights\.pth"),
        ("dataset.val_split=test", r"no split 'test'.*train, val"),
        ("dataset.limit_train=0", r"dataset\.limit_train"),
        ("head.hidden=[1", r"head\.hidden: expected a YAML value"),
        ("head", r"expected an override of the form key\.path=value, got 'head'"),
        ("=3", r"expected an override of the form"),
        ("name.first=3", r"name is a value, not a section"),
    ],
)
def test_a_bad_override_is_refused(hypercolumns, config, tmp_path, override, message):
    refused(hypercolumns("plan", config, override, "--workspace", tmp_path / "w"), message)


def test_a_bad_image_is_refused_with_its_name(hypercolumns, config, data, tmp_path):
    (data / "images" / "train" / "001.png").write_bytes(b"")
    refused(hypercolumns("plan", config, "--workspace", tmp_path / "w"), r"001\.png")


def test_a_disk_that_is_too_small_ends_a_plan_with_exit_code_1(hypercolumns, config, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 1000))
    ran = hypercolumns("plan", config, "--workspace", tmp_path / "w", "--json")
    assert ran.code == 1
    assert ran.last["fits"] is False


def test_a_workspace_that_is_a_file_is_a_failure_that_names_it(hypercolumns, config, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    refused(hypercolumns("plan", config, "--workspace", tmp_path / "file"), "it is a file.*--workspace DIR", code=1)


def test_a_run_that_does_not_exist_is_refused_with_its_name(hypercolumns, tmp_path):
    for arguments in (("runs", "show", "nonsense"), ("predict", "nonsense", tmp_path, "--out", tmp_path / "out")):
        refused(hypercolumns(*arguments, "--workspace", tmp_path / "w"), "nonsense")


def test_a_store_key_that_fits_no_store_is_refused_with_those_that_are_there(hypercolumns, finished):
    ran = hypercolumns("store", "info", "ffff", "--workspace", finished.workspace)
    refused(ran, f"got 'ffff', which fits 0; there are: {finished.outcome.extracted.key}")


def test_an_unknown_option_is_refused_with_exit_code_2(hypercolumns):
    assert hypercolumns("plan", "--no-such-option").code == 2
    assert hypercolumns("no-such-command").code == 2


def test_a_damaged_store_makes_verify_fail_and_repair_puts_it_right(hypercolumns, tmp_path, data):
    config = write_config(tmp_path / "tiny.yaml", tiny_values(data, store__shard_images=3))
    options = ("--workspace", tmp_path / "w", "--json")
    # Repairing an empty store extracts everything: nothing of it is there.
    assert hypercolumns("store", "repair", config, *options).last["extracted"]["images_computed"] == 9
    whole = hypercolumns("store", "verify", *options)
    key = next(iter(whole.last))
    assert (whole.code, whole.last) == (0, {key: []})
    shard = FeatureStore.open(tmp_path / "w" / "stores" / key).shard_path(LAYERS[0], 2)
    shard.write_bytes(shard.read_bytes()[:-100])
    harmed = hypercolumns("store", "verify", *options)
    assert harmed.code == 1
    assert [(finding["layer"], finding["shard"]) for finding in harmed.last[key]] == [(LAYERS[0], 2)]
    repaired = hypercolumns("store", "repair", config, *options)
    assert repaired.code == 0
    assert repaired.last["extracted"]["images_computed"] == 3
    assert hypercolumns("store", "verify", *options).code == 0
