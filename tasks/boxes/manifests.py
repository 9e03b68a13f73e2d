"""The manifest of an experiment inside boxes: images, what is known of their objects, and detections, all by content.

Masks and parts are in it as run lengths: once it is written no annotation file is opened again, and nothing that is wrong with
one can be found late.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hypercolumns.box_experiments import BoxExperimentSpec
from hypercolumns.datasets.decoding import decode_image
from hypercolumns.datasets.instances import AnnotatedImage, Instance
from hypercolumns.datasets.instances.detections import Detections
from hypercolumns.datasets.instances.run_lengths import decode_counts, encode_counts, mask_from_runs, runs_of_mask
from hypercolumns.datasets.masks import VOID
from storage.canonical import digest, read_json
from tasks.jobs import Message
from tasks.manifests import Entry, Manifest

__all__ = [
    "BoxEntry",
    "BoxManifest",
    "BoxTuple",
    "ClassEntry",
    "DetectionEntry",
    "InstanceEntry",
    "decode_mask_text",
    "encode_mask",
    "images_only",
    "load_box_manifest",
]

BoxTuple = tuple[float, float, float, float]


def encode_mask(mask: NDArray[np.bool_]) -> str:
    """Write a mask as COCO's compressed run lengths."""
    return encode_counts(runs_of_mask(mask))


def decode_mask_text(text: str, image_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Read a mask that `encode_mask` wrote."""
    return mask_from_runs(decode_counts(text), image_hw)


class ClassEntry(Message):
    """One class, with its keypoints and parts."""

    name: str
    category_id: int
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    parts: tuple[str, ...] = ()


class InstanceEntry(Message):
    """One object: masks as compressed run lengths; of the parts one each, and the unknown part last."""

    label: int
    box_xyxy: BoxTuple
    ignored: bool
    mask: str | None = None
    keypoints_xyv: tuple[tuple[float, float, float], ...] | None = None
    parts: tuple[str, ...] | None = None

    def mask_array(self, image_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the mask (H, W); an object without one has none of its pixels set."""
        return np.zeros(image_hw, np.bool_) if self.mask is None else decode_mask_text(self.mask, image_hw)

    def part_map(self, image_hw: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the part map (H, W): 0 outside the object, 1 … P, or `VOID`."""
        found = np.zeros(image_hw, np.uint8)
        texts = self.parts or ()
        for number, text in enumerate(texts, start=1):
            found[decode_mask_text(text, image_hw)] = number if number < len(texts) else VOID
        return found

    @property
    def points_xy(self) -> NDArray[np.float64]:
        """Keypoints (K, 2)."""
        return np.array(self.keypoints_xyv or (), np.float64).reshape(-1, 3)[:, :2]

    @property
    def visibility(self) -> NDArray[np.int64]:
        """0 absent, 1 hidden, 2 visible (K,)."""
        return np.array(self.keypoints_xyv or (), np.float64).reshape(-1, 3)[:, 2].astype(np.int64)


class DetectionEntry(Message):
    """One scored box, and the place of the instance that it was made from; -1 for none."""

    label: int
    box_xyxy: BoxTuple
    score: float
    source: int = -1


class BoxEntry(Message):
    """One image with its objects, the boxes to learn from and the boxes to run on."""

    image: Entry
    number: int
    instances: tuple[InstanceEntry, ...]
    detections: tuple[DetectionEntry, ...]

    @property
    def annotated(self) -> AnnotatedImage:
        """The image as data sets give it."""
        hw = self.image.image_hw
        instances = tuple(
            Instance(
                identifier=str(number),
                class_index=each.label,
                box_xyxy=np.array(each.box_xyxy),
                mask=None if each.mask is None else each.mask_array,
                keypoints_xyv=None if each.keypoints_xyv is None else np.array(each.keypoints_xyv),
                parts=None if each.parts is None else each.part_map,
                crowd=each.ignored,
            )
            for number, each in enumerate(self.instances)
        )
        return AnnotatedImage(self.image.image_id, self.image.image_path, hw, instances, self.number)

    @property
    def boxes(self) -> Detections:
        """The detections as arrays."""
        found = self.detections
        return Detections(
            np.array([each.box_xyxy for each in found], np.float64).reshape(-1, 4),
            np.array([each.score for each in found], np.float64),
            np.array([each.label for each in found], np.int64),
            np.array([each.source for each in found], np.int64),
        )


class BoxManifest(Message):
    """All splits of an experiment."""

    dataset: str
    classes: tuple[ClassEntry, ...]
    max_megapixels: float
    splits: dict[str, tuple[BoxEntry, ...]]
    rejected: tuple[str, ...] = ()

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(each.name for each in self.classes)

    def content_key(self, split: str) -> str:
        """Digest a split by content: images, objects, detections and classes."""
        entries = [
            [each.image.image_sha256, each.model_dump(mode="json", exclude={"image", "number"})] for each in self.splits[split]
        ]
        return digest([entries, [each.model_dump(mode="json") for each in self.classes]])

    def image(self, entry: BoxEntry) -> NDArray[np.uint8]:
        """Decode an image (H, W, 3), which must have the bytes it had when the manifest was written."""
        return decode_image(entry.image.image_path, max_megapixels=self.max_megapixels, sha256=entry.image.image_sha256)

    def outputs(self, spec: BoxExperimentSpec) -> tuple[slice, ...]:
        """Return each class's outputs of the head: its mask, or its keypoints, or the object and its parts."""
        if spec.task == "segment":
            own = [0 if spec.head.class_agnostic else number for number in range(len(self.classes))]
            return tuple(slice(number, number + 1) for number in own)
        widths = [len(each.keypoints) if spec.task == "keypoints" else 1 + len(each.parts) for each in self.classes]
        starts = np.cumsum([0, *widths]).tolist()
        return tuple(slice(start, start + width) for start, width in zip(starts, widths, strict=False))


def load_box_manifest(path: Path) -> BoxManifest:
    """Read a manifest that `tasks.boxes.prepare` wrote."""
    return BoxManifest.model_validate(read_json(path))


def images_only(manifest: BoxManifest) -> Manifest:
    """Return the images of a manifest as the stages that fill the feature store know them."""
    return Manifest(
        dataset=manifest.dataset,
        class_names=manifest.class_names,
        palette=(),
        void_label=VOID,
        max_megapixels=manifest.max_megapixels,
        splits={split: tuple(entry.image for entry in entries) for split, entries in manifest.splits.items()},
    )
