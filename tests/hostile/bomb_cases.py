"""Image files that promise far more than they hold, or hold far more than they should."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.hostile.cases import HW, Case, Rejected, Shown, Whole, image, scene
from tests.hostile.encoders import bmp, chunk, gif, grey_tiff, jpeg_of_size, png, saved
from tests.hostile.image_cases import HEIGHT, TOO_LARGE, UNREADABLE, WIDTH


def cases() -> Iterator[Case]:
    """List all of them."""
    rows = b"\0" * 1000
    yield Case("PNG of 60000x60000 in 100 bytes", image(png(60_000, 60_000, rows)), Rejected(TOO_LARGE))
    yield Case("PNG of 2147483647x2147483647", image(png(2**31 - 1, 2**31 - 1, rows)), Rejected("megapixels|" + UNREADABLE))
    yield Case("PNG of 4294967295 pixels a row", image(png(2**32 - 1, 1, rows)), Rejected("megapixels|" + UNREADABLE))
    yield Case("JPEG of 65500x65500", image(jpeg_of_size(saved(scene(), "JPEG"), 65_500, 65_500)), Rejected(TOO_LARGE))
    yield Case("GIF of 65535x65535", image(gif(65_535, 65_535)), Rejected(TOO_LARGE))
    yield Case(
        "GIF whose frame is larger than its screen",
        image(gif(1, 1, (60_000, 60_000, 5_000, 5_000))),
        Rejected("megapixels|" + UNREADABLE),
    )
    yield Case("BMP of 2147483647x2147483647", image(bmp(2**31 - 1, 2**31 - 1, rows)), Rejected("megapixels|" + UNREADABLE))
    yield Case("BMP of the most negative height", image(bmp(1, -(2**31), rows)), Rejected("megapixels|" + UNREADABLE))
    yield Case("TIFF of 4294967295x4294967295", image(grey_tiff(2**32 - 1, 2**32 - 1)), Rejected("megapixels|" + UNREADABLE))
    yield Case("TIFF of one tile of 2147483632 pixels a side", image(_tiled(2**31 - 16)), Rejected(TOO_LARGE))
    yield Case("TIFF of one compressed tile of 30000 pixels a side", image(_tiled(30_000, compression=8)), Rejected(TOO_LARGE))
    yield Case(
        "TIFF with a tag of 4 GiB",
        image(grey_tiff(WIDTH, HEIGHT, t34675=(7, 2**32 - 1, 8))),
        Whole(Shown(np.zeros((*HW, 3), np.uint8))),
    )
    yield Case(
        "TIFF with strips of 4 GiB",
        image(grey_tiff(WIDTH, HEIGHT, t279=(4, 1, 2**32 - 1))),
        Whole(Shown(np.zeros((*HW, 3), np.uint8))),
    )
    yield Case("TIFF with 4 billion strips", image(grey_tiff(WIDTH, HEIGHT, t273=(4, 2**32 - 1, 8))), Rejected(UNREADABLE))
    yield Case(
        "TIFF whose pixels lie behind its end", image(grey_tiff(WIDTH, HEIGHT, t273=(4, 1, 2**31))), Rejected(UNREADABLE)
    )
    yield Case("TIFF whose next directory is itself", image(_looping()), Shown(np.zeros((*HW, 3), np.uint8)))
    yield Case("TIFF with 4096 bits a sample", image(grey_tiff(WIDTH, HEIGHT, t258=(3, 1, 4096))), Rejected(UNREADABLE))
    canvas = Image.new("RGB", (16_383, 16_383))
    yield Case(
        "WebP of 16383x16383 in a kilobyte",
        image(saved(canvas, "WEBP", lossless=True, method=0)),
        Rejected("more megapixels than|" + TOO_LARGE),
    )
    del canvas
    yield Case("PPM of 100000x100000", image(b"P6 100000 100000 255\n" + rows), Rejected(TOO_LARGE))
    yield Case("PPM of a size of a million digits", image(b"P6 " + b"9" * 1_000_000 + b" 1 255\n"), Rejected(UNREADABLE))
    bomb = zlib.compress(bytes(300_000_000), 9)
    for kind, head in ((b"iCCP", b"p\0\0"), (b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0")):
        extra = chunk(kind, head + bomb)
        rows = b"".join(b"\0" + row.tobytes() for row in scene())
        yield Case(
            f"PNG with an {kind.decode()} chunk of 300 MB in 300 kB",
            image(png(WIDTH, HEIGHT, rows, colour=2, extra=extra)),
            Whole(),
        )
    many = b"".join(chunk(b"tEXt", b"k%d\0" % number + b"x" * 900) for number in range(20_000))
    yield Case("PNG with 20000 texts", image(png(WIDTH, HEIGHT, rows, colour=2, extra=many)), Whole())
    yield Case(
        "PNG whose pixels unpack to a thousand times what its size needs",
        image(png(WIDTH, HEIGHT, rows + bytes(50_000_000), colour=2)),
        Shown(),
    )


def _tiled(side: int, compression: int = 1) -> bytes:
    tags = {"t322": (4, 1, side), "t323": (4, 1, side), "t324": (4, 1, 8), "t325": (4, 1, 700), "t259": (3, 1, compression)}
    return grey_tiff(WIDTH, HEIGHT, **tags)


def _looping() -> bytes:
    data = grey_tiff(WIDTH, HEIGHT)
    return data[:-4] + data[4:8]
