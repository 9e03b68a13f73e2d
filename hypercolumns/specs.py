"""Frozen specs: everything that decides a result, spelled out, validated, and ready to be digested into keys.

Unknown fields and values out of range are refused with the field's path. Specs hold plain values only (they travel as JSON);
what they mean is said by the modules that read them. Nothing here touches files.
"""

from __future__ import annotations

import re
import reprlib
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from hypercolumns.errors import SpecError
from hypercolumns.limits import spell_limits

__all__ = [
    "BackboneSpec",
    "CanvasSpec",
    "DatasetSpec",
    "EvalSpec",
    "ExperimentSpec",
    "HeadSpec",
    "SampleSpec",
    "ShapesSpec",
    "SparseTrainSpec",
    "Spec",
    "StoreSpec",
    "TrainPrecision",
    "TrainSpec",
    "parse_spec",
]

SpecT = TypeVar("SpecT", bound="Spec")

_LISTED = 20
_LONGEST = 1000
_REPR = reprlib.Repr()
_REPR.maxlevel = 3
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 200

View = Literal["identity", "hflip"]
Alignment = Literal["resize", "receptive_field", "corners"]
Precision = Literal["float32", "bfloat16"]
TrainPrecision = Literal["automatic", "float32", "bfloat16"]
ClassWeighting = Literal["none", "inverse_frequency", "median", "sqrt_median"]
Baseline = Literal["majority", "prior", "rgb", "position", "deepest", "random_weights"]


