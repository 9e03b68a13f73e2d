"""The manifest: the images of an experiment as they are on disk today, by content; every later key is made from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hypercolumns.canvas import fit_image, fit_mask
from hypercolumns.crops import warp_box
from hypercolumns.datasets.decoding import decode_image
from hypercolumns.datasets.masks import VOID, decode_mask
from hypercolumns.errors import MaskError
from hypercolumns.geometry import place
from hypercolumns.sources import Item
from hypercolumns.specs import CanvasSpec, ExperimentSpec
from storage.canonical import digest, read_json
from tasks.crops import Crop
from tasks.jobs import Message

__all__ = ["Entry", "Manifest", "RejectedFile", "load_manifest", "row_key", "row_keys"]


class Entry(Message):
    """One image, or a crop of one: where it is, what its and its mask's bytes are, and how many pixels of each class it has."""

    image_id: str
    image_path: Path
    image_sha256: str
    image_hw: tuple[int, int]
    mask_path: Path | None = None
    mask_sha256: str | None = None
    class_pixels: tuple[int, ...] = ()
    group: str | None = None
    crop: Crop | None = None


class RejectedFile(Message):
    """A file that was left out, and why."""

    split: str
    image_id: str
    path: Path
    reason: str
    remedy: str


class Manifest(Message):
    """All splits of an experiment."""

    dataset: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    void_label: int
    max_megapixels: float
    splits: dict[str, tuple[Entry, ...]]
    rejected: tuple[RejectedFile, ...] = ()

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def palette_array(self) -> NDArray[np.uint8]:
        """Colours (256, 3)."""
        return np.array(self.palette, np.uint8)

    def content_key(self, split: str, *, labels: bool) -> str:
        """Digest a split by content: its images in order, and what was labelled on them."""
        entries = [[e.image_sha256, e.mask_sha256 if labels else None] for e in self.splits[split]]
        return digest([entries, list(self.class_names) if labels else None, self.void_label if labels else None])

    def histograms(self, split: str, spec: ExperimentSpec) -> NDArray[np.int64]:
        """Return labelled pixels per image and class (n, classes), counted as the experiment's protocol counts them."""
        entries = self.splits[split]
        if spec.evaluate.protocol == "strict":
            return np.array([entry.class_pixels for entry in entries], np.int64).reshape(-1, self.classes)
        labels = (self.canvas_mask(entry, spec).reshape(-1) for entry in entries)
        return np.stack([np.bincount(found, minlength=VOID + 1)[: self.classes] for found in labels]).astype(np.int64)

    def groups(self, split: str) -> list[str | None]:
        """Return each image's group: with the images' bytes it decides which of them are held out."""
        return [entry.group for entry in self.splits[split]]

    def image(self, entry: Entry) -> NDArray[np.uint8]:
        """Decode an image (H, W, 3).

        Raises:
            ImageError: it cannot be read, or has other bytes than when the manifest was written: nothing that is named by the
                old ones may be made from it.
        """
        return decode_image(entry.image_path, max_megapixels=self.max_megapixels, sha256=entry.image_sha256)

    def canvas(self, entry: Entry, canvas: CanvasSpec, mean_rgb: tuple[float, float, float]) -> NDArray[np.uint8]:
        """Decode an image and fit it, or the box of it that the entry is, into the canvas."""
        return self.fitted(self.image(entry), entry, canvas, mean_rgb)

    @staticmethod
    def fitted(
        image: NDArray[np.uint8], entry: Entry, canvas: CanvasSpec, mean_rgb: tuple[float, float, float]
    ) -> NDArray[np.uint8]:
        """Fit a decoded image, or the box of it that the entry is, into the canvas."""
        if entry.crop is None:
            return fit_image(image, canvas, fill_rgb=mean_rgb)[0]
        return warp_box(image, entry.crop.expanded, canvas.size_hw, fill_rgb=mean_rgb)

    def mask(self, entry: Entry) -> NDArray[np.uint8]:
        """Decode an image's labels at their own size, 255 for void.

        Raises:
            MaskError: the image has no mask, or an unreadable one, or one that changed after the manifest was written.
        """
        if entry.mask_path is None:
            raise MaskError(entry.image_path, "has no label mask", "label it, or leave it out of this split")
        return decode_mask(
            entry.mask_path,
            image_hw=entry.image_hw,
            classes=self.classes,
            void_label=self.void_label,
            max_megapixels=self.max_megapixels,
            sha256=entry.mask_sha256,
        )

    def canvas_mask(self, entry: Entry, spec: ExperimentSpec) -> NDArray[np.uint8]:
        """Decode an image's labels and fit them into the canvas; padding is void.

        Under the notebook protocol void is background, as in the study it reproduces.
        """
        labels = fit_mask(self.mask(entry), place(entry.image_hw, spec.store.canvas))
        if spec.evaluate.protocol == "notebook":
            labels[labels == VOID] = 0
        return labels


def row_key(entry: Entry, view: str) -> str:
    """Name the row of an image's view in every store: its bytes' sha256 and the view; a crop is a view, too."""
    return f"{entry.image_sha256}:{view if entry.crop is None else entry.crop.view(view)}"


def row_keys(entries: tuple[Entry, ...], items: list[Item]) -> list[str]:
    """Name the rows of items, whose numbers count in `entries`."""
    return [row_key(entries[index], view) for index, view in items]


def load_manifest(path: Path) -> Manifest:
    """Read a manifest that `tasks.prepare` wrote."""
    return Manifest.model_validate(read_json(path))
