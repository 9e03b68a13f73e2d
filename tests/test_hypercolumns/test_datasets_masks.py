"""Masks are labels checked against the class list, or refused with file, value and remedy."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hypercolumns.datasets.masks import decode_mask, mask_palette
from hypercolumns.datasets.palettes import voc_palette
from hypercolumns.errors import MaskError
from tests.factories import make_mask, make_scribbles, save_mask

SHAPE = (24, 32)


def test_labels_come_back_as_drawn_and_writable(tmp_path: Path) -> None:
    mask = make_mask(SHAPE)
    decoded = decode_mask(save_mask(tmp_path / "m.png", mask), image_hw=SHAPE, classes=4)
    np.testing.assert_array_equal(decoded, mask)
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable


def test_a_palette_gives_colours_and_changes_no_label(tmp_path: Path) -> None:
    mask = make_mask(SHAPE)
    path = save_mask(tmp_path / "m.png", mask, palette=voc_palette())
    np.testing.assert_array_equal(decode_mask(path, image_hw=SHAPE, classes=4), mask)
    np.testing.assert_array_equal(mask_palette(path), voc_palette())


def test_a_short_palette_is_filled_with_black(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette([1, 2, 3, 4, 5, 6])
    image.save(tmp_path / "m.png")
    palette = mask_palette(tmp_path / "m.png")
    assert palette is not None
    assert palette.shape == (256, 3)
    assert palette[:2].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert not palette[2:].any()


def test_a_grey_mask_has_no_palette(tmp_path: Path) -> None:
    assert mask_palette(save_mask(tmp_path / "m.png", make_mask(SHAPE))) is None


def test_the_void_label_becomes_255_whatever_it_is(tmp_path: Path) -> None:
    path = save_mask(tmp_path / "m.png", np.array([[0, 1, 11]], dtype=np.uint8))
    assert decode_mask(path, image_hw=(1, 3), classes=11, void_label=11).tolist() == [[0, 1, 255]]
    assert decode_mask(path, image_hw=(1, 3), classes=12, void_label=0).tolist() == [[255, 1, 11]]


def test_scribbles_and_masks_that_are_void_altogether_are_fine(tmp_path: Path) -> None:
    for mask in (make_scribbles(make_mask(SHAPE)), np.full(SHAPE, 255, dtype=np.uint8)):
        decoded = decode_mask(save_mask(tmp_path / "m.png", mask), image_hw=SHAPE, classes=4)
        np.testing.assert_array_equal(decoded, mask)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_labels_of_shallow_grey_pngs_are_not_stretched(tmp_path: Path, bits: int) -> None:
    labels = list(range(min(2**bits, 8)))
    row = "".join(format(label, f"0{bits}b") for label in labels)
    row += "0" * (-len(row) % 8)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", len(labels), 1, bits, 0, 0, 0, 0)
    packed = zlib.compress(b"\0" + int(row, 2).to_bytes(len(row) // 8, "big"))
    data = chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    (tmp_path / "m.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    assert decode_mask(tmp_path / "m.png", image_hw=(1, len(labels)), classes=8).tolist() == [labels]


def test_a_16_bit_mask_of_small_labels_is_read_and_of_large_ones_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 3, 255]], dtype=np.uint16)).save(tmp_path / "fine.png")
    assert decode_mask(tmp_path / "fine.png", image_hw=(1, 3), classes=4).tolist() == [[0, 3, 255]]
    Image.fromarray(np.array([[0, 256, 259]], dtype=np.uint16)).save(tmp_path / "large.png")
    with pytest.raises(MaskError, match=r"unknown label 256 \(1 pixels\), 259 \(1 pixels\)"):
        decode_mask(tmp_path / "large.png", image_hw=(1, 3), classes=4)


def test_a_label_beyond_the_classes_is_refused_with_value_count_and_remedy(tmp_path: Path) -> None:
    path = save_mask(tmp_path / "m.png", np.array([[0, 4, 4, 255]], dtype=np.uint8))
    with pytest.raises(MaskError, match=r"m\.png: unknown label 4 \(2 pixels\); expected 0 to 3, or 255 .* class list"):
        decode_mask(path, image_hw=(1, 4), classes=4)


def test_many_unknown_labels_are_summed_up(tmp_path: Path) -> None:
    path = save_mask(tmp_path / "m.png", np.arange(100, 120, dtype=np.uint8)[None])
    with pytest.raises(MaskError, match=r"104 .1 pixels. and 15 more"):
        decode_mask(path, image_hw=(1, 20), classes=4)


def test_255_is_unknown_where_void_is_another_label(tmp_path: Path) -> None:
    path = save_mask(tmp_path / "m.png", np.array([[0, 255]], dtype=np.uint8))
    with pytest.raises(MaskError, match=r"unknown label 255 .* set dataset\.void_label"):
        decode_mask(path, image_hw=(1, 2), classes=11, void_label=11)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_mask_of_colours_is_refused_with_the_remedy(tmp_path: Path, mode: str) -> None:
    Image.fromarray(voc_palette()[make_mask(SHAPE)]).convert(mode).save(tmp_path / "m.png")
    with pytest.raises(MaskError, match=rf"mode {mode}: the pixels are colours.* whose values are the labels"):
        decode_mask(tmp_path / "m.png", image_hw=SHAPE, classes=4)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    path = save_mask(tmp_path / "m.png", make_mask((24, 31)))
    with pytest.raises(MaskError, match="24 high and 31 wide, its image 24 high and 32 wide"):
        decode_mask(path, image_hw=SHAPE, classes=4)


def test_a_jpeg_mask_is_refused_even_with_a_png_suffix(tmp_path: Path) -> None:
    Image.fromarray(make_mask(SHAPE)).save(tmp_path / "m.png", format="JPEG")
    with pytest.raises(MaskError, match="a JPEG changes labels"):
        decode_mask(tmp_path / "m.png", image_hw=SHAPE, classes=4)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_a_mask_that_is_no_png_is_refused_even_with_a_png_suffix(tmp_path: Path, kind: str) -> None:
    Image.fromarray(make_mask(SHAPE)).save(tmp_path / "m.png", format=kind)
    with pytest.raises(MaskError, match=f"a {kind}, and a PNG is expected"):
        decode_mask(tmp_path / "m.png", image_hw=SHAPE, classes=4)


def test_a_mask_of_several_frames_is_refused(tmp_path: Path) -> None:
    mask = Image.fromarray(make_mask(SHAPE))
    mask.save(tmp_path / "m.png", save_all=True, append_images=[Image.new("L", mask.size, 3)])
    with pytest.raises(MaskError, match="2 frames, and one is expected"):
        decode_mask(tmp_path / "m.png", image_hw=SHAPE, classes=4)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_truncated_or_empty_mask_is_refused(tmp_path: Path, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 4, size=(64, 64), dtype=np.uint8)
    path = save_mask(tmp_path / "m.png", noise)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MaskError, match="empty" if share == 0 else "cannot be read"):
        decode_mask(path, image_hw=(64, 64), classes=4)


def test_a_huge_mask_is_refused(tmp_path: Path) -> None:
    path = save_mask(tmp_path / "m.png", make_mask(SHAPE))
    with pytest.raises(MaskError, match="megapixels"):
        decode_mask(path, image_hw=SHAPE, classes=4, max_megapixels=1e-4)
