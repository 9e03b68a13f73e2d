"""Writing a set of scenes as standard files: VOC folders and lists, COCO annotations, part, layout and depth masks.

The set is made in a folder beside its target, described by a manifest of digests and moved into place whole. The same
arguments give the same bytes with one version of Pillow, and of the JPEG and zlib libraries it is built with.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hypercolumns.datasets.palettes import VOID_LABEL, voc_palette
from hypercolumns.datasets.shapes import coco
from hypercolumns.datasets.shapes.crowds import render_crowd
from hypercolumns.datasets.shapes.figures import FIGURE_CLASSES, FigureClass, class_names, part_ids
from hypercolumns.datasets.shapes.manifest import GENERATOR_VERSION, Manifest, settle
from hypercolumns.datasets.shapes.readme import describe
from hypercolumns.datasets.shapes.scene import DEPTH_PER_METRE, LAYOUT_NAMES, Scene, check_size, render_scene
from hypercolumns.datasets.shapes.twins import TWIN_CLASSES
from hypercolumns.errors import SpecError

__all__ = ["ShapesSummary", "write_shapes"]

ByteArray = npt.NDArray[np.uint8]

_Render = Callable[[int, int, tuple[int, int]], Scene]
_STAGES: dict[str, tuple[_Render, tuple[FigureClass, ...]]] = {
    "varied": (render_scene, FIGURE_CLASSES),
    "crowded": (render_crowd, TWIN_CLASSES),
}


@dataclass(frozen=True)
class ShapesSummary:
    """What a folder of shapes holds.

    Args:
        root: The folder.
        train_ids, val_ids: Image ids of the two splits.
        digest: SHA-256 over the digests of all its files.
        created: False when the folder held this very set already.
    """

    root: Path
    train_ids: tuple[str, ...]
    val_ids: tuple[str, ...]
    digest: str
    created: bool


def write_shapes(
    root: Path,
    *,
    images: int,
    size: int | tuple[int, int],
    seed: int,
    val_fraction: float = 0.25,
    scenery: str = "varied",
    on_image: Callable[[int], None] | None = None,
) -> ShapesSummary:
    """Write a set of scenes, or find that it is there already.

    Args:
        root: The folder to make. One that holds this very set is left alone.
        images: How many, 2 or more. A larger set of the same seed and size begins with the images of a smaller one, and
            they keep their splits.
        size: Side of a square in pixels, or height and width, 64 to 512.
        seed: 0 or more.
        val_fraction: The share of images for validation, between 0 and 1; every split gets at least one.
        scenery: varied are the scenes of `render_scene`, crowded those of `render_crowd`.
        on_image: Called with the number of images done after each one.

    Raises:
        SpecError: An argument is out of range.
        DatasetError: The folder holds something else, or the set with files changed or missing.
    """
    root, image_hw = Path(root), (size, size) if isinstance(size, int) else size
    arguments = _checked(images, image_hw, seed, val_fraction, scenery)
    train_ids, val_ids = _split(images, val_fraction)
    found = settle(root, arguments)
    if found is None:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.", suffix=".partial") as staging:
            # One folder deeper, because the staging folder itself is readable by its owner alone.
            partial = Path(staging) / root.name
            _write_all(partial, arguments, (train_ids, val_ids), on_image)
            manifest = Manifest.of(partial, arguments)
            created = manifest.publish(partial, root)
        return ShapesSummary(root, train_ids, val_ids, manifest.digest, created=created)
    return ShapesSummary(root, train_ids, val_ids, found.digest, created=False)


def _checked(images: int, image_hw: tuple[int, int], seed: int, val_fraction: float, scenery: str) -> dict[str, Any]:
    """Refuse arguments out of range, and give them back as the manifest's record of them."""
    check_size(image_hw)
    if images < 2:
        raise SpecError(f"images: expected 2 or more (one to train, one to validate), received {images}")
    if seed < 0:
        raise SpecError(f"seed: expected a whole number of 0 or more, received {seed}")
    if not 0 < val_fraction < 1:
        raise SpecError(f"val_fraction: expected a number between 0 and 1, both excluded, received {val_fraction}")
    if scenery not in _STAGES:
        raise SpecError(f"scenery: expected {' or '.join(_STAGES)}, received {scenery!r}")
    arguments = {"images": images, "size_hw": list(image_hw), "seed": seed, "val_fraction": float(val_fraction)}
    # Varied scenes came first: their manifests say nothing of it.
    return arguments if scenery == "varied" else {**arguments, "scenery": scenery}


