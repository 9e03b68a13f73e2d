"""Pictures of single images: photograph, truth, prediction, and where they disagree.

Classes are told apart by colour and by a dark outline around every region; void is hatched, wrong pixels are one loud colour on
a pale photograph. Arrays in, encoded pictures out; no matplotlib.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hypercolumns.datasets.base import VOID
from hypercolumns.reporting.data import Panel

__all__ = ["Picture", "panel_pictures", "panel_strip"]

_WRONG_RGB = np.array((213, 0, 110), np.uint8)
_HATCH_RGB = np.array(((150, 150, 150), (225, 225, 225)), np.uint8)
_HATCH_PX = 5


@dataclass(frozen=True)
class Picture:
    """One encoded picture with its caption."""

    caption: str
    content: bytes
    media_type: str


def panel_pictures(panel: Panel, palette: NDArray[np.uint8], width_px: int = 400) -> tuple[Picture, ...]:
    """Encode a panel's four pictures, no wider than `width_px`: photographs as JPEG, label maps as PNG.

    Args:
        panel: the image with its labels.
        palette: colours of the classes, (classes or more, 3), uint8.
        width_px: greatest width; smaller images are kept as they are.
    """
    photograph, truth, prediction, error = _render(panel, palette, width_px)
    return (
        Picture("image", _jpeg(photograph), "image/jpeg"),
        Picture("truth", _png(truth), "image/png"),
        Picture("prediction", _png(prediction), "image/png"),
        Picture("error", _jpeg(error), "image/jpeg"),
    )


def panel_strip(panel: Panel, palette: NDArray[np.uint8], width_px: int = 220) -> bytes:
    """Encode a panel's four pictures side by side as one JPEG, each no wider than `width_px`."""
    pictures = _render(panel, palette, width_px)
    gap = np.full((pictures[0].shape[0], 4, 3), 255, np.uint8)
    return _jpeg(np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1))


def _render(panel: Panel, palette: NDArray[np.uint8], width_px: int) -> tuple[NDArray[np.uint8], ...]:
    height, width = panel.truth.shape
    width_px = min(width, width_px)
    size = (width_px, max(1, round(height * width_px / width)))
    photograph = np.asarray(Image.fromarray(panel.image).resize(size, Image.Resampling.LANCZOS))
    truth, prediction = (_shrink(labels, size) for labels in (panel.truth, panel.prediction))
    void = truth == VOID
    error = _pale(photograph)
    error[truth != prediction] = _WRONG_RGB
    error[void] = _hatch(void.shape)[void]
    return photograph, _colour(truth, palette), _colour(prediction, palette), error


def _shrink(labels: NDArray[Any], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(labels.astype(np.uint8)).resize(size_wh, Image.Resampling.NEAREST))


def _colour(labels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    picture = table[labels]
    void = labels == VOID
    picture[void] = _hatch(labels.shape)[void]
    picture[_outline(labels)] //= 3
    return picture


def _outline(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    edge = np.zeros(labels.shape, bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    return edge


def _hatch(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    rows, columns = np.indices(shape)
    stripes: NDArray[np.uint8] = _HATCH_RGB[((rows + columns) // _HATCH_PX) % 2]
    return stripes


def _pale(photograph: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = photograph.mean(axis=2, keepdims=True)
    return np.repeat(110 + grey * (145 / 255), 3, axis=2).astype(np.uint8)


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=82, optimize=True)
    return buffer.getvalue()


def _png(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).quantize(colors=128, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
