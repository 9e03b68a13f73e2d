"""Image files are shown as a person expects, or refused with their reason."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hypercolumns.datasets.decoding import decode_image, image_hw, image_sha256, read_image
from hypercolumns.errors import ImageError

# A 2x3 picture whose upright form is known for each EXIF orientation, by the EXIF standard's own words: which side of the
# scene the 0th row and the 0th column show.
_ORIENTED_SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


@pytest.fixture
def scene() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(16, 24, 3), dtype=np.uint8)


def stored_for(scene: np.ndarray, orientation: int) -> np.ndarray:
    """Store an upright scene such that row 0 and column 0 of the file show the sides the EXIF standard names."""
    row_side, column_side = _ORIENTED_SIDES[orientation]
    height, width = scene.shape[:2]
    along = {
        "top": range(height),
        "bottom": range(height - 1, -1, -1),
        "left": range(width),
        "right": range(width - 1, -1, -1),
    }
    rows = []
    for row in along[row_side]:
        cells = []
        for column in along[column_side]:
            y, x = (row, column) if row_side in {"top", "bottom"} else (column, row)
            cells.append(scene[y, x])
        rows.append(cells)
    return np.array(rows, dtype=np.uint8)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def grey_png(values: list[list[int]], bits: int) -> bytes:
    """Encode a grey PNG of 1 to 16 bits by hand, so that the test does not rest on an encoder."""
    packed = b""
    for row in values:
        number = "".join(format(value, f"0{bits}b") for value in row)
        number += "0" * (-len(number) % 8)
        packed += b"\0" + int(number, 2).to_bytes(len(number) // 8, "big")
    header = struct.pack(">IIBBBBB", len(values[0]), len(values), bits, 0, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(packed)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_a_lossless_image_comes_back_as_it_was_saved(tmp_path: Path, scene: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(scene).save(path)
    decoded = decode_image(path)
    np.testing.assert_array_equal(decoded, scene)
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable
    assert image_hw(path) == (16, 24)


def test_webp_is_read(tmp_path: Path, scene: np.ndarray) -> None:
    Image.fromarray(scene).save(tmp_path / "image.webp", lossless=True)
    np.testing.assert_array_equal(decode_image(tmp_path / "image.webp"), scene)


def test_a_jpeg_is_close_to_what_was_saved(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 32, dtype=np.uint8)[None, :, None], (16, 32, 3))
    Image.fromarray(np.ascontiguousarray(smooth)).save(tmp_path / "image.jpg", quality=95)
    assert np.abs(decode_image(tmp_path / "image.jpg").astype(int) - smooth).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_every_exif_orientation_is_applied(tmp_path: Path, scene: np.ndarray, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(stored_for(scene, orientation)).save(path, exif=exif, **options)
    np.testing.assert_array_equal(decode_image(path), scene)
    assert image_hw(path) == (16, 24)


def test_a_jpeg_photo_taken_sideways_is_shown_upright(tmp_path: Path) -> None:
    scene = np.zeros((16, 32, 3), dtype=np.uint8)
    scene[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored_for(scene, 6)).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    decoded = decode_image(tmp_path / "photo.jpg")
    assert decoded.shape == (16, 32, 3)
    assert decoded[:8].min() > 200
    assert decoded[8:].max() < 50
    assert image_hw(tmp_path / "photo.jpg") == (16, 32)


@pytest.mark.parametrize("exif_bytes", [b"Exif\0\0MM\0*", b"Exif\0\0garbage that is no TIFF header"])
def test_an_unreadable_exif_block_leaves_the_image_as_stored(tmp_path: Path, scene: np.ndarray, exif_bytes: bytes) -> None:
    Image.fromarray(scene).save(tmp_path / "image.png", exif=exif_bytes)
    np.testing.assert_array_equal(decode_image(tmp_path / "image.png"), scene)


def test_an_orientation_that_does_not_exist_is_passed_over(tmp_path: Path, scene: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    Image.fromarray(scene).save(tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(decode_image(tmp_path / "image.png"), scene)


def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    (tmp_path / "deep.png").write_bytes(grey_png([[0, 257, 32768, 65535]], 16))
    np.testing.assert_array_equal(decode_image(tmp_path / "deep.png")[0, :, 0], [0, 1, 128, 255])


def test_sixteen_bit_tiff_and_pgm_keep_their_range(tmp_path: Path) -> None:
    values = np.array([[0, 25700, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.tif")
    (tmp_path / "deep.pgm").write_bytes(b"P5 3 1 65535\n" + values.astype(">u2").tobytes())
    for name in ("deep.tif", "deep.pgm"):
        decoded = decode_image(tmp_path / name)
        np.testing.assert_array_equal(decoded[0], [[0] * 3, [100] * 3, [255] * 3])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_shallow_grey_images_reach_from_black_to_white(tmp_path: Path, bits: int) -> None:
    (tmp_path / "shallow.png").write_bytes(grey_png([[0, 2**bits - 1]], bits))
    np.testing.assert_array_equal(decode_image(tmp_path / "shallow.png")[0], [[0, 0, 0], [255, 255, 255]])


def test_greyscale_becomes_rgb_of_equal_channels(tmp_path: Path, scene: np.ndarray) -> None:
    Image.fromarray(scene[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(decode_image(tmp_path / "grey.png"), np.repeat(scene[..., :1], 3, axis=2))


def test_cmyk_is_shown_in_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=95)
    red, green, blue = decode_image(tmp_path / "print.jpg")[8, 8]
    assert red > 245
    assert max(green, blue) < 10


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 128]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(decode_image(tmp_path / "alpha.png")[0, :2], [[200, 0, 0], [255, 255, 255]])
    np.testing.assert_allclose(decode_image(tmp_path / "alpha.png")[0, 2], 127, atol=1)


def test_a_palette_image_with_a_transparent_colour_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "palette.png", transparency=1)
    np.testing.assert_array_equal(decode_image(tmp_path / "palette.png")[0], [[10, 20, 30], [255, 255, 255]])


def test_the_first_frame_of_an_animation_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    assert (decode_image(tmp_path / "film.gif") == (255, 0, 0)).all()


def test_the_content_counts_and_not_the_suffix(tmp_path: Path, scene: np.ndarray) -> None:
    Image.fromarray(scene).save(tmp_path / "image.png")
    (tmp_path / "image.png").rename(tmp_path / "image.jpg")
    np.testing.assert_array_equal(decode_image(tmp_path / "image.jpg"), scene)


def test_odd_file_names_are_read(tmp_path: Path, scene: np.ndarray) -> None:
    for name in ("with space.png", "größe 汉字 😀.png", "two\nlines.png"):
        Image.fromarray(scene).save(tmp_path / name)
        np.testing.assert_array_equal(decode_image(tmp_path / name), scene)


def test_a_zero_byte_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match=r"empty\.jpg: the file is empty"):
        decode_image(tmp_path / "empty.jpg")


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("these are notes")
    with pytest.raises(ImageError, match="not an image of a known format"):
        decode_image(tmp_path / "notes.jpg")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for read in (decode_image, image_hw, image_sha256, read_image):
        with pytest.raises(ImageError, match=r"gone\.jpg: the file does not exist"):
            read(tmp_path / "gone.jpg")


def test_a_folder_in_place_of_an_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="it is not a regular file"):
        decode_image(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tif", "bmp"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_a_truncated_image_is_refused_with_its_reason(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"cut.{suffix}"
    noise = np.random.default_rng(1).integers(0, 256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError) as caught:
        decode_image(path)
    assert caught.value.path == path
    assert caught.value.reason
    assert caught.value.remedy


def test_a_png_with_flipped_bits_is_refused(tmp_path: Path, scene: np.ndarray) -> None:
    path = tmp_path / "damaged.png"
    Image.fromarray(scene).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(ImageError, match="cannot be read"):
        decode_image(path)


def test_an_image_above_the_limit_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    # The header promises 40,000 x 40,000 pixels; there are none behind it.
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
    )
    with pytest.raises(ImageError, match=r"1600\.0 megapixels, more than the limit of 100.*max_megapixels"):
        decode_image(tmp_path / "bomb.png")


def test_the_limit_is_the_given_one_and_not_pillows(tmp_path: Path, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(scene).save(tmp_path / "image.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    np.testing.assert_array_equal(decode_image(tmp_path / "image.png"), scene)
    with pytest.raises(ImageError, match="megapixels"):
        decode_image(tmp_path / "image.png", max_megapixels=scene[..., 0].size / 1e6 / 2)


def test_floating_point_and_32_bit_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ImageError, match="no agreed range"):
        decode_image(tmp_path / "float.tif")
    Image.fromarray(np.array([[0, 70_000]], dtype=np.int32)).save(tmp_path / "wide.tif")
    with pytest.raises(ImageError, match="pixels from 0 to 70000"):
        decode_image(tmp_path / "wide.tif")


def test_the_digest_is_that_of_the_files_bytes(tmp_path: Path, scene: np.ndarray) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(scene).save(path)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert image_sha256(path) == image_sha256(str(path)) == expected
    pixels, digest = read_image(path)
    np.testing.assert_array_equal(pixels, scene)
    assert digest == expected
