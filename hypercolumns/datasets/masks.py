"""Label mask files to arrays of labels: what each pixel is, checked against the class list before anyone learns from it.

A mask is a single-channel file whose *values* are labels (a palette gives them colours, nothing else). Colours are never
guessed back into labels. An EXIF orientation is applied, as it is to images: every viewer shows both that way. Knows nothing of
data sets' layouts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import ImageFile

from hypercolumns.datasets.decoding import DEFAULT_MAX_MEGAPIXELS, opened, orientation_of, turned_upright
from hypercolumns.errors import MaskError

__all__ = ["VOID", "decode_mask", "mask_palette"]

VOID = 255

# Pillow stretches the values of shallow grey PNGs to 0 ... 255; the labels are what was stored.
_STRETCH = {"L;2": 85, "L;4": 17}


def decode_mask(
    path: Path,
    *,
    image_hw: tuple[int, int],
    classes: int,
    void_label: int = VOID,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    sha256: str | None = None,
) -> np.ndarray:
    """Decode and check a label mask.

    Args:
        path: The mask file: a PNG of one channel or with a palette; its suffix is ignored.
        image_hw: Height and width of its upright image.
        classes: Number of classes C.
        void_label: The value in the file that means "neither learned nor scored"; it comes before the classes.
        max_megapixels: A larger mask is refused.
        sha256: The digest the file's bytes must have; None takes any.

    Returns:
        Labels 0 … C-1, or VOID, uint8 (H, W), writable.

    Raises:
        MaskError: the file is missing, damaged or no PNG, has colours instead of labels, another size than the image, a label
            that is neither a class nor void, or is not the one whose digest was given.
    """
    with opened(path, max_megapixels=max_megapixels, error_type=MaskError, sha256=sha256) as mask:
        values = _stored_values(mask, path)
    _check_size(path, (values.shape[0], values.shape[1]), image_hw)
    void = values == void_label
    unknown = ((values >= classes) | (values < 0)) & ~void
    if unknown.any():
        raise _unknown_labels(path, values[unknown], classes, void_label)
    labels = values.astype(np.uint8)
    labels[void] = VOID
    return labels


def mask_palette(path: Path, *, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS) -> np.ndarray | None:
    """Read the palette of a mask, uint8 RGB (256, 3), black where it has no entry; None when it is no palette image.

    Raises:
        MaskError: the file is missing or damaged.
    """
    with opened(path, max_megapixels=max_megapixels, error_type=MaskError) as mask:
        if mask.mode != "P":
            return None
        mask.load()
        colours = np.array(mask.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)[:256]
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(colours)] = colours
    return palette


def _stored_values(mask: ImageFile.ImageFile, path: Path) -> np.ndarray:
    if mask.format in {"JPEG", "MPO"}:
        raise MaskError(path, "a JPEG changes labels at every edge", "save the mask as a PNG from its source")
    if mask.format != "PNG":
        # Other formats renumber palettes (GIF), store values inverted or stretched (TIFF), or lose some (WebP).
        raise MaskError(path, f"a {mask.format}, and a PNG is expected", "save the mask as a PNG from its source")
    frames = getattr(mask, "n_frames", 1)
    if frames > 1:
        raise MaskError(path, f"{frames} frames, and one is expected", "save the one that is meant as a PNG of its own")
    if mask.mode not in {"1", "L", "P", "I", "I;16", "I;16B", "I;16L"}:
        raise MaskError(
            path,
            f"mode {mask.mode}: the pixels are colours, and labels are expected",
            "save it as a PNG of one channel (or with a palette) whose values are the labels 0, 1, ...",
        )
    raw_mode = mask.tile[0].args if mask.tile else None
    orientation = orientation_of(mask)
    mask.load()
    values = np.asarray(turned_upright(mask, orientation))
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    return values // _STRETCH[raw_mode] if isinstance(raw_mode, str) and raw_mode in _STRETCH else values


def _check_size(path: Path, mask_hw: tuple[int, int], image_hw: tuple[int, int]) -> None:
    if mask_hw == image_hw:
        return
    turned = mask_hw == image_hw[::-1]
    raise MaskError(
        path,
        f"the mask is {mask_hw[0]} high and {mask_hw[1]} wide, its image {image_hw[0]} high and {image_hw[1]} wide"
        + (" once its EXIF orientation is applied" if turned else ""),
        "turn the mask the way its image is shown" if turned else "draw the mask at its image's size",
    )


def _unknown_labels(path: Path, values: np.ndarray, classes: int, void_label: int) -> MaskError:
    labels, counts = np.unique(values, return_counts=True)
    found = ", ".join(f"{label} ({count} pixels)" for label, count in zip(labels[:5], counts[:5], strict=True))
    more = f" and {len(labels) - 5} more" if len(labels) > 5 else ""
    return MaskError(
        path,
        f"unknown label {found}{more}; expected 0 to {classes - 1}, or {void_label} for void",
        "correct the mask, complete the class list, or set dataset.void_label",
    )