def _split(images: int, val_fraction: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Deal images out to the splits evenly and in order, so that more images change nobody's split."""
    is_val = [int((index + 1) * val_fraction) > int(index * val_fraction) for index in range(images)]
    if not any(is_val):
        is_val[-1] = True
    train = tuple(_image_id(index) for index in range(images) if not is_val[index])
    return train, tuple(_image_id(index) for index in range(images) if is_val[index])


def _image_id(index: int) -> str:
    return f"{index:06d}"


def _write_all(
    folder: Path,
    arguments: dict[str, Any],
    splits: tuple[tuple[str, ...], tuple[str, ...]],
    on_image: Callable[[int], None] | None,
) -> None:
    train_ids, val_ids = splits
    render, table = _STAGES[arguments.get("scenery", "varied")]
    records: dict[str, list[tuple[dict[str, Any], list[dict[str, Any]]]]] = {"train": [], "val": []}
    height, width = arguments["size_hw"]
    members = frozenset(val_ids)
    for index in range(arguments["images"]):
        image_id = _image_id(index)
        scene = render(arguments["seed"], index, (height, width))
        _write_scene(folder, image_id, scene)
        split = "val" if image_id in members else "train"
        records[split].append((coco.image_record(index, f"{image_id}.jpg", scene), coco.annotation_records(index, scene)))
        if on_image is not None:
            on_image(index + 1)
    for split, rows in records.items():
        whole = {
            "info": {"description": "Hypercolumns shapes", "version": GENERATOR_VERSION},
            "images": [image for image, _ in rows],
            "annotations": [annotation for _, annotations in rows for annotation in annotations],
            "categories": coco.categories(table),
        }
        _write_text(folder / "annotations" / f"instances_{split}.json", json.dumps(whole, separators=(",", ":")) + "\n")
    _write_lists(folder, arguments, table, (train_ids, val_ids))


def _write_lists(
    folder: Path,
    arguments: dict[str, Any],
    table: tuple[FigureClass, ...],
    splits: tuple[tuple[str, ...], tuple[str, ...]],
) -> None:
    train_ids, val_ids = splits
    lists = {"train": train_ids, "val": val_ids, "trainval": tuple(sorted((*train_ids, *val_ids)))}
    for name, ids in lists.items():
        _write_text(folder / "ImageSets" / "Segmentation" / f"{name}.txt", "".join(f"{image_id}\n" for image_id in ids))
    _write_text(folder / "classes.txt", "".join(f"{name}\n" for name in class_names(table)))
    parts = {
        "parts": list(part_ids(table)),
        "parts_of_class": {figure.name: list(figure.parts) for figure in table},
        "layout": list(LAYOUT_NAMES),
        "depth_per_metre": DEPTH_PER_METRE,
    }
    _write_text(folder / "parts.json", json.dumps(parts, indent=1) + "\n")
    _write_text(folder / "README.md", describe(GENERATOR_VERSION, arguments, class_names(table)[1:]))


def _write_scene(folder: Path, image_id: str, scene: Scene) -> None:
    photograph = _made(folder / "JPEGImages" / f"{image_id}.jpg")
    Image.fromarray(scene.image).save(photograph, quality=95, subsampling=0)
    masks = {
        "SegmentationClass": _with_band(scene.class_mask, scene),
        "SegmentationObject": _with_band(scene.object_mask, scene),
        "SegmentationPart": scene.part_mask,
        "Layout": scene.layout_mask,
    }
    for name, labels in masks.items():
        mask = Image.fromarray(labels)
        mask.putpalette(voc_palette().tobytes())
        mask.save(_made(folder / name / f"{image_id}.png"))
    Image.fromarray(scene.depth).save(_made(folder / "Depth" / f"{image_id}.png"))


def _with_band(labels: ByteArray, scene: Scene) -> ByteArray:
    return np.where(scene.void_mask, np.uint8(VOID_LABEL), labels)


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_text(path: Path, text: str) -> None:
    _made(path).write_text(text, encoding="utf-8", newline="\n")
