"""The PASCAL VOC 2011/2012 layout on disk, also of sets that only borrow it (SBD, generated figures, one's own).

    JPEGImages/NAME.jpg                    any known image suffix
    SegmentationClass/NAME.png             labels; 255 is void unless the spec says otherwise
    SegmentationClassAug/NAME.png          where the extra masks of SBD are commonly put: read for names the folder above lacks
    SegmentationObject/NAME.png            instances; not read here
    ImageSets/Segmentation/SPLIT.txt       one NAME a line; a NAME may hold folders, a/b
    classes.txt                            optional class list; by default VOC's 21

Source: Everingham et al., "The PASCAL Visual Object Classes Challenge 2012: development kit"; Hariharan et al., "Semantic
contours from inverse detectors", ICCV 2011 (SBD).
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path, PurePosixPath

from hypercolumns.datasets.base import FileDataset
from hypercolumns.datasets.listing import IMAGE_SUFFIXES, MASK_SUFFIXES, FolderIndex, index_folder, read_list
from hypercolumns.errors import DatasetError
from hypercolumns.specs import DatasetSpec

__all__ = ["VOC_CLASS_NAMES", "VocDataset"]

VOC_CLASS_NAMES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

_IMAGES = "JPEGImages"
_MASKS = ("SegmentationClass", "SegmentationClassAug")
_LISTS = "ImageSets/Segmentation"


class VocDataset(FileDataset):
    """Images and masks in the PASCAL VOC layout.

    Args:
        spec: What to read, and how.
        root: The folder that holds JPEGImages and ImageSets.

    Raises:
        DatasetError: a folder of the layout is missing, or the class list cannot be used.
    """

    def __init__(self, spec: DatasetSpec, root: Path) -> None:
        for folder in (root / _IMAGES, root / _LISTS):
            if not folder.is_dir():
                raise DatasetError(f"{folder}: expected this folder of the VOC layout, found none. Remedy: check dataset.root")
        super().__init__(spec, root, VOC_CLASS_NAMES)

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Names of the lists in ImageSets/Segmentation, sorted."""
        return tuple(sorted(path.stem for path in (self.root / _LISTS).glob("*.txt") if path.is_file()))

    def expected_mask_path(self, image_id: str) -> Path:
        """Tell where the mask of an image belongs."""
        return self.root / _MASKS[0] / f"{image_id}.png"

    def _files(self, split: str) -> list[tuple[str, Path, Path | None]]:
        indices: dict[Path, FolderIndex] = {}
        return [
            (
                name,
                self._find(name, (_IMAGES,), IMAGE_SUFFIXES, indices) or self.root / _IMAGES / f"{name}.jpg",
                self._find(name, _MASKS, MASK_SUFFIXES, indices),
            )
            for name in read_list(self.root / _LISTS / f"{split}.txt")
        ]

    def _find(
        self, name: str, folders: tuple[str, ...], suffixes: frozenset[str], indices: dict[Path, FolderIndex]
    ) -> Path | None:
        inner = PurePosixPath(name)
        for top in folders:
            folder = self.root / top / inner.parent
            if folder not in indices:
                if not os.path.isdir(folder):  # noqa: PTH112 - pathlib's raises for a name that is too long
                    continue
                indices[folder] = index_folder(self.root, folder, suffixes)
            found = indices[folder].find(inner.name)
            if found is not None:
                return found
        return None
