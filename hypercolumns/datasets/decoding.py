"""Image files to RGB pixels, as a person looking at the file would see them.

The format is told by the content, never by the suffix. EXIF orientation is applied; transparency is laid on white; 16-bit
grey is scaled to 8 bits; of an animation the first frame counts. Whatever cannot be shown this way raises `ImageError` with
its reason. Colour profiles are not applied. Only regular files are opened: a pipe would be waited for, a device may not end.
Knows nothing of data sets, and changes no global setting of Pillow.
"""

from __future__ import annotations

import hashlib
import io
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from hypercolumns.errors import ImageError, MaskError

__all__ = ["decode_image", "image_hw", "image_sha256", "opened", "orientation_of", "read_image", "turned_upright"]

DEFAULT_MAX_MEGAPIXELS = 100.0

# Pillow's own registry is passed by: it also holds readers that start other programs, and `Image.open` has a limit on the
# image's size that is global and shared with whoever else uses Pillow in this process.
_READERS: tuple[tuple[re.Pattern[bytes], Callable[[IO[bytes]], ImageFile.ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImagePlugin.jpeg_factory),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    (re.compile(rb"GIF8[79]a"), GifImagePlugin.GifImageFile),
    (re.compile(rb"BM"), BmpImagePlugin.BmpImageFile),
    (re.compile(rb"II\*\0|MM\0\*|II\+\0|MM\0\+"), TiffImagePlugin.TiffImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImagePlugin.WebPImageFile),
    (re.compile(rb"P[1-6]\s"), PpmImagePlugin.PpmImageFile),
)

# What Pillow's readers raise on damaged files; each is turned into an ImageError or MaskError with the file's name.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    RuntimeError,
    struct.error,
    zlib.error,
)

_ORIENTATION_TAG = 0x0112
_TILE_WIDTH_TAG, _TILE_LENGTH_TAG = 322, 323
_UPRIGHT: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(path: Path, *, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS, sha256: str | None = None) -> np.ndarray:
    """Decode an image file.

    Args:
        path: The file; its suffix is ignored.
        max_megapixels: A larger image is refused before its pixels are decoded.
        sha256: The digest the file's bytes must have; None takes any.

    Returns:
        The upright image, uint8 RGB (H, W, 3), writable.

    Raises:
        ImageError: the file is missing, empty, of no known format, damaged, truncated, too large, not an 8- or 16-bit image, or
            not the one whose digest was given.
    """
    with opened(path, max_megapixels=max_megapixels, sha256=sha256) as image:
        return _rgb_pixels(image, path)


def read_image(path: Path, *, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS) -> tuple[np.ndarray, str]:
    """Decode an image file and digest the very bytes that were decoded, reading the file once.

    Returns:
        The image as `decode_image` gives it, and the sha256 of the file's bytes.

    Raises:
        ImageError: as `decode_image`.
    """
    with _explained(path, ImageError), _regular_file(path, ImageError) as stream:
        data = stream.read()
    with opened(path, max_megapixels=max_megapixels, data=data) as image:
        return _rgb_pixels(image, path), hashlib.sha256(data).hexdigest()


def image_hw(path: Path, *, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS) -> tuple[int, int]:
    """Read the size (height, width) of the upright image from the file's header.

    Raises:
        ImageError: the header cannot be read, or the image is too large.
    """
    with opened(path, max_megapixels=max_megapixels) as image:
        width, height = image.size
        return (width, height) if orientation_of(image) >= 5 else (height, width)


def image_sha256(path: Path | str) -> str:
    """Digest the bytes of a file.

    Raises:
        ImageError: the file cannot be read.
    """
    with _explained(Path(path), ImageError), _regular_file(Path(path), ImageError) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def opened(
    path: Path,
    *,
    max_megapixels: float,
    error_type: type[ImageError] | type[MaskError] = ImageError,
    data: bytes | None = None,
    sha256: str | None = None,
) -> Iterator[ImageFile.ImageFile]:
    """Open an image file by its content, check its size, and turn whatever a reader raises inside into `error_type`.

    Args:
        path: The file.
        max_megapixels: A larger image is refused.
        error_type: The error to raise.
        data: The file's bytes, when they have been read already.
        sha256: The digest the file's bytes must have; None takes any.
    """
    with (
        _explained(path, error_type),
        _regular_file(path, error_type) if data is None else io.BytesIO(data) as file,
        file if sha256 is None else io.BytesIO(_unchanged(file.read(), sha256, path, error_type)) as stream,
        _identified(stream, path, error_type) as image,
    ):
        for width, height in (image.size, _tile_size(image)):
            megapixels = width * height / 1e6
            if megapixels > max_megapixels:
                raise error_type(
                    path,
                    f"{width}x{height} are {megapixels:.1f} megapixels, more than the limit of {max_megapixels:g}",
                    "scale it down, or raise dataset.max_megapixels",
                )
        yield image


