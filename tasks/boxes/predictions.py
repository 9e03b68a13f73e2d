"""From boxes to predictions: masks, keypoints and parts in images, by a head or by a baseline that looks at no image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hypercolumns.box_experiments import BoxExperimentSpec
from hypercolumns.boxes import box_iou
from hypercolumns.heads import GridClassifier
from hypercolumns.heatmaps import blur, cut_mask, find_peaks, find_superpixels, heatmap_points, project, splat
from hypercolumns.heatmaps.rescoring import Rescorer, region_features, suppress_regions
from tasks.boxes.manifests import BoxEntry, DetectionEntry, decode_mask_text, encode_mask
from tasks.boxes.maps import BoxMaps, SeenBoxes
from tasks.jobs import Message

__all__ = [
    "BoxPrediction",
    "HeadPredictor",
    "HeatmapBaseline",
    "PoseBaseline",
    "Predictor",
    "pair_with",
    "to_predictions",
]

_FITS = 0.5
"""Overlap of a detection with an object of its class from which it is taken to be meant for it."""

ImageLoader = Callable[[], NDArray[np.uint8]]


class BoxPrediction(Message):
    """What was predicted in one box; masks and parts as compressed run lengths, keypoints as x, y, score."""

    label: int
    score: float
    box_xyxy: tuple[float, float, float, float]
    source: int = -1
    mask: str | None = None
    points_xys: tuple[tuple[float, float, float], ...] | None = None
    parts: tuple[str, ...] | None = None

    def mask_array(self, image_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the mask (H, W)."""
        return np.zeros(image_hw, np.bool_) if self.mask is None else decode_mask_text(self.mask, image_hw)

    def part_map(self, image_hw: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the part map (H, W): 0 outside the object, 1 … P."""
        found = np.zeros(image_hw, np.uint8)
        for number, text in enumerate(self.parts or (), start=1):
            found[decode_mask_text(text, image_hw)] = number
        return found


class Predictor(Protocol):
    """Whatever predicts something in the boxes of an image."""

    def __call__(self, index: int, entry: BoxEntry, boxes: Sequence[DetectionEntry], load: ImageLoader) -> list[BoxPrediction]:
        """Return a prediction for each box, or fewer where regions are suppressed.

        Args:
            index: The image's number in its split.
            entry: The image.
            boxes: The boxes.
            load: Decodes the image, where it is needed.
        """
        ...


def pair_with(entry: BoxEntry, box: DetectionEntry) -> int:
    """Return the object that a box is meant for: its source, or the one of its class it overlaps most and enough; else -1."""
    if box.source >= 0:
        return box.source
    own = [number for number, each in enumerate(entry.instances) if each.label == box.label and not each.ignored]
    if not own:
        return -1
    overlaps = box_iou(np.array([box.box_xyxy]), np.array([entry.instances[number].box_xyxy for number in own]))[0]
    return own[int(overlaps.argmax())] if overlaps.max() >= _FITS else -1


def to_predictions(
    entry: BoxEntry,
    boxes: Sequence[DetectionEntry],
    heatmaps: Sequence[NDArray[np.float32]],
    spec: BoxExperimentSpec,
    load: ImageLoader,
    *,
    superpixels: bool,
) -> list[BoxPrediction]:
    """Turn heatmaps (outputs, S, S) of boxes into masks, keypoints or parts.

    Args:
        entry: The image.
        boxes: Its boxes.
        heatmaps: Of each box, as many as its class has outputs.
        spec: Says what they are.
        load: Decodes the image.
        superpixels: Whether masks may be projected onto superpixels, if the experiment asks for them.
    """
    hw = entry.image.image_hw
    method = spec.evaluate.superpixels
    pieces = None
    if superpixels and method != "none" and spec.task != "keypoints" and boxes:
        pieces = find_superpixels(load(), method, spec.evaluate.superpixel_pixels)
    found = []
    for box, maps in zip(boxes, heatmaps, strict=True):
        common = {"label": box.label, "score": box.score, "box_xyxy": box.box_xyxy, "source": pair_with(entry, box)}
        if spec.task == "keypoints":
            x0, y0, x1, y1 = box.box_xyxy
            shares, scores = find_peaks(blur(maps, spec.evaluate.peak_blur, (x1 - x0, y1 - y0)))
            points = heatmap_points(shares, np.array(box.box_xyxy), spec.pairs.expansion)
            lines = np.concatenate([points, scores[:, None] * box.score], axis=1).tolist()
            found.append(BoxPrediction(**common, points_xys=tuple(tuple(line) for line in lines)))
            continue
        laid = splat(maps, np.array(box.box_xyxy), hw, spec.pairs.expansion)
        mask = _mask(laid[0], pieces, spec)
        parts = None
        if spec.task == "parts":
            best = laid[1:].argmax(axis=0)
            parts = tuple(encode_mask(mask & (best == number)) for number in range(len(laid) - 1))
        found.append(BoxPrediction(**common, mask=encode_mask(mask), parts=parts))
    return found


def _mask(laid: NDArray[np.float32], pieces: NDArray[np.int64] | None, spec: BoxExperimentSpec) -> NDArray[np.bool_]:
    if not (laid > 0).any():
        # The box lies between the centres of pixels: nobody can tell which one is meant.
        return np.zeros(laid.shape, np.bool_)
    if pieces is not None:
        projected = project(laid, pieces, spec.evaluate.superpixel_mean)
        if projected.any():
            return projected
    return cut_mask(laid, spec.evaluate.mask_threshold)


class HeadPredictor:
    """A head on maps of images or of crops.

    Args:
        model: The head.
        blocks: Each class's outputs.
        maps: Reads the maps of boxes.
        spec: The experiment.
        rescorer: Scores detections anew; None keeps their scores.
    """

    def __init__(
        self,
        model: GridClassifier,
        blocks: Sequence[slice],
        maps: BoxMaps,
        spec: BoxExperimentSpec,
        rescorer: Rescorer | None = None,
    ) -> None:
        self.model, self.blocks, self.spec, self.rescorer = model, blocks, spec, rescorer
        self.maps = maps.select([layer.name for layer in model.layers])

    @torch.inference_mode()
    def __call__(self, index: int, entry: BoxEntry, boxes: Sequence[DetectionEntry], load: ImageLoader) -> list[BoxPrediction]:
        """Return a prediction for each box, or fewer where regions are suppressed."""
        if not boxes:
            return []
        scored: list[DetectionEntry] = []
        heatmaps: list[NDArray[np.float32]] = []
        for seen in self.maps(index, entry, boxes):
            own = self.heatmaps(seen)
            heatmaps += own
            scored += seen.members if self.rescorer is None else self._rescored(self.rescorer, seen, own)
        found = to_predictions(entry, scored, heatmaps, self.spec, load, superpixels=True)
        return self._suppressed(found, entry.image.image_hw)

    def heatmaps(self, seen: SeenBoxes) -> list[NDArray[np.float32]]:
        """Return the heatmaps (outputs, S, S) of each box."""
        labels = np.array([box.label for box in seen.members])
        found: dict[int, NDArray[np.float32]] = {}
        for label in np.unique(labels):
            own = np.flatnonzero(labels == label)
            placed, edges, rows = seen.boxes_xyxy[own], seen.edges_xyxy[own], seen.rows[own]
            values = self.model(seen.maps, placed, rows, outputs=self.blocks[label], edges_xyxy=edges).float().numpy()
            found |= dict(zip(own.tolist(), values, strict=True))
        return [found[number] for number in range(len(labels))]

    def features(self, seen: SeenBoxes, heatmaps: Sequence[NDArray[np.float32]]) -> torch.Tensor:
        """Return what the rescorer looks at (n, f)."""
        masks = torch.from_numpy(np.stack([each[0] for each in heatmaps]))
        scores = torch.tensor([box.score for box in seen.members])
        return region_features(self.model, seen.maps, seen.boxes_xyxy, seen.edges_xyxy, masks, scores, seen.rows)

    def _rescored(self, rescorer: Rescorer, seen: SeenBoxes, heatmaps: Sequence[NDArray[np.float32]]) -> list[DetectionEntry]:
        scores = rescorer(self.features(seen, heatmaps)).tolist()
        return [box.model_copy(update={"score": score}) for box, score in zip(seen.members, scores, strict=True)]

    def _suppressed(self, found: list[BoxPrediction], image_hw: tuple[int, int]) -> list[BoxPrediction]:
        most = self.spec.evaluate.region_iou
        if most is None or self.spec.task != "segment":
            return found
        kept: list[BoxPrediction] = []
        for label in sorted({each.label for each in found}):
            own = [each for each in found if each.label == label]
            masks = np.stack([each.mask_array(image_hw) for each in own])
            kept += [own[number] for number in suppress_regions(masks, np.array([each.score for each in own]), most)]
        return kept


class HeatmapBaseline:
    """The same heatmaps in every box of a class.

    Args:
        heatmaps: (outputs, S, S) of each class.
        spec: The experiment.
    """

    def __init__(self, heatmaps: Sequence[NDArray[np.float32]], spec: BoxExperimentSpec) -> None:
        self._heatmaps, self._spec = heatmaps, spec

    def __call__(self, index: int, entry: BoxEntry, boxes: Sequence[DetectionEntry], load: ImageLoader) -> list[BoxPrediction]:
        """Return a prediction for each box."""
        maps = [self._heatmaps[box.label] for box in boxes]
        return to_predictions(entry, boxes, maps, self._spec, load, superpixels=False)


class PoseBaseline:
    """The same pose in every box of a class.

    Args:
        shares_xy: Keypoints of each class as shares of the box (K, 2).
    """

    def __init__(self, shares_xy: Sequence[NDArray[np.float64]]) -> None:
        self._shares = shares_xy

    def __call__(self, index: int, entry: BoxEntry, boxes: Sequence[DetectionEntry], load: ImageLoader) -> list[BoxPrediction]:
        """Return a pose for each box."""
        found = []
        for box in boxes:
            points = heatmap_points(self._shares[box.label], np.array(box.box_xyxy))
            lines = tuple((x, y, box.score) for x, y in points.tolist())
            source = pair_with(entry, box)
            found.append(
                BoxPrediction(label=box.label, score=box.score, box_xyxy=box.box_xyxy, source=source, points_xys=lines)
            )
        return found
