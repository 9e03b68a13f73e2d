"""A look at every file before anything is computed: each image and mask is really decoded, and what fails is listed.

Nothing is changed or left out here; what happens to the listed images is for the caller to say.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hypercolumns.datasets.base import Dataset, ImageRecord
from hypercolumns.errors import ImageError, MaskError

__all__ = ["Rejection", "check_dataset"]


@dataclass(frozen=True)
class Rejection:
    """One image that cannot be used, and why.

    Attributes:
        path: The file at fault, image or mask.
        reason: What is wrong with it.
        remedy: What to do about it.
        split: The split it was listed in.
        image_id: The image it makes unusable.
    """

    path: Path
    reason: str
    remedy: str
    split: str
    image_id: str


def check_dataset(dataset: Dataset, splits: Sequence[str], *, need_masks: bool = True) -> list[Rejection]:
    """Decode every image and mask of the splits, in threads.

    Args:
        dataset: The data set.
        splits: The splits to look at.
        need_masks: Whether an image without a mask is rejected. Masks that are there are checked in any case.

    Returns:
        What cannot be used, by split and in the order of its records; empty when all is well.

    Raises:
        DatasetError: a split or its list cannot be read at all.
    """
    work = [(split, record) for split in splits for record in dataset.records(split)]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        verdicts = pool.map(lambda item: _check(dataset, *item, need_masks=need_masks), work)
        return [verdict for verdict in verdicts if verdict is not None]


def _check(dataset: Dataset, split: str, record: ImageRecord, *, need_masks: bool) -> Rejection | None:
    try:
        dataset.image(record)
        if need_masks or record.mask_path is not None:
            dataset.mask(record)
    except (ImageError, MaskError) as error:
        return Rejection(error.path, error.reason, error.remedy, split, record.image_id)
    return None
