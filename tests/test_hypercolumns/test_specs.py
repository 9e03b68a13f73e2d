"""What a spec refuses, and that it names the field."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from hypercolumns.errors import HypercolumnsError, SpecError
from hypercolumns.specs import (
    BackboneSpec,
    CanvasSpec,
    DatasetSpec,
    EvalSpec,
    ExperimentSpec,
    HeadSpec,
    SampleSpec,
    StoreSpec,
    TrainSpec,
    parse_spec,
)


def refusal(value, kind=ExperimentSpec) -> str:
    with pytest.raises(SpecError) as caught:
        parse_spec(kind, value)
    assert isinstance(caught.value, HypercolumnsError)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"trian": {}}, "trian"),
        ({"head": {"hiden": 3}}, "head.hiden"),
        ({"store": {"canvas": {"size": 3}}}, "store.canvas.size"),
        ({"head": {"hidden": -1}}, "head.hidden"),
        ({"head": {"hidden": 8193}}, "head.hidden"),
        ({"head": {"dropout": 1.0}}, "head.dropout"),
        ({"head": {"context": "kernel5"}}, "head.context"),
        ({"head": {"output_stride": 0}}, "head.output_stride"),
        ({"train": {"learning_rate": 0}}, "train.learning_rate"),
        ({"train": {"learning_rate": float("nan")}}, "train.learning_rate"),
        ({"train": {"learning_rate": float("inf")}}, "train.learning_rate"),
        ({"train": {"epochs": 1.5}}, "train.epochs"),
        ({"train": {"holdout": 1.0}}, "train.holdout"),
        ({"pretrain": {"seed": -1}}, "pretrain.seed"),
        ({"pretrain": {"optimizer": "adam"}}, "pretrain.optimizer"),
        ({"sample": {"pixels_per_class": 0}}, "sample.pixels_per_class"),
        ({"store": {"canvas": {"size_hw": [128, 8]}}}, "store.canvas.size_hw.1"),
        ({"store": {"canvas": {"size_hw": [128]}}}, "store.canvas.size_hw.1"),
        ({"store": {"views": []}}, "store.views"),
        ({"store": {"views": ["hflip"]}}, "store.views"),
        ({"store": {"views": ["identity", "hflip", "hflip"]}}, "store.views"),
        ({"store": {"views": ["identity", "vflip"]}}, "store.views.1"),
        ({"backbone": {"layers": []}}, "backbone.layers"),
        ({"backbone": {"layers": ["a", "a"]}}, "backbone.layers"),
        ({"backbone": {"std_rgb": [1, 0, 1]}}, "backbone.std_rgb"),
        ({"backbone": {"weights_sha256": "ABC"}}, "backbone.weights_sha256"),
        ({"dataset": {"kind": "voc"}}, "dataset"),
        ({"dataset": {"kind": "folder", "root": ""}}, "dataset"),
        ({"dataset": {"group_pattern": "(unclosed"}}, "dataset.group_pattern"),
        ({"dataset": {"group_pattern": "no group"}}, "dataset.group_pattern"),
        ({"dataset": {"group_pattern": "(a{99999999999999999999})"}}, "dataset.group_pattern"),
        ({"dataset": {"group_pattern": "(" * 20000 + ")" * 20000}}, "dataset.group_pattern"),
        ({"dataset": {"shapes": {"size": 63}}}, "dataset.shapes.size"),
        ({"evaluate": {"confidence": 1.0}}, "evaluate.confidence"),
        ({"evaluate": {"baselines": ["majority", "chance"]}}, "evaluate.baselines.1"),
        ({"name": "../escape"}, "name"),
        ({"name": ""}, "name"),
        ({"head": None}, "head"),
        ({"head": [1]}, "head"),
    ],
)
def test_what_is_unknown_or_out_of_range_is_refused_by_the_field_s_path(value, path):
    message = refusal(value)
    assert message.startswith("ExperimentSpec: ")
    assert path in [problem.split(": ")[0] for problem in message.removeprefix("ExperimentSpec: ").split("; ")]


@pytest.mark.parametrize("value", [None, 3, "text", [], [{"head": {}}]])
def test_what_is_no_mapping_at_all_is_refused(value):
    assert "the whole spec" in refusal(value)


def test_every_problem_is_named_at_once_with_what_came():
    message = refusal({"hidden": -5, "dropuot": 0.1}, HeadSpec)
    assert "hidden: " in message
    assert "got -5" in message
    assert "dropuot: " in message
    assert "Value error" not in refusal({"group_pattern": "x"}, DatasetSpec)


def test_what_came_is_shown_however_large_or_deep_it_is():
    assert "got a number of very many digits" in refusal({"head": {"hidden": 10**5000}})
    deep: list = []
    for _ in range(500):
        deep = [deep, deep]
    assert len(refusal({"name": deep})) < 500
    assert "and 80 more" in refusal({f"key{number}": 1 for number in range(100)})


@pytest.mark.parametrize("value", [True, False])
def test_a_truth_value_is_no_number(value):
    for section, field in (("train", "epochs"), ("train", "learning_rate"), ("dataset", "void_label")):
        assert f"{section}.{field}: expected no truth value, got {value}" in refusal({section: {field: value}})
    assert parse_spec(HeadSpec, {"coordinates": value}).coordinates is value


@pytest.mark.parametrize(("section", "field"), [("head", "output_stride"), ("train", "loss_stride")])
@pytest.mark.parametrize(("size_hw", "stride"), [([128, 128], 3), ([360, 480], 7), ([360, 484], 8), ([16, 16], 32)])
def test_a_stride_that_does_not_divide_the_canvas_is_refused(section, field, size_hw, stride):
    message = refusal({"store": {"canvas": {"size_hw": size_hw}}, section: {field: stride}})
    assert f"{section}.{field}" in message
    assert f"got {stride}" in message


def test_camvid_s_canvas_takes_strides_1_to_8():
    for stride in (1, 2, 4, 8):
        value = {"store": {"canvas": {"size_hw": [360, 480]}}, "head": {"output_stride": stride}}
        assert parse_spec(ExperimentSpec, value).head.output_stride == stride


def test_a_section_that_names_one_field_keeps_the_stage_s_other_defaults():
    whole, partial = ExperimentSpec(), parse_spec(ExperimentSpec, {"pretrain": {"learning_rate": 0.1}})
    assert partial.pretrain.model_copy(update={"learning_rate": whole.pretrain.learning_rate}) == whole.pretrain
    assert (partial.pretrain.batch, partial.pretrain.patience) == (1024, 5)


@pytest.mark.parametrize(
    "kind", [BackboneSpec, CanvasSpec, DatasetSpec, EvalSpec, ExperimentSpec, HeadSpec, SampleSpec, StoreSpec, TrainSpec]
)
def test_defaults_are_valid_travel_as_json_and_cannot_be_changed(kind):
    spec = kind()
    assert parse_spec(kind, json.loads(json.dumps(spec.model_dump(mode="json"), allow_nan=False))) == spec
    assert hash(parse_spec(kind, {})) == hash(spec)
    field = next(iter(kind.model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(spec, field, getattr(spec, field))


def test_every_field_of_every_section_says_what_it_is():
    for section in ExperimentSpec.model_fields.values():
        kind = section.annotation
        for name, field in getattr(kind, "model_fields", {}).items():
            assert field.description, f"{kind.__name__}.{name}"


def test_a_group_pattern_with_one_group_is_taken():
    assert parse_spec(DatasetSpec, {"group_pattern": r"^(\w+?)_"}).group_pattern == r"^(\w+?)_"
