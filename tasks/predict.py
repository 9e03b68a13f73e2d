"""Predict: label images with the model of a run, at the images' own size; nothing is stored but the masks."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Sequence
from glob import glob
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from hypercolumns.arithmetic import fast_precision
from hypercolumns.backbones import build_backbone
from hypercolumns.canvas import fit_image
from hypercolumns.datasets.decoding import decode_image
from hypercolumns.errors import DatasetError, ImageError, SpecError
from hypercolumns.geometry import place
from hypercolumns.heads import PixelConv
from hypercolumns.prediction import segment
from hypercolumns.sources import BackboneSource
from storage.publish import replace_bytes
from storage.runs import list_runs
from storage.workspace import Workspace
from tasks.classifiers import ModelCard, load_classifier, torch_dtype
from tasks.device import compute_device

__all__ = [
    "IMAGE_SUFFIXES",
    "Predicted",
    "Predictor",
    "find_images",
    "find_model",
    "output_names",
    "predict_images",
    "refuse_to_replace",
]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
_OVERLAY_OPACITY = 0.5
_LONGEST_STEM_BYTES = 200
"""File systems hold names of 255 bytes, and ours get a suffix, for a moment a long one."""


class Predicted(BaseModel):
    """What was labelled, and what could not be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path
    masks: tuple[Path, ...]
    overlays: tuple[Path, ...]
    rejected: dict[str, str]
    seconds_per_image: float | None


