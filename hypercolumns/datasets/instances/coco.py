"""COCO's JSON: instances and person_keypoints, with polygons, run lengths and crowds.

ROOT/annotations/instances_SPLIT.json    the spec's `annotations`; person_keypoints_SPLIT.json has the same form
ROOT/JPEGImages/FILE_NAME                the spec's `image_folder`

Boxes are continuous as they stand; keypoints are numbers of pixels in COCO's own files, and positions here (half a pixel is
added), unless the spec says that they are positions already.

Source: Lin et al., "Microsoft COCO: common objects in context", ECCV 2014; https://cocodataset.org/#format-data.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypercolumns.box_specs import InstancesSpec
from hypercolumns.datasets.decoding import image_hw
from hypercolumns.datasets.instances.base import AnnotatedImage, Instance, InstanceClass, KeypointScheme, LazyMask
from hypercolumns.datasets.instances.files import FileFinder, checked_name
from hypercolumns.datasets.instances.json_files import checked_id, read_json_file, record_lists
from hypercolumns.datasets.instances.records import (
    Ledger,
    checked_box,
    checked_keypoints,
    checked_numbers,
)
from hypercolumns.datasets.instances.run_lengths import PolygonMask, RunMask
from hypercolumns.datasets.instances.sides import mirrored
from hypercolumns.datasets.instances.voc_layout import ReadSplit, wanted_splits
from hypercolumns.errors import DatasetError, ImageError

__all__ = ["COCO_PERSON_SIGMAS", "read_coco"]

COCO_PERSON_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
    *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)
"""Tolerances of COCO's 17 keypoints of a person. Source: https://cocodataset.org/#keypoints-eval, sec. 1.3."""

_COCO_PERSON = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow"),
    *("left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
)
_THREADS = 4


@dataclass(frozen=True)
class _Picture:
    """An image of the file: its record's numbers, and its file."""

    number: int
    key: str
    path: Path
    image_hw: tuple[int, int]


def read_coco(root: Path, spec: InstancesSpec, ledger: Ledger) -> tuple[tuple[InstanceClass, ...], dict[str, ReadSplit]]:
    """Read the splits of a spec.

    Raises:
        DatasetError: a file cannot be read as a whole, names an image, category or annotation twice, or has other classes than
            the first; wrong records are noted in the ledger.
    """
    found = {split: _read_split(root, split, limit, spec, ledger) for split, limit in wanted_splits(spec).items()}
    (first, _), *others = found.values()
    for classes, read in others:
        if classes != first:
            raise DatasetError(
                f"{read.files[0]}: expected the categories and keypoints of {spec.train_split!r}, "
                f"{', '.join(each.name for each in first[:9])}, got {', '.join(each.name for each in classes[:9])}, or others "
                "of the same names. Remedy: write both files with one list"
            )
    return first, {split: read for split, (_, read) in found.items()}


def _read_split(
    root: Path, split: str, limit: int | None, spec: InstancesSpec, ledger: Ledger
) -> tuple[tuple[InstanceClass, ...], ReadSplit]:
    path = root / spec.annotations.replace("{split}", split)
    lists = record_lists(path, read_json_file(path), ("images", "annotations", "categories"))
    for name, records in lists.items():
        _refuse_twins(path, name, records)
    classes = _classes(path, lists["categories"])
    if not lists["images"]:
        raise DatasetError(f"{path}: expected at least one image, got none. Remedy: choose another split")
    finder = FileFinder(root, spec.image_folder.replace("{split}", split))
    chosen = lists["images"][:limit]
    known = ledger.images[split] = {record["id"] for record in lists["images"]}
    pictures = {
        picture.number: picture for picture in _pictures(path, chosen, finder, ledger, max_megapixels=spec.max_megapixels)
    }
    found: dict[int, list[Instance]] = {number: [] for number in pictures}
    reader = _AnnotationReader(path, classes, spec)
    for place, record in enumerate(lists["annotations"]):
        with ledger.record(path, f"annotation {record.get('id', f'number {place + 1} of the list')}"):
            number = checked_id(record, "image_id")
            if number not in known:
                raise DatasetError(f"image_id: expected an image of the file, got {number}")
            if number in pictures:
                found[number].append(reader.read(record, pictures[number].image_hw))
    images = [
        AnnotatedImage(each.key, each.path, each.image_hw, tuple(found[number]), number) for number, each in pictures.items()
    ]
    return classes, ReadSplit(tuple(images), (path,))


def _refuse_twins(path: Path, name: str, records: Sequence[dict[str, Any]]) -> None:
    seen: set[int] = set()
    for place, record in enumerate(records):
        try:
            number = checked_id(record, "id")
        except DatasetError as error:
            raise DatasetError(f"{path}: {name}: number {place + 1} of the list: {error}") from error
        if number in seen:
            raise DatasetError(f"{path}: {name}: the id {number} occurs twice. Remedy: give each record its own")
        seen.add(number)


