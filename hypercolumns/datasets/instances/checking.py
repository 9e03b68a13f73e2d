"""A look at every image, mask and part map before anything is computed: each is really read, and what fails is listed.

Boxes and keypoints were checked when the data set was opened. Nothing is changed or left out here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from hypercolumns.datasets.checking import Rejection
from hypercolumns.datasets.decoding import DEFAULT_MAX_MEGAPIXELS, decode_image
from hypercolumns.datasets.instances.base import AnnotatedImage, Instance, InstanceDataset
from hypercolumns.errors import ImageError, MaskError

__all__ = ["check_instances"]


def check_instances(
    dataset: InstanceDataset, splits: Sequence[str], *, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS
) -> list[Rejection]:
    """Decode every image, and read every mask and part map of it, in threads.

    Args:
        dataset: The data set.
        splits: The splits to look at.
        max_megapixels: A larger image is refused.

    Returns:
        What cannot be used, the first fault of each image, by split and in the order of its images; empty when all is well.

    Raises:
        DatasetError: there is no such split.
    """
    work = [(split, image) for split in splits for image in dataset.split(split)]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        verdicts = pool.map(lambda item: _check(item[0], item[1], max_megapixels), work)
        return [verdict for verdict in verdicts if verdict is not None]


def _check(split: str, image: AnnotatedImage, max_megapixels: float) -> Rejection | None:
    try:
        decoded_hw = decode_image(image.path, max_megapixels=max_megapixels).shape[:2]
        if decoded_hw != image.image_hw:
            raise ImageError(
                image.path, f"expected {image.image_hw} pixels, as when it was listed, got {decoded_hw}", "run again"
            )
        for instance in image.instances:
            _check_instance(instance, image)
    except (ImageError, MaskError) as error:
        return Rejection(error.path, error.reason, error.remedy, split, image.key)
    return None


def _check_instance(instance: Instance, image: AnnotatedImage) -> None:
    if instance.mask is not None and not instance.mask(image.image_hw).any():
        raise MaskError(
            image.path,
            f"instance {instance.identifier}: expected a pixel in its mask, got none",
            "leave it out, or set min_side",
        )
    if instance.parts is not None:
        instance.parts(image.image_hw)
