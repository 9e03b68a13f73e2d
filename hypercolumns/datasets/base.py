"""The protocol every data set speaks, and what all data sets made of image and mask files have in common.

A data set knows which images there are and what their labels mean. Lists are read when a split is asked for, pixels when an
image is; nothing is kept but lists. Layouts on disk live in their own modules.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from hypercolumns.datasets.colours import distinct_palette
from hypercolumns.datasets.decoding import decode_image, image_hw
from hypercolumns.datasets.listing import read_class_names
from hypercolumns.datasets.masks import VOID, decode_mask, mask_palette
from hypercolumns.errors import DatasetError, MaskError
from hypercolumns.specs import DatasetSpec

__all__ = ["VOID", "Dataset", "FileDataset", "ImageRecord"]


@dataclass(frozen=True)
class ImageRecord:
    """One image of a data set.

    Attributes:
        image_id: Path of the image inside the data set's image folder, without suffix: stable, and the same on every system.
        image_path: The image file.
        mask_path: Its label mask; None when there is none.
        group: The video, patient ... it belongs to, by the spec's `group_pattern`; None without a pattern.
    """

    image_id: str
    image_path: Path
    mask_path: Path | None
    group: str | None


@runtime_checkable
class Dataset(Protocol):
    """Labelled images in splits.

    Attributes:
        name: A short name for people.
        root: Its folder.
        class_names: Name of label k at place k.
    """

    name: str
    root: Path
    class_names: tuple[str, ...]

    @property
    def palette(self) -> np.ndarray:
        """Colours of the labels, uint8 RGB (256, 3); VOID's is the last."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, sorted."""
        ...

    def records(self, split: str) -> tuple[ImageRecord, ...]:
        """List the images of a split, in a stable order."""
        ...

    def image(self, record: ImageRecord) -> np.ndarray:
        """Decode an image: upright, uint8 RGB (H, W, 3)."""
        ...

    def mask(self, record: ImageRecord) -> np.ndarray:
        """Decode and check an image's labels: 0 … C-1 or VOID, uint8 (H, W)."""
        ...


class FileDataset(ABC):
    """A data set of image and mask files; a layout adds which splits there are and which files they hold.

    Args:
        spec: What to read, and how.
        root: The data set's folder, which exists.
        default_class_names: Names to use when neither the spec nor a `classes.txt` gives any.

    Raises:
        DatasetError: there is no class list, or two that disagree, or one that cannot be.
    """

    def __init__(self, spec: DatasetSpec, root: Path, default_class_names: tuple[str, ...] | None = None) -> None:
        self.spec = spec
        self.root = root
        self.name = root.name
        self.class_names = _class_names(spec, root, default_class_names)
        self._records: dict[str, tuple[ImageRecord, ...]] = {}

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, sorted."""

    @abstractmethod
    def _files(self, split: str) -> list[tuple[str, Path, Path | None]]:
        """List (image id, image path, mask path or None) of an existing split, in order."""

    @abstractmethod
    def expected_mask_path(self, image_id: str) -> Path:
        """Tell where the mask of an image belongs."""

    @cached_property
    def palette(self) -> np.ndarray:
        """Colours of the labels, uint8 RGB (256, 3); VOID's is the last.

        The masks' own palette when they have one that tells the classes apart (read from the first mask that can be read), else
        generated colours.

        Raises:
            DatasetError: a list of the train or val split cannot be read.
        """
        stored = self._stored_palette()
        if stored is not None:
            stored[VOID] = stored[self.spec.void_label]
            shown = stored[: len(self.class_names)]
            if len(np.unique(shown, axis=0)) == len(shown):
                return stored
        return distinct_palette()

    def _stored_palette(self) -> np.ndarray | None:
        splits = [split for split in (self.spec.train_split, self.spec.val_split) if split in self.splits]
        for record in (record for split in splits for record in self.records(split)):
            if record.mask_path is not None:
                # A damaged mask is for `check_dataset` to name; it must not take the colours from all the others.
                with suppress(MaskError):
                    return mask_palette(record.mask_path, max_megapixels=self.spec.max_megapixels)
        return None

    def records(self, split: str) -> tuple[ImageRecord, ...]:
        """List the images of a split, in a stable order, cut to the spec's limit.

        Raises:
            DatasetError: there is no such split, its list cannot be read, it is empty or ambiguous, leads out of the root, or
                an image's name does not give its group.
        """
        if split not in self._records:
            if split not in self.splits:
                raise DatasetError(
                    f"{self.root}: no split {split!r}. Remedy: use one of those found: {', '.join(self.splits) or 'none'}"
                )
            limits = {self.spec.val_split: self.spec.limit_val, self.spec.train_split: self.spec.limit_train}
            files = self._files(split)[: limits.get(split)]
            self._records[split] = tuple(
                ImageRecord(image_id, image, mask, self._group(image_id)) for image_id, image, mask in files
            )
        return self._records[split]

    def image(self, record: ImageRecord) -> np.ndarray:
        """Decode an image.

        Returns:
            The upright image, uint8 RGB (H, W, 3).

        Raises:
            ImageError: the file cannot be used; says why.
        """
        return decode_image(record.image_path, max_megapixels=self.spec.max_megapixels)

    def mask(self, record: ImageRecord) -> np.ndarray:
        """Decode and check the labels of an image.

        Returns:
            Labels 0 … C-1, or VOID, uint8 (H, W), of the upright image's size.

        Raises:
            MaskError: the mask is missing or cannot be used; says why.
            ImageError: the image's header cannot be read.
        """
        if record.mask_path is None:
            raise MaskError(
                self.expected_mask_path(record.image_id),
                f"image {record.image_id!r} has no mask",
                "add the mask, or take the image off the split",
            )
        return decode_mask(
            record.mask_path,
            image_hw=image_hw(record.image_path, max_megapixels=self.spec.max_megapixels),
            classes=len(self.class_names),
            void_label=self.spec.void_label,
            max_megapixels=self.spec.max_megapixels,
        )

    def _group(self, image_id: str) -> str | None:
        if self.spec.group_pattern is None:
            return None
        match = re.search(self.spec.group_pattern, image_id)
        if match is None or match.group(1) is None:
            raise DatasetError(
                f"{self.root}: image {image_id!r} has no group by dataset.group_pattern {self.spec.group_pattern!r}. "
                "Remedy: use a pattern whose first group is found in every image's name"
            )
        return match.group(1)


def _class_names(spec: DatasetSpec, root: Path, default: tuple[str, ...] | None) -> tuple[str, ...]:
    path = root / "classes.txt"
    listed = read_class_names(path) if path.exists() else None
    if spec.class_names is not None and listed is not None and len(listed) != len(spec.class_names):
        raise DatasetError(
            f"dataset.class_names has {len(spec.class_names)} names, {path} has {len(listed)}. "
            "Remedy: name exactly the labels of the masks, and leave one of the two lists out"
        )
    names = spec.class_names or listed or default
    if names is None:
        raise DatasetError(f"{path}: expected a class list, found none. Remedy: write label k's name in line k, from 0")
    if not 2 <= len(names) <= VOID:
        raise DatasetError(f"{root}: expected 2 to {VOID} classes, got {len(names)}. Remedy: correct the class list")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(f"{root}: the class list names {', '.join(twice)} more than once. Remedy: give each its own name")
    return names
