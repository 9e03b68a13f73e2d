"""Frozen specs of what happens inside boxes: which instances, which detections, which pairs of box and mask are learned from.

As `hypercolumns.specs`: plain values, validated, ready to be digested into keys. Nothing here touches files.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hypercolumns.specs import ShapesSpec, Spec

__all__ = ["DetectionsSpec", "InstancesSpec", "PairsSpec"]

InstancesKind = Literal["shapes", "coco", "voc", "sbd", "pascal_part", "berkeley"]


class InstancesSpec(Spec):
    """Which images with instances, keypoints and parts, and how to read them."""

    kind: InstancesKind = Field(
        "shapes",
        description="shapes is generated; coco reads COCO's JSON; voc the PASCAL VOC layout with SegmentationObject and XML; "
        "sbd, pascal_part and berkeley add their own annotations to VOC's images",
    )
    root: str | None = Field(None, description="folder that holds the images; needed but for shapes; ~ and $VARIABLES expand")
    shapes: ShapesSpec = Field(default_factory=ShapesSpec, description="what to generate, when kind is shapes")
    scenery: Literal["varied", "crowded"] = Field(
        "crowded",
        description="shapes: varied are the scenes of segmentation; in crowded ones several of a class touch and hide each "
        "other, and parts look alike",
    )
    train_split: str = Field("train", min_length=1, description="name of the split that is learned from")
    val_split: str = Field("val", min_length=1, description="name of the split that is scored")
    image_folder: str = Field("JPEGImages", description="images inside the root; {split} stands for the split's name")
    annotations: str = Field(
        "annotations/instances_{split}.json",
        description="coco: the annotation file inside the root; {split} stands for the split's name",
    )
    annotation_root: str | None = Field(
        None, description="sbd, pascal_part, berkeley: the folder of their annotations; by default the root"
    )
    keypoint_origin: Literal["pixel_index", "continuous"] | None = Field(
        None,
        description="what keypoint coordinates in the files mean: numbers of pixels (their centres, as in COCO's own files) or "
        "positions; by default pixel numbers for coco, positions for the others",
    )
    part_groups: dict[str, dict[str, tuple[str, ...]]] | None = Field(
        None,
        description="pascal_part: for a class, its parts by name, each made of parts in the files; parts that are in none are "
        "unknown, classes that are not named keep no parts; by default all parts, numbers behind their names taken off",
    )
    class_names: tuple[str, ...] | None = Field(None, min_length=1, description="only these classes, in this order")
    min_train_instances: int = Field(
        0, ge=0, description="leave out classes with fewer instances (crowds not counted) in train"
    )
    min_side: float = Field(
        0.0, ge=0, description="leave out instances whose box has a shorter side of less than this, in pixels"
    )
    keypoints_outside_box: Literal["fail", "keep", "drop"] = Field(
        "keep",
        description="a labelled keypoint that lies outside its instance's box (but in the image): refuse it, keep it or call "
        "it absent",
    )
    images_without_instances: bool = Field(True, description="keep images that have no instance of the classes")
    limit_train: int | None = Field(None, ge=1, description="use only the first N images of the train split")
    limit_val: int | None = Field(None, ge=1, description="use only the first N images of the val split")
    on_bad_record: Literal["fail", "skip"] = Field(
        "fail", description="fail stops before anything is computed; skip leaves out the record and lists it"
    )
    max_megapixels: float = Field(100.0, gt=0, le=10_000, description="a larger image is refused as a decompression bomb")

    @model_validator(mode="after")
    def _has_a_root(self) -> Self:
        if self.kind != "shapes" and not self.root:
            raise ValueError(f"expected `root`, the folder of the images, for kind {self.kind!r}, got none")
        return self

    @model_validator(mode="after")
    def _names_classes_once(self) -> Self:
        if self.class_names is not None and len(set(self.class_names)) != len(self.class_names):
            raise ValueError(f"class_names: expected distinct names, got {list(self.class_names)}")
        return self


class DetectionsSpec(Spec):
    """Where scored class boxes come from, and which of them are used."""

    kind: Literal["jitter", "coco_results", "torchvision"] = Field(
        "jitter",
        description="jitter moves true boxes at random; coco_results reads scored boxes; torchvision runs one of its detectors",
    )
    results: str | None = Field(
        None, description="coco_results: the file of scored boxes; {split} stands for the split's name; ~ and $VARIABLES expand"
    )
    on_bad_record: Literal["fail", "skip"] = Field(
        "fail", description="coco_results: fail stops at a wrong record; skip leaves it out"
    )
    on_missing_image: Literal["fail", "empty"] = Field(
        "fail", description="coco_results: an image of the split without a record: refuse the file, or take it for no detection"
    )
    spread: float = Field(0.1, ge=0, lt=0.5, description="jitter: largest shift of a side, as a share of the box's size")
    copies: int = Field(1, ge=1, le=100, description="jitter: moved boxes for each true one")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="jitter: seed; independent of the order of images")
    detector: str | None = Field(None, description="torchvision: the detector's name, such as ssdlite320_mobilenet_v3_large")
    weights: str | None = Field(None, description="torchvision: path of its state dict; ~ and $VARIABLES expand")
    weights_sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="expected sha256 of the weights file; another file is refused"
    )
    detector_classes: tuple[str, ...] | None = Field(
        None,
        description="torchvision: name of the detector's label k at place k-1; by default COCO's as torchvision numbers them",
    )
    min_score: float = Field(0.0, ge=0, le=1, description="leave out boxes below this score; only where scores are in 0..1")
    most_iou: float = Field(0.3, ge=0, le=1, description="boxes of a class that overlap a better one by more are suppressed")
    most_boxes: int = Field(100, ge=1, le=10_000, description="boxes an image, the best of them")

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        needed = {"coco_results": ("results",), "torchvision": ("detector", "weights")}.get(self.kind, ())
        for name in needed:
            if not getattr(self, name):
                raise ValueError(f"expected `{name}` for kind {self.kind!r}, got none")
        return self


class PairsSpec(Spec):
    """Which boxes are learned from, and what their targets are."""

    least_iou: float = Field(0.7, ge=0, le=1, description="overlap of a training box with a true box of its class")
    side: int = Field(50, ge=1, le=1024, description="pixels along a side of the target in the box")
    expansion: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0, description="each side of a box is first moved outwards by this share of the box's size; 16/195 as in R-CNN"
    )
    boxes: int = Field(2000, ge=1, le=10_000_000, description="boxes drawn: classes uniformly, then images, then boxes")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of the draw; independent of the order of images")
