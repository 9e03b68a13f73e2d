"""Orientations, masks and places: what is wrong beside an image's own bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from hypercolumns.datasets.palettes import voc_palette
from tests.hostile.cases import HW, MASK, Case, Refused, Rejected, Shown, image, labels, mask, scene
from tests.hostile.encoders import gif, png, png_of, saved
from tests.hostile.image_cases import UNKNOWN, UNREADABLE, smooth

SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}
"""By the EXIF standard (CIPA DC-008, tag 0x0112): which side of the scene row 0 and column 0 of the file show."""


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Return what a file of that orientation must hold to show `upright`."""
    row_side, column_side = SIDES[orientation]
    turned = upright if row_side in ("top", "bottom") else upright.swapaxes(0, 1)
    turned = turned[::-1] if row_side in ("bottom", "right") else turned
    return np.ascontiguousarray(turned[:, ::-1] if column_side in ("right", "bottom") else turned)


def exif(orientation: int) -> Image.Exif:
    """Return EXIF data that say nothing else."""
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def cases() -> list[Case]:
    """List all of them."""
    return [*_turned(), *_masks(), *_places()]


def both(pixels: bytes, drawn: bytes):
    def write(root: Path) -> None:
        image(pixels)(root)
        mask(drawn)(root)

    return write


def _turned() -> Iterator[Case]:
    for number in SIDES:
        turned, drawn = stored(scene(), number), saved(labels(), "PNG")
        for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
            data = saved(turned, kind, exif=exif(number), **options)
            yield Case(f"{kind} of orientation {number}", image(data), Shown())
        data = saved(stored(smooth(), number), "JPEG", exif=exif(number), quality=95)
        yield Case(f"JPEG of orientation {number}", image(data), Shown(smooth(), tolerance=12))
        pair = both(saved(turned, "PNG", exif=exif(number)), saved(stored(labels(), number), "PNG", exif=exif(number)))
        yield Case(f"image and mask of orientation {number}", pair, Shown(), has_mask=False)
        alone = both(saved(scene(), "PNG"), saved(stored(labels(), number), "PNG", exif=exif(number)))
        yield Case(f"mask alone of orientation {number}", alone, Shown(), has_mask=False)
        if number >= 5:
            flat = both(saved(turned, "PNG", exif=exif(number)), saved(stored(labels(), number), "PNG"))
            yield Case(
                f"mask that is not turned like its image of orientation {number}",
                flat,
                Rejected("once its EXIF orientation is applied"),
                has_mask=False,
            )
        assert drawn
    for number in (0, 9, 65_535):
        yield Case(
            f"PNG of orientation {number}, which does not exist", image(saved(scene(), "PNG", exif=exif(number))), Shown()
        )
    yield Case("PNG with EXIF data that are none", image(saved(scene(), "PNG", exif=b"Exif\0\0no such thing")), Shown())
    yield Case(
        "mask with EXIF data that are none",
        both(saved(scene(), "PNG"), saved(labels(), "PNG", exif=b"Exif\0\0none")),
        Shown(),
        has_mask=False,
    )