def _classes(path: Path, records: Sequence[dict[str, Any]]) -> tuple[InstanceClass, ...]:
    classes: list[InstanceClass] = []
    for record in records:
        name, keypoints = record.get("name"), record.get("keypoints", [])
        if not isinstance(name, str) or not name or name in {each.name for each in classes}:
            raise DatasetError(f"{path}: category {record['id']}: expected a name of its own, got {str(name)[:60]!r}")
        if not isinstance(keypoints, list) or not all(isinstance(each, str) for each in keypoints):
            raise DatasetError(
                f"{path}: category {record['id']}: keypoints: expected a list of names, got {str(keypoints)[:60]}"
            )
        scheme = _scheme(path, record, tuple(keypoints)) if keypoints else None
        classes.append(InstanceClass(name, record["id"], scheme))
    if not classes:
        raise DatasetError(f"{path}: expected at least one category, got none. Remedy: complete the file")
    return tuple(classes)


def _scheme(path: Path, record: dict[str, Any], names: tuple[str, ...]) -> KeypointScheme:
    skeleton = record.get("skeleton", [])
    numbers = range(1, len(names) + 1)
    pairs = isinstance(skeleton, list) and all(isinstance(bone, list) and len(bone) == 2 for bone in skeleton)
    if len(set(names)) != len(names) or not pairs or not all(end in numbers for bone in skeleton for end in bone):
        raise DatasetError(
            f"{path}: category {record['id']}: expected distinct keypoints and a skeleton of pairs of 1 to {len(names)}, "
            "got others"
        )
    sigmas = COCO_PERSON_SIGMAS if names == _COCO_PERSON else None
    return KeypointScheme(names, mirrored(names), sigmas, tuple((int(a) - 1, int(b) - 1) for a, b in skeleton))


def _pictures(
    path: Path, records: Sequence[dict[str, Any]], finder: FileFinder, ledger: Ledger, *, max_megapixels: float
) -> list[_Picture]:
    located: list[tuple[dict[str, Any], Path]] = []
    for record in records:
        with ledger.record(path, f"image {record['id']}"):
            name = record.get("file_name")
            if not isinstance(name, str):
                raise DatasetError(f"file_name: expected the file's name, got {str(name)[:60]}")
            located.append((record, finder.require(str(PurePosixPath(checked_name(name)).with_suffix("")), name)))
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = list(pool.map(lambda pair: _size(pair[1], max_megapixels), located))
    pictures: list[_Picture] = []
    keys: set[str] = set()
    for (record, file), size in zip(located, sizes, strict=True):
        with ledger.record(path, f"image {record['id']}"):
            if isinstance(size, ImageError):
                raise size
            said = (record.get("height"), record.get("width"))
            if said != size:
                raise DatasetError(f"expected height and width as {file} has them, {size}, got {said}")
            key = str(PurePosixPath(record["file_name"]).with_suffix(""))
            if key in keys:
                raise DatasetError(f"file_name: expected a file of its own, got {record['file_name']} again")
            keys.add(key)
            pictures.append(_Picture(record["id"], key, file, size))
    return pictures


def _size(path: Path, max_megapixels: float) -> tuple[int, int] | ImageError:
    try:
        return image_hw(path, max_megapixels=max_megapixels)
    except ImageError as error:
        return error


class _AnnotationReader:
    """Reads annotations of one file."""

    def __init__(self, path: Path, classes: Sequence[InstanceClass], spec: InstancesSpec) -> None:
        self.path = path
        self.classes = classes
        self.spec = spec
        self.places = {each.category_id: place for place, each in enumerate(classes)}

    def read(self, record: dict[str, Any], size_hw: tuple[int, int]) -> Instance:
        """Read one annotation.

        Raises:
            DatasetError: something about it is wrong.
        """
        category = checked_id(record, "category_id")
        if category not in self.places:
            raise DatasetError(f"category_id: expected one of the file's {len(self.places)} categories, got {category}")
        place = self.places[category]
        corner_size = checked_numbers(record.get("bbox"), 4, "bbox")
        box = checked_box(np.concatenate([corner_size[:2], corner_size[:2] + corner_size[2:]]), size_hw)
        crowd = record.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise DatasetError(f"iscrowd: expected 0 or 1, got {str(crowd)[:60]}")
        area = float(checked_numbers([record.get("area", corner_size[2] * corner_size[3])], 1, "area")[0])
        return Instance(
            identifier=str(record["id"]),
            class_index=place,
            box_xyxy=box,
            mask=self._mask(record, size_hw),
            keypoints_xyv=self._keypoints(record, place, box, size_hw),
            crowd=bool(crowd),
            area=area,
        )

    def _mask(self, record: dict[str, Any], size_hw: tuple[int, int]) -> LazyMask | None:
        segmentation = record.get("segmentation")
        name = f"annotation {record['id']}"
        if isinstance(segmentation, dict):
            return RunMask.read(self.path, name, segmentation, size_hw)
        if isinstance(segmentation, list):
            return PolygonMask.read(self.path, name, segmentation, size_hw)
        if segmentation is None:
            return None
        raise DatasetError(f"segmentation: expected polygons or run lengths, got {str(segmentation)[:60]}")

    def _keypoints(
        self, record: dict[str, Any], place: int, box: NDArray[np.float64], size_hw: tuple[int, int]
    ) -> NDArray[np.float64] | None:
        values = record.get("keypoints")
        scheme = self.classes[place].keypoints
        if values is None:
            return None
        if scheme is None:
            raise DatasetError(f"keypoints: expected none, since category {self.classes[place].name!r} names none")
        count = 3 * len(scheme.names)
        return checked_keypoints(checked_numbers(values, count, "keypoints").reshape(-1, 3), scheme, box, size_hw, self.spec)
