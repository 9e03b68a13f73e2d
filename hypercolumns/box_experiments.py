"""Frozen specs of experiments inside boxes: the head, its training, the protocol, and the whole experiment.

As `hypercolumns.specs`: plain values, validated, ready to be digested into keys. Nothing here touches files.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hypercolumns.box_specs import DetectionsSpec, InstancesSpec, PairsSpec
from hypercolumns.specs import Alignment, BackboneSpec, DatasetSpec, ExperimentSpec, Spec, StoreSpec, TrainSpec

__all__ = ["BoxEvalSpec", "BoxExperimentSpec", "BoxHeadSpec", "BoxTask", "BoxTrainSpec", "CompareSpec"]

BoxTask = Literal["segment", "keypoints", "parts"]


class BoxHeadSpec(Spec):
    """K x K classifiers over each box."""

    grid: int = Field(5, ge=1, le=50, description="K: classifiers along a side of the box; 1 does not know where a pixel is")
    layers: tuple[str, ...] | None = Field(None, min_length=1, description="a subset of the backbone's layers; default all")
    kernel: Literal[1, 3] = Field(1, description="cells along a side that classifiers see of the finest map")
    alignment: Alignment = Field(
        "resize", description="where a cell lies: stretched over the canvas, or at its receptive field"
    )
    class_agnostic: bool = Field(False, description="segment: one mask classifier for all classes, not one for each")


class BoxTrainSpec(Spec):
    """The fit by cells, and the training end to end that follows it."""

    cell_boxes: int = Field(600, ge=1, le=100_000, description="boxes of the fit by cells, and of the standardisation")
    cell_pixels: int = Field(100, ge=1, le=10_000, description="pixels of each of these boxes, spread evenly over the cells")
    cell_l2: float = Field(3.0, gt=0, le=1e6, description="weight of the penalty of the fit by cells")
    prior_boxes: float | None = Field(
        10.0,
        ge=0,
        le=1e6,
        description="classifiers learn how boxes differ from the mean target of their class, in which the mean of all classes "
        "counts as so many boxes; none: they start from nothing",
    )
    class_l2: float | None = Field(
        10.0,
        gt=0,
        le=1e6,
        description="segment: the classes of a cell share a classifier; weight of the penalty of what each has of its own; "
        "none: each is fitted alone",
    )
    cell_iterations: int = Field(20, ge=0, le=1000, description="most steps of the fit of a cell's classifier; 0 leaves it out")
    epochs: int = Field(2, ge=0, le=10_000, description="passes over the drawn boxes, end to end; 0 keeps the fit by cells")
    batch: int = Field(16, ge=1, le=4096, description="boxes a step")
    learning_rate: float = Field(3e-4, gt=0, le=100.0, description="peak learning rate of AdamW")
    weight_decay: float = Field(1e-2, ge=0, le=10.0, description="decoupled weight decay")
    schedule: Literal["constant", "cosine", "one_cycle"] = Field("cosine", description="learning rate over the steps")
    patience: int = Field(0, ge=0, le=10_000, description="epochs without improvement before stopping; 0 never stops early")
    holdout: float = Field(0.1, ge=0.0, lt=1.0, description="share of the train images kept for early stopping")
    keypoint_sigma: float = Field(
        0.1, gt=0, le=1, description="keypoints: width of the bump around a keypoint, as a share of the box's longer side"
    )
    hidden_keypoints: bool = Field(True, description="keypoints: learn labelled ones that are hidden, too")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of initial weights, choice and order")

    @property
    def loop(self) -> TrainSpec:
        """What the training loop is told."""
        return TrainSpec(
            epochs=self.epochs,
            batch=self.batch,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            patience=self.patience,
            holdout=self.holdout,
            seed=self.seed,
        )


class BoxEvalSpec(Spec):
    """From heatmaps to masks, points and parts, and how these are scored."""

    evaluator: Literal["coco", "sds_matlab", "sds_python"] = Field(
        "coco",
        description="rule of matching: best uncovered instance and overlap >= t; best instance; uncovered and overlap > t",
    )
    mask_threshold: float = Field(0.4, gt=0, lt=1, description="probability from which a pixel belongs to the mask")
    superpixels: Literal["none", "slic", "felzenszwalb"] = Field("none", description="project heatmaps onto superpixels")
    superpixel_pixels: int = Field(200, ge=4, le=100_000, description="about how many pixels a superpixel holds")
    superpixel_mean: float = Field(0.4, gt=0, le=1, description="mean of the heatmap from which a superpixel is kept")
    rescore: bool = Field(False, description="segment: score detections anew by a classifier on region and box features")
    region_iou: float | None = Field(
        None,
        ge=0,
        le=1,
        description="segment: masks of a class that overlap a better one by more are left out; none keeps all",
    )
    peak_blur: float = Field(
        0.0,
        ge=0,
        le=1,
        description="keypoints: how wide heatmaps are blurred before the maximum is sought, a share of the longer side",
    )
    alphas: tuple[Annotated[float, Field(gt=0, le=10)], ...] = Field(
        (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
        min_length=1,
        description="keypoints: tolerances, shares of the box's longer side",
    )
    torso: tuple[str, str] | None = Field(None, description="keypoints: two that span the torso, for PCK by it")
    bootstrap: int = Field(1000, ge=0, le=100_000, description="resamples of the images for the intervals; 0 for none")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of the intervals")
    panels: int = Field(4, ge=0, le=20, description="boxes to show: best, median and worst ones, each this many")


class BoxExperimentSpec(Spec):
    """One experiment inside boxes, from images with instances to a report."""

    name: str = Field("boxes", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="a short name for people")
    task: BoxTask = Field("segment", description="what is predicted in each box: the mask, keypoints, or parts")
    instances: InstancesSpec = Field(default_factory=InstancesSpec, description="images, and the objects in them")
    detections: DetectionsSpec = Field(default_factory=DetectionsSpec, description="scored boxes")
    pairs: PairsSpec = Field(default_factory=PairsSpec, description="boxes that are learned from, and their heatmaps")
    backbone: BackboneSpec = Field(default_factory=BackboneSpec, description="the frozen network")
    store: StoreSpec = Field(default_factory=StoreSpec, description="how maps are computed and kept")
    maps: Literal["image", "crop"] = Field(
        "image",
        description="what is fitted into the canvas: whole images, whose maps serve every box; or each expanded box, warped to "
        "it, with rows of its own, which fully connected layers need",
    )
    head: BoxHeadSpec = Field(default_factory=BoxHeadSpec, description="the classifiers")
    train: BoxTrainSpec = Field(default_factory=BoxTrainSpec, description="their training")
    evaluate: BoxEvalSpec = Field(default_factory=BoxEvalSpec, description="the protocol of the scores")

    @property
    def features(self) -> ExperimentSpec:
        """The part that decides the feature store, as an experiment of its own: other tasks share its rows."""
        return ExperimentSpec(
            name=self.name,
            dataset=DatasetSpec(train_split=self.instances.train_split, val_split=self.instances.val_split),
            backbone=self.backbone,
            store=self.store,
            head={"output_stride": 1},
            train=TrainSpec(epochs=self.train.epochs, loss_stride=1),
        )

    @model_validator(mode="after")
    def _warps_crops(self) -> Self:
        if self.maps == "crop" and self.store.canvas.mode != "stretch":
            raise ValueError(
                f"store.canvas.mode: expected stretch for maps: crop, since boxes are warped to the canvas, got "
                f"{self.store.canvas.mode}"
            )
        return self

    @model_validator(mode="after")
    def _fits_its_task(self) -> Self:
        if self.task != "segment" and (self.head.class_agnostic or self.evaluate.rescore):
            raise ValueError(f"head.class_agnostic and evaluate.rescore: expected false for task {self.task!r}, got true")
        if self.head.grid > self.pairs.side:
            raise ValueError(f"head.grid: expected at most pairs.side, {self.pairs.side}, got {self.head.grid}")
        return self


class CompareSpec(Spec):
    """Which heads are compared, on one feature store."""

    base: BoxExperimentSpec = Field(default_factory=BoxExperimentSpec, description="the experiment whose head is varied")
    tasks: tuple[BoxTask, ...] = Field(("segment", "keypoints", "parts"), min_length=1, description="tasks to compare heads on")
    grids: tuple[Annotated[int, Field(ge=1, le=50)], ...] = Field((1, 2, 5, 10), description="K of the heads on all layers")
    layer_grid: int = Field(5, ge=1, le=50, description="K of the heads on some of the layers")
    leave_out: bool = Field(True, description="also leave out each layer in turn")
