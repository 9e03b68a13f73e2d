"""Detections made of true boxes, moved at random: what the heads get when the boxes are given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from hypercolumns.boxes import jitter_boxes
from hypercolumns.datasets.instances.base import AnnotatedImage
from hypercolumns.datasets.instances.detections import Detections
from hypercolumns.errors import SpecError

__all__ = ["jittered_detections"]


def jittered_detections(
    images: Iterable[AnnotatedImage],
    *,
    spread: float = 0.1,
    copies: int = 1,
    seed: int = 0,
    least_iou: float = 0.7,
) -> dict[str, Detections]:
    """Move the sides of every true box that is neither a crowd's nor called difficult.

    Scores are drawn at random in [0, 1), so that they know nothing of how well a box fits.

    Every image has its own stream of chance, named by seed and key: neither order nor other images change it.

    Args:
        images: The images.
        spread: Largest shift of a side, as a share of the box's size; 0 gives the true boxes.
        copies: Boxes for each true one.
        seed: ≥ 0.
        least_iou: Overlap with the true box that is kept at least.

    Returns:
        Detections by image key, in the order of instances and copies; `sources` names the instances.

    Raises:
        SpecError: copies or seed is out of range.
        GeometryError: spread or overlap is.
    """
    if copies < 1 or seed < 0:
        raise SpecError(f"expected at least one copy and a seed of at least 0, got {copies} and {seed}")
    return {image.key: _jittered(image, spread, copies, seed, least_iou) for image in images}


def _jittered(image: AnnotatedImage, spread: float, copies: int, seed: int, least_iou: float) -> Detections:
    sources = np.repeat(
        [place for place, each in enumerate(image.instances) if not (each.crowd or each.difficult)], copies
    ).astype(np.int64)
    if not len(sources):
        return Detections.none()
    name = int.from_bytes(hashlib.sha256(image.key.encode("utf-8", "surrogatepass")).digest()[:16])
    generator = np.random.default_rng([seed, name])
    true = np.stack([image.instances[place].box_xyxy for place in sources.tolist()])
    moved = jitter_boxes(true, image.image_hw, generator, spread=spread, least_iou=least_iou)
    labels = np.array([image.instances[place].class_index for place in sources.tolist()], np.int64)
    return Detections(moved, generator.random(len(moved)), labels, sources)
