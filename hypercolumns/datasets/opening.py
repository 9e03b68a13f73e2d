"""From a spec to a data set, and from a data set to what a DataLoader takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from hypercolumns.canvas import IMAGENET_MEAN_RGB, fit_image, fit_mask
from hypercolumns.datasets.base import VOID, Dataset, ImageRecord
from hypercolumns.datasets.folder import FolderDataset
from hypercolumns.datasets.listing import resolve_root
from hypercolumns.datasets.voc import VocDataset
from hypercolumns.errors import DatasetError
from hypercolumns.specs import CanvasSpec, DatasetSpec

__all__ = ["TorchSegmentation", "open_dataset"]


def open_dataset(spec: DatasetSpec, *, shapes_root: Path | None = None) -> Dataset:
    """Open the data set a spec describes; lists and pixels are read when they are asked for.

    Args:
        spec: The spec.
        shapes_root: Where the generated set was written, for kind ``shapes``.

    Raises:
        DatasetError: the folder, its layout or its class list is missing or cannot be used.
    """
    place = shapes_root if spec.kind == "shapes" else spec.root
    if place is None:
        raise DatasetError(
            f"kind {spec.kind}: expected the data set's folder, got none. "
            "Remedy: give shapes_root, where the set was generated, for shapes, and dataset.root for other kinds"
        )
    root = resolve_root(place)
    return FolderDataset(spec, root) if spec.kind == "folder" else VocDataset(spec, root)


class TorchSegmentation(TorchDataset[tuple[Tensor, Tensor, int]]):
    """One split for a `torch.utils.data.DataLoader`, with any number of workers: (image, labels, index).

    Images are uint8 (3, H, W), labels int64 (H, W) with VOID where nothing is labelled (everywhere, for an image without a
    mask). With a canvas all items have its size and batches can be made; without one they have their own.

    Args:
        spec: The data set.
        split: The split.
        canvas: The frame images and masks are fitted into.
        shapes_root: As for `open_dataset`.
        fill_rgb: Colour of the padding, in [0, 1].

    Raises:
        DatasetError: as `open_dataset`.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        split: str,
        *,
        canvas: CanvasSpec | None = None,
        shapes_root: Path | None = None,
        fill_rgb: tuple[float, float, float] = IMAGENET_MEAN_RGB,
    ) -> None:
        self.dataset = open_dataset(spec, shapes_root=shapes_root)
        self.split = split
        self.canvas = canvas
        self.fill_rgb = fill_rgb

    @property
    def records(self) -> tuple[ImageRecord, ...]:
        """The images, in the order of the items."""
        return self.dataset.records(self.split)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        record = self.records[index]
        image = self.dataset.image(record)
        labels = np.full(image.shape[:2], VOID, dtype=np.uint8) if record.mask_path is None else self.dataset.mask(record)
        if self.canvas is not None:
            image, placement = fit_image(image, self.canvas, fill_rgb=self.fill_rgb)
            labels = fit_mask(labels, placement)
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(labels).long(), index
