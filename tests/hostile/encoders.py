"""Image files made by hand or by Pillow, and what is done to them: cut, promise too much, lie."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def saved(pixels: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    """Encode with Pillow."""
    buffer = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """Spell one PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int,
    height: int,
    rows: bytes | None,
    *,
    bits: int = 8,
    colour: int = 0,
    extra: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """Spell a PNG by hand.

    Args:
        width: as the header says it.
        height: as the header says it.
        rows: the raw rows, each with its filter byte; None for no pixel data at all.
        bits: a channel.
        colour: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGBA.
        extra: chunks before the pixels.
        after: chunks behind them.
    """
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = b"" if rows is None else chunk(b"IDAT", zlib.compress(rows, 9))
    return PNG_SIGNATURE + chunk(b"IHDR", header) + extra + body + after + chunk(b"IEND", b"")


def png_of(values: np.ndarray, *, colour: int, extra: bytes = b"") -> bytes:
    """Spell an 8- or 16-bit PNG of an array (H, W) or (H, W, C) by hand."""
    height, width = values.shape[:2]
    big = values.astype(values.dtype.newbyteorder(">"))
    rows = b"".join(b"\0" + row.tobytes() for row in big)
    return png(width, height, rows, bits=values.dtype.itemsize * 8, colour=colour, extra=extra)


def tiff(tags: dict[int, tuple[int, int, int | bytes]], pixels: bytes = b"", *, order: str = "<") -> bytes:
    """Spell a TIFF of one directory by hand: tag -> (type, count, value or offset); pixels lie at byte 8."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(pixels))
    entries = b""
    for tag, (kind, count, value) in sorted(tags.items()):
        packed = (
            value
            if isinstance(value, bytes)
            else struct.pack(
                order + ("HH" if kind == 3 and order == ">" else "I"), *((value, 0) if kind == 3 and order == ">" else (value,))
            )
        )
        entries += struct.pack(order + "HHI", tag, kind, count) + packed
    return head + pixels + struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0)


def grey_tiff(width: int, height: int, **changes: tuple[int, int, int | bytes]) -> bytes:
    """Spell a grey 8-bit TIFF whose header says that size; `changes` are tags by `t` and number."""
    pixels = bytes(24 * 32)
    tags: dict[int, tuple[int, int, int | bytes]] = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 8),
        277: (3, 1, 1),
        278: (4, 1, height),
        279: (4, 1, len(pixels)),
    }
    tags |= {int(name[1:]): value for name, value in changes.items()}
    return tiff(tags, pixels)


def gif(width: int, height: int, frame: tuple[int, int, int, int] = (0, 0, 1, 1)) -> bytes:
    """Spell a GIF of one pixel whose logical screen is that large; `frame` is left, top, width, height."""
    screen = b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    return screen + b"," + struct.pack("<HHHH", *frame) + b"\0" + b"\x02\x02D\x01\0" + b";"


def bmp(width: int, height: int, pixels: bytes = b"", *, bits: int = 24) -> bytes:
    """Spell a BMP whose header says that size."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(pixels), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + header + pixels


def jpeg_of_size(data: bytes, width: int, height: int) -> bytes:
    """Change what a baseline JPEG's frame header says of its size."""
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


def without_adobe_marker(data: bytes) -> bytes:
    """Take the APP14 segment out of a JPEG."""
    start = data.index(b"\xff\xee")
    length = struct.unpack(">H", data[start + 2 : start + 4])[0]
    return data[:start] + data[start + 2 + length :]


def boundaries(data: bytes, kind: str) -> list[int]:
    """List where the parts of a file's headers end: a cut at each of them leaves a file that looks begun well."""
    return sorted({cut for cut in _BOUNDARIES[kind](data) if 0 < cut < len(data)})


def _png_parts(data: bytes) -> list[int]:
    found, place = [4, 8], 8
    while place < len(data):
        length = struct.unpack(">I", data[place : place + 4])[0]
        found += [place + 4, place + 8, place + 8 + length // 2, place + 8 + length, place + 12 + length]
        place += 12 + length
    return found


def _jpeg_parts(data: bytes) -> list[int]:
    found, place = [1, 2, 3], 2
    while data[place + 1] != 0xDA:
        length = struct.unpack(">H", data[place + 2 : place + 4])[0]
        found += [place + 2, place + 4, place + 2 + length]
        place += 2 + length
    return [*found, place + 4, place + 14, (place + len(data)) // 2, len(data) - 2]


def _tiff_parts(data: bytes) -> list[int]:
    directory = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[directory : directory + 2])[0]
    entries = [directory + 2 + 12 * number for number in range(count + 1)]
    return [
        2,
        4,
        8,
        8 + (len(data) - 8) // 2,
        directory,
        directory + 2,
        *entries[:: max(1, count // 4)],
        entries[-1],
        entries[-1] + 4,
    ]


_BOUNDARIES = {
    "PNG": _png_parts,
    "JPEG": _jpeg_parts,
    "TIFF": _tiff_parts,
    "BMP": lambda data: [1, 2, 6, 14, 18, 22, 26, 28, 54, 54 + (len(data) - 54) // 2, len(data) - 1],
    "GIF": lambda data: [
        3,
        6,
        10,
        13,
        13 + 384,
        data.index(b",", 781),
        data.index(b",", 781) + 10,
        len(data) // 2 + 400,
        len(data) - 2,
    ],
    "WEBP": lambda data: [4, 8, 12, 16, 20, 23, 26, 30, len(data) // 2, len(data) - 1],
}
