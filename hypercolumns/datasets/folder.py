"""The plain layout: a folder of images and a folder of masks a split, paired by name.

images/SPLIT/NAME.jpg    any known image suffix
masks/SPLIT/NAME.png     labels
classes.txt              name of label k in line k, from 0 (or the spec's class_names)
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from hypercolumns.datasets.base import FileDataset
from hypercolumns.datasets.listing import IMAGE_SUFFIXES, MASK_SUFFIXES, index_folder, subfolders
from hypercolumns.errors import DatasetError
from hypercolumns.specs import DatasetSpec

__all__ = ["FolderDataset"]


class FolderDataset(FileDataset):
    """Images in images/SPLIT with masks of the same name in masks/SPLIT.

    Args:
        spec: What to read, and how.
        root: The folder that holds images and masks.

    Raises:
        DatasetError: there is no images folder, or the class list is missing or cannot be used.
    """

    def __init__(self, spec: DatasetSpec, root: Path) -> None:
        if not (root / "images").is_dir():
            raise DatasetError(f"{root / 'images'}: expected a folder with a folder a split. Remedy: check dataset.root")
        super().__init__(spec, root)

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Names of the folders in images/, sorted."""
        return subfolders(self.root / "images")

    def expected_mask_path(self, image_id: str) -> Path:
        """Tell where the mask of an image belongs."""
        return self.root / "masks" / f"{image_id}.png"

    def _files(self, split: str) -> list[tuple[str, Path, Path | None]]:
        images = index_folder(self.root, self.root / "images" / split, IMAGE_SUFFIXES)
        mask_folder = self.root / "masks" / split
        masks = index_folder(self.root, mask_folder, MASK_SUFFIXES) if mask_folder.is_dir() else None
        files = images.files()
        if not files:
            raise DatasetError(f"{images.folder}: expected images ({', '.join(sorted(IMAGE_SUFFIXES))}), found none")
        return [(f"{split}/{stem}", image, None if masks is None else masks.find(stem)) for stem, image in files]
