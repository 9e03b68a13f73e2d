"""Image files that are odd, broken or other than their name says."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageCms

from tests.hostile.cases import HW, Case, Rejected, Shown, Whole, image, scene
from tests.hostile.encoders import (
    bmp,
    boundaries,
    chunk,
    gif,
    grey_tiff,
    jpeg_of_size,
    png,
    png_of,
    saved,
    without_adobe_marker,
)

HEIGHT, WIDTH = HW
UNREADABLE = "cannot be read: "
UNKNOWN = "not an image of a known format"
TOO_LARGE = "megapixels, more than the limit of 100"


def smooth() -> np.ndarray:
    """Draw a picture that a JPEG keeps within a few grey levels."""
    y, x = np.mgrid[: HW[0], : HW[1]]
    return np.stack([80 + y * 3, 60 + x * 4, 200 - y * 2], axis=-1).astype(np.uint8)


def grey(values: np.ndarray) -> np.ndarray:
    """Repeat grey values as red, green and blue."""
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=-1)


def cases() -> list[Case]:
    """List all of them."""
    return [*_cut(), *_sizes(), *_depths(), *_alpha(), *_frames(), *_profiles(), *_impostors(), *_changed()]


def _cut() -> Iterator[Case]:
    noise = np.random.default_rng(0).integers(0, 256, (*HW, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"):
        options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}, "TIFF": {"compression": "tiff_lzw"}}.get(kind, {})
        data = saved(noise, kind, **options)
        whole = Shown(np.asarray(Image.fromarray(noise).quantize(256).convert("RGB"))) if kind == "GIF" else Shown(noise)
        whole = Shown(smooth(), tolerance=16) if kind == "JPEG" else whole
        data = saved(smooth(), kind, **options) if kind == "JPEG" else data
        for cut in boundaries(data, kind):
            yield Case(f"{kind} cut at byte {cut} of {len(data)}", image(data[:cut]), Whole(whole))


def _sizes() -> Iterator[Case]:
    for width, height in ((0, 0), (0, 5), (5, 0)):
        for kind, data in (
            ("PNG", png(width, height, b"")),
            ("GIF", gif(width, height, (0, 0, width, height))),
            ("BMP", bmp(width, height)),
            ("TIFF", grey_tiff(width, height)),
            ("PPM", b"P6 %d %d 255\n" % (width, height)),
            ("JPEG", jpeg_of_size(saved(scene(), "JPEG"), width, height)),
        ):
            yield Case(f"{kind} of {width}x{height}", image(data), Rejected(UNREADABLE))
    for height, width in ((1, 1), (1, 77), (77, 1), (1, 100_000), (100_000, 1)):
        ramp = (np.arange(height * width * 3) % 251).astype(np.uint8).reshape(height, width, 3)
        sides = np.zeros((height, width), np.uint8)
        yield Case(f"PNG of {width}x{height}", image(png_of(ramp, colour=2)), Shown(ramp, labels=sides))
    flipped = np.ascontiguousarray(scene()[:, :, ::-1])
    yield Case("BMP from the top down", image(bmp(WIDTH, -HEIGHT, flipped.tobytes())), Shown())


def _depths() -> Iterator[Case]:
    steps = (np.arange(HEIGHT * WIDTH, dtype=np.uint16) * 85).reshape(HW)
    eight = (steps.astype(np.int64) + 128) // 257
    yield Case("PNG, grey, 16 bits", image(png_of(steps, colour=0)), Shown(grey(eight)))
    deep = scene().astype(np.uint16) * 257
    yield Case("PNG, RGB, 16 bits", image(png_of(deep, colour=2)), Shown())
    opaque = np.dstack([deep, np.full(HW, 65_535, np.uint16)])
    yield Case("PNG, RGBA, 16 bits", image(png_of(opaque, colour=6)), Shown())
    clear = np.dstack([steps, np.full(HW, 65_535, np.uint16)])
    yield Case("PNG, grey with alpha, 16 bits", image(png_of(clear, colour=4)), Shown(grey(steps >> 8), tolerance=1))
    yield Case("TIFF, grey, 16 bits", image(saved(steps, "TIFF")), Shown(grey(eight)))
    yield Case("TIFF of floats", image(saved(steps.astype(np.float32), "TIFF")), Rejected("floating-point pixels"))
    yield Case(
        "TIFF of floats that are not finite", image(saved(np.full(HW, np.nan, np.float32), "TIFF")), Rejected("floating-point")
    )
    yield Case("TIFF of 32 bits", image(saved(steps.astype(np.int32) * 1000, "TIFF")), Rejected("expected 0 to 65535"))
    yield Case("TIFF below zero", image(saved(steps.astype(np.int32) - 9, "TIFF")), Rejected("expected 0 to 65535"))
    yield Case(
        "PNG of one bit", image(saved(Image.fromarray(scene()[..., 0] > 99), "PNG")), Shown(grey((scene()[..., 0] > 99) * 255))
    )
    ink = np.stack([255 - smooth()[..., channel] for channel in range(3)] + [np.zeros(HW, np.uint8)], axis=-1).astype(np.uint8)
    cmyk = saved(Image.fromarray(ink, "CMYK"), "JPEG", quality=98, subsampling=0)
    yield Case("JPEG in CMYK, inverted as Adobe does", image(cmyk), Shown(smooth(), tolerance=12))
    yield Case("JPEG in CMYK without Adobe's marker", image(without_adobe_marker(cmyk)), Whole(Shown(smooth(), tolerance=12)))
    yield Case("TIFF in CMYK", image(saved(Image.fromarray(ink, "CMYK"), "TIFF")), Shown(smooth(), tolerance=1))
    yield Case(
        "TIFF in CIELAB", image(saved(Image.fromarray(scene()).convert("RGB").convert("YCbCr"), "TIFF")), Shown(tolerance=4)
    )
    yield Case("JPEG, grey", image(saved(smooth()[..., 0], "JPEG", quality=98)), Shown(grey(smooth()[..., 0]), tolerance=8))
    yield Case("JPEG, progressive", image(saved(smooth(), "JPEG", quality=95, progressive=True)), Shown(smooth(), tolerance=12))


def _alpha() -> Iterator[Case]:
    half = np.full(HW, 255, np.uint8)
    half[:, 16:] = 0
    shown = scene()
    shown[:, 16:] = 255
    yield Case("PNG, RGBA", image(saved(np.dstack([scene(), half]), "PNG")), Shown(shown))
    light = np.dstack([scene()[..., 0], half])
    yield Case("PNG, grey with alpha", image(saved(Image.fromarray(light, "LA"), "PNG")), Shown(grey(shown[..., 0])))
    yield Case("WebP with alpha", image(saved(np.dstack([scene(), half]), "WEBP", lossless=True, exact=True)), Shown(shown))
    yield Case("TIFF with alpha", image(saved(np.dstack([scene(), half]), "TIFF")), Shown(shown))
    indices = (np.arange(HEIGHT * WIDTH) % 4).astype(np.uint8).reshape(HW)
    colours = np.array([[10, 20, 30], [200, 30, 40], [5, 250, 9], [80, 80, 80]], np.uint8)
    palette = Image.fromarray(indices)
    palette.putpalette(colours.tobytes())
    seen = colours.copy()
    seen[2] = 255
    yield Case("PNG with a palette and a transparent entry", image(saved(palette, "PNG", transparency=2)), Shown(seen[indices]))
    yield Case(
        "PNG with a palette and half-transparent entries",
        image(saved(palette, "PNG", transparency=bytes([255, 128]))),
        Shown(np.array([[10, 20, 30], [227, 142, 147], [5, 250, 9], [80, 80, 80]], np.uint8)[indices], tolerance=1),
    )
    keyed = saved(grey(indices * 60), "PNG", transparency=(120, 120, 120))
    yield Case("PNG, RGB, with a transparent colour", image(keyed), Shown(grey(np.where(indices == 2, 255, indices * 60))))
    missing = png_of(indices, colour=3, extra=chunk(b"PLTE", colours[:2].tobytes()))
    short = np.where(np.arange(4)[:, None] < 2, colours, 0).astype(np.uint8)  # black, as browsers show it
    yield Case("PNG with a palette that lacks half of its entries", image(missing), Shown(short[indices]))
    yield Case("PNG with a palette of none", image(png_of(indices, colour=3)), Rejected("cannot be read|palette"))
    film = saved(palette, "GIF", transparency=2)
    yield Case("GIF with a transparent entry", image(film), Shown(seen[indices]))


def _frames() -> Iterator[Case]:
    first, second = Image.fromarray(scene()), Image.new("RGB", (WIDTH, HEIGHT), "red")
    for kind, options in (("TIFF", {}), ("PNG", {"duration": 9}), ("WEBP", {"lossless": True, "duration": 9})):
        data = saved(first, kind, save_all=True, append_images=[second, second], **options)
        yield Case(f"{kind} of three frames", image(data), Shown())
    flat = Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3))
    film = saved(flat, "GIF", save_all=True, append_images=[second], duration=9)
    yield Case("GIF of two frames", image(film), Shown(np.full((*HW, 3), (1, 2, 3), np.uint8)))
    pages = saved(first, "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    yield Case("TIFF of pages of two sizes", image(pages), Shown())


def _profiles() -> Iterator[Case]:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, icc in (("sound", profile), ("broken", b"\xff" * 200), ("cut", profile[:20]), ("empty", b"")):
        for kind in ("PNG", "TIFF"):
            yield Case(f"{kind} with a colour profile, {name}", image(saved(scene(), kind, icc_profile=icc)), Shown())
        data = saved(smooth(), "JPEG", quality=95, icc_profile=icc)
        yield Case(f"JPEG with a colour profile, {name}", image(data), Shown(smooth(), tolerance=12))
    rows = b"".join(b"\0" + row.tobytes() for row in scene())
    for name, body in (("no name", b""), ("no end", b"name\0\0" + b"\x78\x9c\xff\xff"), ("another method", b"n\0\7abc")):
        data = png(WIDTH, HEIGHT, rows, colour=2, extra=chunk(b"iCCP", body))
        yield Case(f"PNG with an iCCP chunk of {name}", image(data), Whole())


def _impostors() -> Iterator[Case]:
    yield Case("JPEG called .png", image(saved(smooth(), "JPEG", quality=95)), Shown(smooth(), tolerance=12))
    yield Case("PNG called .tif", image(saved(scene(), "PNG"), "images/train/case.tif"), Shown(), file="images/train/case.tif")
    yield Case("empty", image(b""), Rejected("the file is empty"))
    for name, data in {
        "text": b"These are notes, not pixels.\n",
        "web page": b"<!DOCTYPE html><html>404</html>",
        "SVG that reads a file": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "PostScript that would run": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/x) (w) file\n",
        "PDF": b"%PDF-1.7\n",
        "zip": b"PK\x03\x04" + bytes(60),
        "zeros": bytes(5000),
        "HEIC": b"\0\0\0\x18ftypheic" + bytes(40),
        "ICO": b"\0\0\1\0\1\0" + bytes(40),
        "PSD": b"8BPS\0\1" + bytes(40),
        "program": b"\x7fELF" + bytes(60),
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
        "half a signature": b"\x89PNG",
        "a signature and noise": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    }.items():
        reason = "cannot be read" if name.endswith("noise") else UNKNOWN
        yield Case(f"{name} called .png", image(data), Rejected(reason))


def _changed() -> Iterator[Case]:
    data = bytearray(saved(scene(), "PNG"))
    data[len(data) // 2] ^= 0xFF
    yield Case("PNG with a flipped bit", image(bytes(data)), Rejected(UNREADABLE))
    yield Case("PNG with rubbish behind it", image(saved(scene(), "PNG") + os.urandom(500)), Shown())
    yield Case(
        "JPEG with a zip behind it", image(saved(smooth(), "JPEG", quality=95) + b"PK\x03\x04"), Shown(smooth(), tolerance=12)
    )
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    twice = saved(scene(), "PNG")
    twice = twice[:33] + chunk(b"IHDR", header[:3] + b"\x90" + header[4:]) + twice[33:]
    yield Case("PNG with a second header of another size", image(twice), Whole())
    yield Case("PNG without pixels", image(png(WIDTH, HEIGHT, None)), Rejected(UNREADABLE))
    yield Case("PNG of bits that do not exist", image(png(WIDTH, HEIGHT, b"", bits=7)), Rejected(UNREADABLE))
    yield Case(
        "PNG with a compression that does not exist",
        image(png(WIDTH, HEIGHT, b"").replace(b"\x08\0\0\0\0", b"\x08\0\7\0\0")),
        Rejected(UNREADABLE),
    )
