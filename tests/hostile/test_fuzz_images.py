"""Image files with bytes changed, cut out and put in: pixels or an `ImageError`, never anything else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hypercolumns.datasets.decoding import decode_image, image_hw
from hypercolumns.datasets.masks import decode_mask
from hypercolumns.errors import ImageError, MaskError
from tests.hostile.cases import HW, labels, scene
from tests.hostile.encoders import grey_tiff, saved

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

_PALETTE = Image.fromarray(scene()).quantize(64)
_EXIF = Image.Exif()
_EXIF[0x0112] = 6
SEEDS = {
    "png": saved(scene(), "PNG", exif=_EXIF),
    "palette": saved(_PALETTE, "PNG", transparency=3),
    "jpeg": saved(scene(), "JPEG", exif=_EXIF),
    "progressive": saved(scene(), "JPEG", progressive=True),
    "tiff": saved(scene(), "TIFF", exif=_EXIF),
    "lzw": saved(scene(), "TIFF", compression="tiff_lzw"),
    "deflate": saved(_PALETTE, "TIFF", compression="tiff_adobe_deflate"),
    "grey tiff": grey_tiff(HW[1], HW[0]),
    "bmp": saved(scene(), "BMP"),
    "rle": saved(_PALETTE, "BMP"),
    "gif": saved(_PALETTE, "GIF", save_all=True, append_images=[_PALETTE.rotate(180)]),
    "webp": saved(scene(), "WEBP", exif=_EXIF),
    "lossless": saved(scene(), "WEBP", lossless=True),
    "ppm": b"P6 32 24 255\n" + scene().tobytes(),
    "plain ppm": b"P3 2 1 255 1 2 3 4 5 6\n",
    "pgm": b"P5 32 24 65535\n" + scene()[..., :2].tobytes(),
    "pbm": b"P4 32 24\n" + bytes(96),
}


@st.composite
def mutated(draw, seeds):
    """Change a file in a few places, mostly near its begin, where its headers are."""
    data = bytearray(seeds[draw(st.sampled_from(sorted(seeds)))])
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, min(len(data), draw(st.sampled_from((40, 300, len(data)))))))
        what = draw(st.sampled_from(("set", "set", "flip", "cut", "put", "end")))
        if what == "set":
            data[place : place + 2] = draw(st.sampled_from((b"\0\0", b"\xff\xff", b"\x7f", b"\x80", b"\1", b"\0\x10")))
        elif what == "flip" and place < len(data):
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del data[place : place + draw(st.integers(1, 30))]
        elif what == "put":
            data[place:place] = draw(st.binary(min_size=1, max_size=8))
        elif what == "end":
            del data[max(place, 1) :]
    return bytes(data)


def is_explained(error, path):
    assert error.path == path
    assert error.reason
    assert error.remedy


def is_pixels_or_refused(path, data):
    path.write_bytes(data)
    try:
        pixels = decode_image(path, max_megapixels=0.1)
    except ImageError as error:
        is_explained(error, path)
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert min(pixels.shape) > 0
    assert image_hw(path, max_megapixels=0.1) == pixels.shape[:2]


def is_labels_or_refused(path, data):
    path.write_bytes(data)
    try:
        found = decode_mask(path, image_hw=HW, classes=4, max_megapixels=0.1)
    except MaskError as error:
        is_explained(error, path)
        return
    assert found.shape == HW
    assert set(np.unique(found)) <= {0, 1, 2, 3, 255}


_MASKS = {
    "grey": saved(labels(), "PNG"),
    "palette": saved(Image.fromarray(labels()).convert("P"), "PNG"),
    "deep": saved(labels().astype(np.uint16), "PNG"),
    "turned": saved(labels(), "PNG", exif=_EXIF),
}
_QUICK = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
_LONG = settings(max_examples=20_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_QUICK
@given(mutated(SEEDS))
def test_a_mutated_image_is_pixels_or_refused(tmp_path, data):
    is_pixels_or_refused(tmp_path / "image", data)


@_QUICK
@given(mutated(_MASKS))
def test_a_mutated_mask_is_labels_or_refused(tmp_path, data):
    is_labels_or_refused(tmp_path / "mask.png", data)


@pytest.mark.slow
@_LONG
@given(mutated(SEEDS))
def test_many_mutated_images_are_pixels_or_refused(tmp_path, data):
    is_pixels_or_refused(tmp_path / "image", data)


@pytest.mark.slow
@_LONG
@given(mutated(_MASKS))
def test_many_mutated_masks_are_labels_or_refused(tmp_path, data):
    is_labels_or_refused(tmp_path / "mask.png", data)
