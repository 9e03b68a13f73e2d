"""Predict: masks, keypoints or parts in given boxes of images, with the head of a run; nothing is stored but the results."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from hypercolumns.backbones import build_backbone
from hypercolumns.datasets.decoding import decode_image, image_sha256
from hypercolumns.datasets.palettes import voc_palette
from hypercolumns.reporting.box_pictures import draw_mask, draw_parts, draw_pose
from hypercolumns.sources import BackboneSource
from storage.publish import replace_bytes
from tasks.boxes.box_files import read_boxes
from tasks.boxes.crops import crop_entry
from tasks.boxes.heads import BoxCard, load_head
from tasks.boxes.manifests import BoxEntry, DetectionEntry
from tasks.boxes.maps import BoxMaps
from tasks.boxes.predictions import BoxPrediction, HeadPredictor
from tasks.boxes.results import result_records
from tasks.manifests import Entry, Manifest
from tasks.predict import output_names, refuse_to_replace

__all__ = ["BoxesPredicted", "predict_boxes"]

_SUFFIXES = (".objects.png", ".classes.png", ".parts.png", ".overlay.jpg")


class BoxesPredicted(BaseModel):
    """What was predicted, and where it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path
    task: str
    results: Path
    pictures: tuple[Path, ...]
    boxes: int
    seconds_per_box: float | None


def predict_boxes(model_path: Path, images: Sequence[Path], boxes: Path, out: Path) -> BoxesPredicted:
    """Predict in boxes, and write COCO results and pictures.

    Args:
        model_path: The head's folder.
        images: The images.
        boxes: COCO results JSON of their boxes.
        out: Folder for `results.json`, for `NAME.objects.png`, `NAME.classes.png` and `NAME.parts.png` (palette PNGs, where the
            task has them) and `NAME.overlay.jpg`.

    Raises:
        ImageError: an image cannot be read.
        DatasetError: a box is not what it should be, or a result would replace an image; nothing is written then.
    """
    model, rescorer, card = load_head(model_path)
    names = output_names(images)
    refuse_to_replace(images, names, out, _SUFFIXES)
    pixels = {path: decode_image(path) for path in images}
    found = read_boxes(boxes, {path: (image.shape[0], image.shape[1]) for path, image in pixels.items()}, card.classes)
    spec = card.spec
    backbone = build_backbone(spec.backbone, spec.store.canvas.size_hw, precision=spec.store.precision)
    entries = [_entry(number, path, names[number], pixels[path], found[path]) for number, path in enumerate(images)]
    seen = [entry.image for entry in entries]
    if spec.maps == "crop":
        seen = [crop_entry(entry, box.box_xyxy, spec) for entry in entries for box in entry.detections]

    def load(index: int) -> NDArray[np.uint8]:
        return Manifest.fitted(pixels[seen[index].image_path], seen[index], spec.store.canvas, spec.backbone.mean_rgb)

    source = BackboneSource(backbone, load, [layer.name for layer in card.layers])
    predictor = HeadPredictor(model, card.blocks, BoxMaps.of(source, spec, seen), spec, rescorer)
    records, pictures, seconds, count = [], [], 0.0, 0
    for number, entry in enumerate(tqdm(entries, unit="img", desc="predict", disable=None)):
        path, image = entry.image.image_path, pixels[entry.image.image_path]
        start = time.perf_counter()
        predictions = predictor(number, entry, entry.detections, lambda own=image: own)  # type: ignore[misc]
        seconds += time.perf_counter() - start
        count += len(entry.detections)
        records += [{**record, "image_id": path.name} for record in result_records(entry, card.classes, predictions)]
        pictures += _write_pictures(out, names[number], image, predictions, card)
    results = out / "results.json"
    replace_bytes(results, json.dumps(records, separators=(",", ":"), allow_nan=False).encode())
    return BoxesPredicted(
        model=model_path,
        task=spec.task,
        results=results,
        pictures=tuple(pictures),
        boxes=count,
        seconds_per_box=seconds / count if count else None,
    )


def _entry(number: int, path: Path, name: str, image: NDArray[np.uint8], boxes: tuple[DetectionEntry, ...]) -> BoxEntry:
    hw = (image.shape[0], image.shape[1])
    own = Entry(image_id=name, image_path=path, image_sha256=image_sha256(path), image_hw=hw)
    return BoxEntry(image=own, number=number, instances=(), detections=boxes)


def _write_pictures(
    out: Path, name: str, image: NDArray[np.uint8], predictions: Sequence[BoxPrediction], card: BoxCard
) -> list[Path]:
    """Write the pictures of one image; where objects overlap the best one is on top."""
    hw, overlay = (image.shape[0], image.shape[1]), image
    objects, classes, parts = (np.zeros(hw, np.uint8) for _ in range(3))
    task = card.spec.task
    for number, each in sorted(enumerate(predictions, start=1), key=lambda pair: pair[1].score):
        if task == "keypoints":
            points = np.array(each.points_xys)[:, :2]
            overlay = draw_pose(overlay, points, np.ones(len(points), np.bool_), card.classes[each.label].skeleton)
            continue
        mask = each.mask_array(hw)
        # A palette has 254 colours beside background and void.
        objects[mask], classes[mask] = (number - 1) % 254 + 1, (each.label % 254) + 1
        own = each.part_map(hw)
        parts[mask] = own[mask]
        overlay = draw_mask(overlay, mask) if task == "segment" else draw_parts(overlay, own)
    written = [_save(out / f"{name}.overlay.jpg", Image.fromarray(overlay), "JPEG")]
    if task != "keypoints":
        written += [
            _save_labels(out / f"{name}.{kind}.png", labels) for kind, labels in (("objects", objects), ("classes", classes))
        ]
    if task == "parts":
        written.append(_save_labels(out / f"{name}.parts.png", parts))
    return written


def _save_labels(path: Path, labels: NDArray[np.uint8]) -> Path:
    picture = Image.fromarray(labels)
    picture.putpalette(voc_palette().tobytes())
    return _save(path, picture, "PNG")


def _save(path: Path, picture: Image.Image, kind: str) -> Path:
    buffer = BytesIO()
    picture.save(buffer, kind)
    replace_bytes(path, buffer.getvalue())
    return path
