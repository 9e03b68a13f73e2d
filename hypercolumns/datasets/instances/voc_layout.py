"""What all annotations of PASCAL VOC's images share: lists of names, image files with their sizes, class names."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hypercolumns.box_specs import InstancesSpec
from hypercolumns.datasets.decoding import image_hw
from hypercolumns.datasets.instances.base import AnnotatedImage, Instance
from hypercolumns.datasets.instances.files import FileFinder
from hypercolumns.datasets.instances.records import Ledger
from hypercolumns.datasets.listing import read_class_names, read_list, resolve_root
from hypercolumns.datasets.voc import VOC_CLASS_NAMES
from hypercolumns.errors import DatasetError, ImageError

__all__ = ["ReadSplit", "VocImage", "VocLayout", "wanted_splits"]

_THREADS = 4


@dataclass(frozen=True, eq=False)
class ReadSplit:
    """One split as a reader found it.

    Attributes:
        images: The images with all their instances.
        files: The files their labels were, or will be, read from.
    """

    images: tuple[AnnotatedImage, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class VocImage:
    """An image of a list.

    Attributes:
        name: Its name in the list.
        path: The image file.
        image_hw: Its size.
        number: Its place in the list, from 1.
    """

    name: str
    path: Path
    image_hw: tuple[int, int]
    number: int

    def with_instances(self, instances: list[Instance]) -> AnnotatedImage:
        """Return it with its instances."""
        return AnnotatedImage(self.name, self.path, self.image_hw, tuple(instances), self.number)


def wanted_splits(spec: InstancesSpec) -> dict[str, int | None]:
    """Return the splits to read, train first, each with its limit of images."""
    limits = {spec.train_split: spec.limit_train}
    return limits if spec.val_split in limits else {**limits, spec.val_split: spec.limit_val}


class VocLayout:
    """The folders of VOC's images and of annotations of them.

    Args:
        root: The folder of the images and lists.
        spec: Names the folders.

    Raises:
        DatasetError: a folder is missing, or the class list cannot be used.
    """

    def __init__(self, root: Path, spec: InstancesSpec) -> None:
        self.root = root
        self.spec = spec
        self.annotation_root = root if spec.annotation_root is None else resolve_root(spec.annotation_root)
        listed = root / "classes.txt"
        names = read_class_names(listed) if listed.exists() else VOC_CLASS_NAMES
        # Class masks count from the background, which is no class of objects.
        self.class_names = names[1:]

    def images(self, split: str, limit: int | None, ledger: Ledger) -> Iterator[VocImage]:
        """Find the images of a split, and read their sizes.

        Raises:
            DatasetError: there is no such list, or it cannot be read.
        """
        path = self._list(split)
        names = read_list(path)
        ledger.images[split] = set(range(1, len(names) + 1))
        finder = FileFinder(self.root, self.spec.image_folder.replace("{split}", split))
        located: list[tuple[int, str, Path]] = []
        for number, name in enumerate(names[:limit], start=1):
            with ledger.record(path, f"image {name}"):
                located.append((number, name, finder.require(name)))
        with ThreadPoolExecutor(_THREADS) as pool:
            sizes = list(pool.map(lambda line: self._size(line[2]), located))
        for (number, name, file), size in zip(located, sizes, strict=True):
            with ledger.record(path, f"image {name}"):
                if isinstance(size, ImageError):
                    raise size
                yield VocImage(name, file, size, number)

    def place(self, class_name: str) -> int:
        """Return a class's place.

        Raises:
            DatasetError: it is none of the classes.
        """
        if class_name not in self.class_names:
            raise DatasetError(f"class: expected one of {', '.join(self.class_names[:5])} ..., got {class_name[:60]!r}")
        return self.class_names.index(class_name)

    def _size(self, path: Path) -> tuple[int, int] | ImageError:
        try:
            return image_hw(path, max_megapixels=self.spec.max_megapixels)
        except ImageError as error:
            return error

    def _list(self, split: str) -> Path:
        places = [
            self.root / "ImageSets" / "Segmentation" / f"{split}.txt",
            self.root / "ImageSets" / "Main" / f"{split}.txt",
            self.annotation_root / f"{split}.txt",
        ]
        if self.annotation_root != self.root:
            places = [places[2], *places[:2]]
        for place in places:
            if place.is_file():
                return place
        raise DatasetError(
            f"{self.root}: expected a list of split {split!r}, found none of {', '.join(map(str, places))}. "
            "Remedy: check root and the split's name"
        )