class Predictor:
    """A trained model, ready to label images that nobody has seen.

    It computes in the arithmetic that it was trained with where this machine multiplies that fast, and otherwise in float32.

    Args:
        model_path: The model's folder.
    """

    def __init__(self, model_path: Path) -> None:
        self._model, self.card = load_classifier(PixelConv, model_path)
        self._model.dtype = torch_dtype(fast_precision(self.card.head_precision))
        device = compute_device()
        precision = fast_precision(self.card.precision) if device.type == "cpu" else self.card.precision
        backbone = build_backbone(self.card.backbone, self.card.canvas.size_hw, precision=precision).to(device)
        self._current: list[NDArray[np.uint8]] = []
        self._source = BackboneSource(backbone, lambda _: self._current[0], [layer.name for layer in self.card.layers])

    def labels(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Label every pixel of an RGB image (H, W, 3) at its own size: (H, W)."""
        card = self.card
        self._current[:] = [fit_image(image, card.canvas, fill_rgb=card.backbone.mean_rgb)[0]]
        return segment(self._model, self._source, 0, place((image.shape[0], image.shape[1]), card.canvas), flip=card.flip)

    def mask_png(self, labels: NDArray[np.uint8]) -> bytes:
        """Spell labels as a PNG with the classes' palette."""
        return _encoded(_palette_mask(labels, self.card), "PNG")


def find_images(patterns: Sequence[str]) -> list[Path]:
    """Expand files, folders and globs into images, in order, each once.

    Raises:
        DatasetError: a pattern matches nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            matches = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        elif path.is_file():
            matches = [path]
        else:
            matches = sorted(Path(match) for match in glob(str(path), recursive=True) if Path(match).is_file())  # noqa: PTH207
        if not matches:
            raise DatasetError(f"expected images, got {pattern!r}, which is no file, no folder with images and matches nothing")
        found.update(dict.fromkeys(matches))
    return list(found)


def find_model(workspace: Path, run_id: str, stage: str = "train") -> Path:
    """Return the model folder of a run; `latest` is the newest run that trained one.

    Args:
        workspace: Where runs and models are.
        run_id: The run, or `latest`.
        stage: The stage that trained the model: `train` for pixel classifiers, `train-head` for heads inside boxes.

    Raises:
        SpecError: there is no such run, or it trained no model.
    """
    places = Workspace(workspace)
    # By listing, not by path: a name can then lead nowhere else, and a broken record of another run is passed over.
    views = list_runs(places.runs)
    for view in views:
        key = view.keys.get(stage)
        if key is not None and run_id in {"latest", view.run_id}:
            return places.models / str(key)
    known = ", ".join(view.run_id for view in views[:5]) or "none"
    raise SpecError(f"expected a run in {places.runs} that trained a model, got {run_id!r}; the last runs: {known}")


def predict_images(model_path: Path, images: Sequence[Path], out: Path, *, skip_bad: bool = False) -> Predicted:
    """Write a palette PNG mask and an overlay for every image.

    Args:
        model_path: The model's folder.
        images: The images.
        out: Folder for `NAME.png` and `NAME.overlay.jpg`.
        skip_bad: Go on past images that cannot be read, listing them, instead of stopping before the first one.

    Raises:
        ImageError: an image cannot be read (without `skip_bad`).
        DatasetError: a mask or an overlay would replace one of the images; nothing is written then.
    """
    names = output_names(images)
    refuse_to_replace(images, names, out, (".png", ".overlay.jpg"))
    predictor = Predictor(model_path)
    masks, overlays, rejected, seconds = [], [], {}, 0.0
    for path, name in tqdm(zip(images, names, strict=True), total=len(images), unit="img", desc="predict", disable=None):
        try:
            image = decode_image(path)
        except ImageError as error:
            if not skip_bad:
                raise
            rejected[str(path)] = error.reason
            continue
        start = time.perf_counter()
        labels = predictor.labels(image)
        seconds += time.perf_counter() - start
        masks.append(_write_mask(out / f"{name}.png", labels, predictor.card))
        overlays.append(_write_overlay(out / f"{name}.overlay.jpg", image, labels, predictor.card))
    return Predicted(
        model=model_path,
        masks=tuple(masks),
        overlays=tuple(overlays),
        rejected=rejected,
        seconds_per_image=seconds / len(masks) if masks else None,
    )


def output_names(images: Sequence[Path]) -> list[str]:
    """Name the outputs after the images' stems; those that would collide or are too long get a digest of their path."""
    stems = [os.fsencode(path.stem) for path in images]
    counts = Counter(stems)
    names = []
    for stem, path in zip(stems, images, strict=True):
        name = os.fsdecode(stem)
        if counts[stem] > 1 or len(stem) > _LONGEST_STEM_BYTES:
            short = stem[:_LONGEST_STEM_BYTES].decode("utf-8", "ignore") if len(stem) > _LONGEST_STEM_BYTES else name
            name = f"{short}-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]}"
        names.append(name)
    return names


def refuse_to_replace(images: Sequence[Path], names: Sequence[str], out: Path, suffixes: Sequence[str]) -> None:
    """Refuse to write results where one of them would replace an image.

    Raises:
        DatasetError: names the image.
    """
    written = {(out / f"{name}{suffix}").resolve() for name in names for suffix in suffixes}
    replaced = sorted({path.resolve() for path in images} & written)
    if replaced:
        raise DatasetError(
            f"{replaced[0]}: expected another folder than the images' own, got --out {out}, where a result would replace this "
            "image. Remedy: give a folder of its own; nothing was written"
        )


def _palette(card: ModelCard) -> NDArray[np.uint8]:
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(card.palette)] = card.palette
    return colours


def _palette_mask(labels: NDArray[np.uint8], card: ModelCard) -> Image.Image:
    mask = Image.fromarray(labels)
    mask.putpalette(_palette(card).tobytes())
    return mask


def _write_mask(path: Path, labels: NDArray[np.uint8], card: ModelCard) -> Path:
    return _save(path, _palette_mask(labels, card), "PNG")


def _write_overlay(path: Path, image: NDArray[np.uint8], labels: NDArray[np.uint8], card: ModelCard) -> Path:
    colours = _palette(card)[labels].astype(np.float32)
    blended = image * (1 - _OVERLAY_OPACITY) + colours * _OVERLAY_OPACITY
    return _save(path, Image.fromarray(blended.astype(np.uint8)), "JPEG")


def _save(path: Path, image: Image.Image, kind: str) -> Path:
    replace_bytes(path, _encoded(image, kind))
    return path


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