def _regular_file(path: Path, error_type: type[ImageError] | type[MaskError]) -> io.BufferedReader:
    if not stat.S_ISREG(path.stat().st_mode):
        raise error_type(path, "it is not a regular file", "put the file itself there, or take it out of the data set")
    return path.open("rb")


def _unchanged(data: bytes, sha256: str, path: Path, error_type: type[ImageError] | type[MaskError]) -> bytes:
    received = hashlib.sha256(data).hexdigest()
    if received != sha256:
        raise error_type(
            path,
            f"the file has changed since the data set was read: expected sha256 {sha256[:12]}…, got {received[:12]}…",
            "run again, when nobody writes to the data set",
        )
    return data


def _tile_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Return the size of a TIFF's tiles: libtiff takes memory for a whole tile, however small the image is."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0, 0
    width, height = image.tag_v2.get(_TILE_WIDTH_TAG, 0), image.tag_v2.get(_TILE_LENGTH_TAG, 0)
    return int(width), int(height)


def _identified(stream: IO[bytes], path: Path, error_type: type[ImageError] | type[MaskError]) -> ImageFile.ImageFile:
    prefix = stream.read(16)
    stream.seek(0)
    if not prefix:
        raise error_type(path, "the file is empty (0 bytes)", "copy it again, or take it out of the data set")
    for signature, reader in _READERS:
        if signature.match(prefix):
            return reader(stream)
    raise error_type(
        path,
        f"not an image of a known format; the file starts with {prefix!r}",
        "use JPEG, PNG, TIFF, WebP, BMP, GIF or PPM",
    )


@contextmanager
def _explained(path: Path, error_type: type[ImageError] | type[MaskError]) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise error_type(path, "the file does not exist", "restore it, or take it off the list") from error
    except MemoryError as error:
        raise error_type(
            path, "decoding it takes more memory than there is", "scale it down, or lower dataset.max_megapixels"
        ) from error
    except Image.DecompressionBombError as error:
        raise error_type(path, f"more megapixels than Pillow decodes: {error}", "scale it down") from error
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise error_type(path, f"cannot be read: {reason}", "replace the file; it may be damaged or truncated") from error


def _rgb_pixels(image: ImageFile.ImageFile, path: Path) -> np.ndarray:
    # Before the pixels are loaded, so that `image_hw`, which never loads them, sees the same orientation.
    orientation = orientation_of(image)
    image.load()
    return np.array(turned_upright(_as_rgb(image, path), orientation))


def turned_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image whose pixels are loaded the way it is to be shown."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def orientation_of(image: ImageFile.ImageFile) -> int:
    """Return the EXIF orientation, 1 to 8, that is still to be applied; ask before the pixels are loaded."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 1  # Pillow itself turns TIFFs upright
    if isinstance(image, PngImagePlugin.PngImageFile) and not {"exif", "Raw profile type exif"} & image.info.keys():
        return 1  # asking further would decode the pixels to look for EXIF behind them, where viewers do not look either
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except _DAMAGE:
        return 1  # an unreadable EXIF block says nothing about the pixels; viewers show such images as they are
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _as_rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(image, path)).convert("RGB")
    if image.mode == "F":
        raise ImageError(path, "floating-point pixels have no agreed range", "save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        return opaque.convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image, path: Path) -> np.ndarray:
    values: np.ndarray[Any, Any] = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(path, f"pixels from {low} to {high}; expected 0 to 65535", "save it with 8 or 16 bits a channel")
    return ((values + 128) // 257).astype(np.uint8)