class Spec(BaseModel):
    """Base of all specs: immutable, and closed to unknown fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, json_schema_extra=spell_limits
    )

    @field_validator("*", mode="before")
    @classmethod
    def _are_no_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        # Python counts true as 1, so `epochs: yes` would train for one epoch.
        parts = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(part, bool) for part in parts) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"expected no truth value, got {_shown(value)}")
        return value


class CanvasSpec(Spec):
    """The frame every image is fitted into before the backbone sees it; all maps of a store share its shape."""

    mode: Literal["letterbox", "stretch"] = Field(
        "letterbox", description="letterbox keeps the aspect ratio and pads; stretch does not keep it"
    )
    size_hw: tuple[Annotated[int, Field(ge=16, le=4096)], Annotated[int, Field(ge=16, le=4096)]] = Field(
        (128, 128), description="height and width of the canvas in pixels"
    )


class ShapesSpec(Spec):
    """How many generated figures scenes, how large, from which seed."""

    images: int = Field(240, ge=2, le=100_000, description="number of scenes, train and val together")
    size: int = Field(128, ge=64, le=512, description="side of the square scenes in pixels")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed: the same seed gives the same bytes")


class DatasetSpec(Spec):
    """Which labelled images, and how to read them."""

    kind: Literal["shapes", "voc", "folder"] = Field(
        "shapes",
        description="shapes is generated; voc is the PASCAL VOC layout; folder is images/SPLIT and masks/SPLIT",
    )
    root: str | None = Field(None, description="the data set's folder; needed for voc and folder; ~ and $VARIABLES expand")
    shapes: ShapesSpec = Field(default_factory=ShapesSpec, description="what to generate, when kind is shapes")
    train_split: str = Field("train", min_length=1, description="name of the split that is learned from")
    val_split: str = Field("val", min_length=1, description="name of the split that is scored")
    class_names: tuple[str, ...] | None = Field(None, description="names of labels 0, 1, ...; by default classes.txt or VOC's")
    void_label: int = Field(255, ge=0, le=255, description="the label that is neither learned nor scored")
    limit_train: int | None = Field(None, ge=1, description="use only the first N images of the train split")
    limit_val: int | None = Field(None, ge=1, description="use only the first N images of the val split")
    group_pattern: str | None = Field(
        None,
        description="regular expression whose first group names an image's video or patient: never split across sides",
    )
    on_bad_image: Literal["fail", "skip"] = Field(
        "fail", description="fail stops before anything is computed; skip lists the image in rejected.json and goes on"
    )
    max_megapixels: float = Field(100.0, gt=0, le=10_000, description="a larger image is refused as a decompression bomb")

    @field_validator("group_pattern")
    @classmethod
    def _compiles_and_captures(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                groups = re.compile(pattern).groups
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"expected a regular expression, got {pattern!r}: {error}") from error
            if groups < 1:
                raise ValueError(f"expected a pattern with one (group), got {pattern!r}")
        return pattern

    @model_validator(mode="after")
    def _has_a_root(self) -> Self:
        if self.kind != "shapes" and not self.root:
            raise ValueError(f"expected `root`, the data set's folder, for kind {self.kind!r}, got none")
        return self


class BackboneSpec(Spec):
    """Which frozen network, which weights, and which of its activations."""

    name: str = Field(
        "squeezenet1_1",
        min_length=1,
        description="a preset (vgg11, vgg16, squeezenet1_0, squeezenet1_1, caffenet), a torchvision model, or timm:NAME",
    )
    weights: str = Field(
        "shapes",
        min_length=1,
        description="shapes (shipped), IMAGENET1K_V1, random:SEED, or the path of a state dict or safetensors file",
    )
    weights_sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="expected sha256 of the weights file; another file is refused"
    )
    layers: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="activations by node name, shallow to deep; A+B concatenates two nodes; by default the preset's layers",
    )
    mean_rgb: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="subtracted from RGB in [0, 1]")
    std_rgb: tuple[float, float, float] = Field((0.229, 0.224, 0.225), description="divides after the mean is subtracted")

    @field_validator("layers")
    @classmethod
    def _are_distinct(cls, layers: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if layers is not None and len(set(layers)) != len(layers):
            raise ValueError(f"expected distinct layers, got {list(layers)}")
        return layers

    @field_validator("std_rgb")
    @classmethod
    def _is_positive(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(std) <= 0:
            raise ValueError(f"expected positive standard deviations, got {std}")
        return std


class StoreSpec(Spec):
    """How maps are computed and kept."""

    canvas: CanvasSpec = Field(default_factory=CanvasSpec, description="the frame images are fitted into")
    dtype: Literal["float16", "float32", "bfloat16", "uint8"] = Field("float16", description="type of the stored numbers")
    compression: Literal["none", "zstd"] = Field("none", description="maps compress to 0.77-0.99 only; none reads fastest")
    precision: Precision = Field(
        "float32", description="arithmetic of the backbone; part of the key; bfloat16 is slow on older CPUs"
    )
    views: tuple[View, ...] = Field(("identity",), min_length=1, description="views of every training image to extract")
    shard_images: int | None = Field(None, ge=1, le=1024, description="images a shard file; by default files of >= 12 MB")
    batch_images: int = Field(8, ge=1, le=1024, description="images a forward pass; does not change the result's meaning")

    @field_validator("views")
    @classmethod
    def _start_with_identity(cls, views: tuple[View, ...]) -> tuple[View, ...]:
        if views[0] != "identity" or len(set(views)) != len(views):
            raise ValueError(f"expected distinct views, the first of them identity, got {list(views)}")
        return views


class SampleSpec(Spec):
    """Which pixels become the sample set."""

    pixels_per_class: int = Field(3, ge=1, le=100_000, description="pixels an image and class present in it")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of the choice; independent of order and worker count")


class HeadSpec(Spec):
    """The classifier: layers -> hidden -> classes, at every pixel."""

    hidden: int = Field(256, ge=0, le=8192, description="hidden units; 0 gives a linear classifier")
    layers: tuple[str, ...] | None = Field(None, min_length=1, description="a subset of the backbone's layers; default all")
    coordinates: bool = Field(False, description="append the normalised x and y of the pixel as one more layer")
    context: Literal["none", "pool", "kernel3"] = Field(
        "none", description="what dense training adds to the converted classifier: nothing, pooled maps, or 3x3 kernels"
    )
    alignment: Alignment = Field(
        "resize",
        description="where a cell lies: stretched over the canvas, or at its receptive field; corners is for parity only",
    )
    output_stride: int = Field(4, ge=1, le=64, description="pixels between the points the head is computed at")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="dropout on the hidden units while training")


class TrainSpec(Spec):
    """One training run, sparse or dense."""

    epochs: int = Field(10, ge=0, le=10_000, description="passes over the data; 0 skips this stage")
    batch: int = Field(4, ge=1, le=1_000_000, description="pixels (sparse) or images (dense) a step")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="update rule")
    learning_rate: float = Field(2e-3, gt=0, le=100.0, description="peak learning rate")
    weight_decay: float = Field(1e-4, ge=0, le=10.0, description="decoupled for adamw, L2 for sgd")
    schedule: Literal["constant", "cosine", "one_cycle"] = Field("one_cycle", description="learning rate over the steps")
    class_weighting: ClassWeighting = Field("none", description="weight of a class in the loss, from its pixel frequency")
    dice: float = Field(0.0, ge=0.0, le=100.0, description="dense: weight of the soft Dice loss beside the cross entropy")
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0, description="share of the target spread over all classes")
    loss_stride: int = Field(2, ge=1, le=64, description="dense: pixels between the points the loss is taken at")
    precision: TrainPrecision = Field(
        "float32",
        description="arithmetic of the head; automatic is bfloat16 where the processor multiplies it fast, else float32",
    )
    holdout: float = Field(0.1, ge=0.0, lt=1.0, description="share of the train images kept for early stopping")
    patience: int = Field(0, ge=0, le=10_000, description="epochs without improvement before stopping; 0 never stops early")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of initial weights, order and dropout")


class SparseTrainSpec(TrainSpec):
    """Training on the sample set, with defaults of its own: a section that names one field keeps the others."""

    epochs: int = Field(20, ge=0, le=10_000, description="passes over the sample set; 0 keeps the initial weights")
    batch: int = Field(1024, ge=1, le=1_000_000, description="pixels a step")
    patience: int = Field(5, ge=0, le=10_000, description="epochs without improvement before stopping; 0 never stops early")


class EvalSpec(Spec):
    """The protocol of the scores, and what is scored beside the model."""

    protocol: Literal["strict", "notebook"] = Field(
        "strict",
        description="strict: label resolution, void ignored; notebook: the published 224-pixel study (void is background)",
    )
    restore_priors: float = Field(
        1.0,
        ge=0.0,
        le=2.0,
        description="sparse stage: this much of log(true prior) - log(sample prior) is added to the logits; 0 adds nothing",
    )
    flip: bool = Field(False, description="average the probabilities of each image and its mirror image")
    bootstrap: int = Field(1000, ge=0, le=100_000, description="resamples of the images for the intervals; 0 for none")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of the intervals")
    baselines: tuple[Baseline, ...] = Field(
        ("majority", "prior", "rgb", "deepest"), description="what is scored on the same protocol beside the model"
    )
    panels: int = Field(3, ge=0, le=20, description="best, median and worst images to show, each this many")


class ExperimentSpec(Spec):
    """One experiment, from labelled images to a report."""

    name: str = Field("experiment", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="a short name for people")
    dataset: DatasetSpec = Field(default_factory=DatasetSpec, description="which labelled images")
    backbone: BackboneSpec = Field(default_factory=BackboneSpec, description="which frozen network")
    store: StoreSpec = Field(default_factory=StoreSpec, description="how its maps are computed and kept")
    sample: SampleSpec = Field(default_factory=SampleSpec, description="which pixels pretraining sees")
    head: HeadSpec = Field(default_factory=HeadSpec, description="the classifier on the maps")
    pretrain: SparseTrainSpec = Field(default_factory=SparseTrainSpec, description="training on the sample set")
    train: TrainSpec = Field(default_factory=TrainSpec, description="dense training on every labelled pixel")
    evaluate: EvalSpec = Field(default_factory=EvalSpec, description="how the result is scored")

    @model_validator(mode="after")
    def _strides_divide_the_canvas(self) -> Self:
        for name, stride in (
            ("head.output_stride", self.head.output_stride),
            ("train.loss_stride", self.train.loss_stride),
        ):
            if any(side % stride for side in self.store.canvas.size_hw):
                raise ValueError(
                    f"{name}: expected a divisor of both sides of the canvas {self.store.canvas.size_hw}, got {stride}"
                )
        return self


def parse_spec(kind: type[SpecT], value: Any) -> SpecT:
    """Build a spec from plain data.

    Raises:
        SpecError: something is unknown or out of range; names the path of every such field and what came.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        more = [f"and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        raise SpecError(f"{kind.__name__}: " + "; ".join([*map(_explain, problems[:_LISTED]), *more])) from error


def _explain(problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"])[:_LONGEST] or "the whole spec"
    message = str(problem["msg"]).removeprefix("Value error, ")[:_LONGEST]
    received = "" if problem["type"] in {"value_error", "missing"} else f", got {_shown(problem.get('input'))}"
    return f"{path}: {message}{received}"


def _shown(value: Any) -> str:
    """Spell a value that was refused, however large or deep it is."""
    try:
        return _REPR.repr(value)
    except ValueError:  # Python spells no whole number of more than some thousand digits
        return "a number of very many digits"