def _masks() -> Iterator[Case]:
    def drawn(name: str, data: bytes, expected: Shown | Rejected) -> Case:
        return Case(f"mask, {name}", both(saved(scene(), "PNG"), data), expected, has_mask=False)

    coloured = Image.fromarray(labels())
    coloured.putpalette(voc_palette().tobytes())
    yield drawn("with a palette", saved(coloured, "PNG"), Shown())
    yield drawn("with a palette and a transparent entry", saved(coloured, "PNG", transparency=0), Shown())
    yield drawn("of colours", saved(voc_palette()[labels()], "PNG"), Rejected("mode RGB: the pixels are colours"))
    yield drawn("with alpha", saved(np.dstack([voc_palette()[labels()], labels()]), "PNG"), Rejected("mode RGBA"))
    grey = Image.fromarray(np.dstack([labels(), labels()]), "LA")
    yield drawn("grey with alpha", saved(grey, "PNG"), Rejected("mode LA"))
    yield drawn("of 16 bits", png_of(labels().astype(np.uint16), colour=0), Shown())
    yield drawn(
        "of 16 bits and labels above 255", png_of(labels().astype(np.uint16) + 256, colour=0), Rejected("unknown label 256")
    )
    yield drawn("of floats", saved(labels().astype(np.float32), "TIFF"), Rejected("TIFF"))
    yield drawn("below zero", saved(labels().astype(np.int32) - 1, "TIFF"), Rejected("TIFF"))
    yield drawn("a TIFF called .png", saved(labels(), "TIFF"), Rejected("TIFF"))
    yield drawn("a GIF called .png", saved(coloured, "GIF"), Rejected("GIF"))
    yield drawn("a BMP called .png", saved(Image.fromarray(labels()), "BMP"), Rejected("BMP"))
    yield drawn("a JPEG called .png", saved(labels(), "JPEG"), Rejected("a JPEG changes labels"))
    yield drawn("a lossy WebP called .png", saved(Image.fromarray(labels()).convert("RGB"), "WEBP"), Rejected("WEBP"))
    yield drawn("of one bit", saved(Image.fromarray(labels() == 1), "PNG"), Shown(labels=(labels() == 1).astype(np.uint8)))
    yield drawn(
        "of two frames",
        saved(Image.fromarray(labels()), "PNG", save_all=True, append_images=[Image.new("L", (32, 24), 9)]),
        Rejected("2 frames"),
    )
    yield drawn(
        "of another size", saved(labels()[:, :-1], "PNG"), Rejected("24 high and 31 wide, its image 24 high and 32 wide")
    )
    yield drawn("turned", saved(labels().T.copy(), "PNG"), Rejected("32 high and 24 wide"))
    yield drawn(
        "of another label", saved(np.where(labels() == 3, 4, labels()).astype(np.uint8), "PNG"), Rejected("unknown label 4")
    )
    yield drawn("all void", saved(np.full(HW, 255, np.uint8), "PNG"), Shown(labels=np.full(HW, 255, np.uint8)))
    yield drawn("empty", b"", Rejected("the file is empty"))
    yield drawn("cut", saved(labels(), "PNG")[:60], Rejected(UNREADABLE))
    yield drawn("text", b"0 0 0 1", Rejected(UNKNOWN))
    yield drawn("a bomb", png(60_000, 60_000, bytes(99)), Rejected("megapixels"))
    yield drawn("of no size", png(0, 0, b""), Rejected(UNREADABLE))
    yield drawn("a GIF bomb", gif(65_535, 65_535), Rejected("megapixels"))
    yield Case("mask, none", image(saved(scene(), "PNG")), Rejected("has no mask"), has_mask=False)

    def beside(name: str) -> Case:
        def write(root: Path) -> None:
            image(saved(scene(), "PNG"))(root)
            (root / MASK / name).write_bytes(b"nobody looks at this")

        return Case(f"mask without an image, {name}", write, Shown())

    yield from map(beside, ("stranger.png", "stranger.jpg", "case.txt", ".case.png"))
    lossy = Case(
        "mask, a JPEG by name too",
        lambda root: (
            image(saved(scene(), "PNG"))(root),
            (root / MASK / "case.jpg").write_bytes(saved(labels(), "JPEG")),
        ),
        Rejected("has no mask"),
        has_mask=False,
    )
    yield lossy
    yield Case(
        "mask, a FIFO",
        lambda root: (image(saved(scene(), "PNG"))(root), os.mkfifo(root / MASK / "case.png")),
        Rejected("not a regular file"),
        has_mask=False,
    )
    yield Case(
        "mask, a folder",
        lambda root: (image(saved(scene(), "PNG"))(root), (root / MASK / "case.png").mkdir()),
        Rejected("not a regular file"),
        has_mask=False,
    )
    yield Case(
        "mask, a link out of the root",
        lambda root: (image(saved(scene(), "PNG"))(root), (root / MASK / "case.png").symlink_to(_outside(root))),
        Refused("outside the data set's folder"),
        has_mask=False,
    )


def _outside(root: Path) -> Path:
    outside = root.parent / "outside.png"
    outside.write_bytes(saved(scene(), "PNG"))
    return outside


def _places() -> Iterator[Case]:
    file = Path("images/train/case.png")
    links: dict[str, tuple[object, Rejected | Refused]] = {
        "out of the root": (_outside, Refused("outside the data set's folder")),
        "to the root of the file system": (lambda _: Path("/"), Refused("outside the data set's folder")),
        "to /dev/zero": (lambda _: Path("/dev/zero"), Refused("outside the data set's folder")),
        "to /proc/self/mem": (lambda _: Path("/proc/self/mem"), Refused("outside the data set's folder")),
        "to nothing": (lambda root: root / "gone.png", Rejected("does not exist")),
        "to itself": (lambda root: root / file, Rejected("links to itself|cannot be read")),
        "to nothing outside": (lambda root: root.parent / "gone.png", Refused("outside the data set's folder")),
        "to its folder": (lambda root: root / "images" / "train", Rejected("not a regular file")),
    }
    for name, (target, expected) in links.items():
        yield Case(f"link {name}", lambda root, target=target: (root / file).symlink_to(target(root)), expected)  # type: ignore[operator]
    inside = Case(
        "link within the root",
        lambda root: (
            (root / "kept").mkdir(),
            (root / "kept" / "a.dat").write_bytes(saved(scene(), "PNG")),
            (root / file).symlink_to(root / "kept" / "a.dat"),
        ),
        Shown(),
    )
    yield inside
    yield Case("folder called .png", lambda root: (root / file).mkdir(), Rejected("not a regular file"))
    yield Case("FIFO called .png", lambda root: os.mkfifo(root / file), Rejected("not a regular file"))
    yield Case(
        "device called .png", lambda root: os.mknod(root / file, 0o020644, os.makedev(1, 5)), Rejected("not a regular file")
    )
    yield Case(
        "split folder that is a link out of the root", _split_outside, Refused("outside the data set's folder"), has_mask=False
    )
    yield Case("mask folder that is a link out of the root", _masks_outside, Refused("outside the data set's folder"))
    yield Case(
        "class list that is a FIFO",
        lambda root: (image(saved(scene(), "PNG"))(root), (root / "classes.txt").unlink(), os.mkfifo(root / "classes.txt")),
        Refused("classes.txt: expected a text file"),
    )
    yield Case(
        "class list of 100 MB",
        lambda root: (image(saved(scene(), "PNG"))(root), os.truncate(root / "classes.txt", 100_000_000)),
        Refused("classes.txt: expected a text file of at most"),
    )


def _split_outside(root: Path) -> None:
    (root / "images" / "train").rename(root.parent / "elsewhere")
    (root / "images" / "train").symlink_to(root.parent / "elsewhere")


def _masks_outside(root: Path) -> None:
    image(saved(scene(), "PNG"))(root)
    (root / "masks" / "train").rename(root.parent / "masks elsewhere")
    (root / "masks" / "train").symlink_to(root.parent / "masks elsewhere")
