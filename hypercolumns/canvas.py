"""Between an image's own size and the canvas: fitting images and masks in, normalising, mirroring, and scores back out.

Positions follow `hypercolumns.geometry`. Padding never takes part: images are padded with the colour that normalises to about
zero, masks with VOID, and scores are read from the content's grid points only. Nothing here touches files.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from hypercolumns.errors import GeometryError
from hypercolumns.geometry import Placement, axis_map, linear_taps, place
from hypercolumns.kernels.labelling import Positions, best_interpolated
from hypercolumns.specs import CanvasSpec

__all__ = [
    "IMAGENET_MEAN_RGB",
    "best_labels",
    "fit_image",
    "fit_mask",
    "flip_view",
    "label_pixels",
    "normalise",
    "restore_logits",
]

IMAGENET_MEAN_RGB = (0.485, 0.456, 0.406)
_VOID = 255
_CLASSES_A_THREAD = 32
"""Up to so many for each of torch's threads, less half as many, they find the best class sooner than numpy does with one."""


def fit_image(
    image: np.ndarray, canvas: CanvasSpec, *, fill_rgb: tuple[float, float, float] = IMAGENET_MEAN_RGB
) -> tuple[np.ndarray, Placement]:
    """Fit an image into the canvas, with antialiased bilinear resampling.

    Args:
        image: uint8 RGB (H, W, 3).
        canvas: The canvas.
        fill_rgb: Colour of the padding in [0, 1]; the preprocessing's mean makes it about zero.

    Returns:
        The canvas, uint8 RGB (canvas_H, canvas_W, 3), and where the image lies on it. An image of the canvas' own size comes
        back as it is, not copied.

    Raises:
        GeometryError: it is not such an image.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise GeometryError(f"expected a uint8 RGB image (H, W, 3), got {image.dtype} {image.shape}")
    placement = place((image.shape[0], image.shape[1]), canvas)
    height, width = placement.content_hw
    if placement.image_hw != placement.content_hw:
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        image = np.array(resized)
    if placement.content_hw == placement.canvas_hw:
        return image, placement
    top, left, bottom, right = placement.box_yxyx
    framed = np.empty((*placement.canvas_hw, 3), dtype=np.uint8)
    framed[:] = np.rint(np.asarray(fill_rgb) * 255).clip(0, 255).astype(np.uint8)
    framed[top:bottom, left:right] = image
    return framed, placement


def fit_mask(mask: np.ndarray, placement: Placement) -> np.ndarray:
    """Fit a label mask into the canvas: the label under each content pixel's centre, VOID outside the content.

    Args:
        mask: Labels, uint8 (H, W), of the image's size.
        placement: Where the image lies on the canvas.

    Returns:
        Labels, uint8 (canvas_H, canvas_W). A mask of the canvas' own size comes back as it is, not copied.

    Raises:
        GeometryError: the mask has not the image's size.
    """
    if mask.shape != placement.image_hw:
        raise GeometryError(f"expected a mask of the image's size {placement.image_hw}, got {mask.shape}")
    if placement.image_hw == placement.canvas_hw:
        return mask
    top, left, bottom, right = placement.box_yxyx
    rows, columns = (
        # floor((i + 1/2) * image / content), in whole numbers
        (2 * np.arange(content) + 1) * side // (2 * content)
        for content, side in zip(placement.content_hw, placement.image_hw, strict=True)
    )
    framed = np.full(placement.canvas_hw, _VOID, dtype=np.uint8)
    framed[top:bottom, left:right] = mask[rows[:, None], columns]
    return framed


def normalise(
    batch: UInt8[Tensor, "b h w 3"],
    mean_rgb: tuple[float, float, float],
    std_rgb: tuple[float, float, float],
    *,
    out: Float[Tensor, "b 3 h w"] | None = None,
) -> Float[Tensor, "b 3 h w"]:
    """Turn uint8 RGB canvases into the float32 batch a backbone takes: (x/255 - mean) / std.

    Args:
        batch: Canvases, contiguous.
        mean_rgb: Mean in [0, 1].
        std_rgb: Standard deviation, positive.
        out: A float32 channels_last batch of that shape on the same device to write to, so that large batches are allocated
            once.

    Returns:
        float32, channels_last in memory.

    Raises:
        GeometryError: `out` has another shape, type or memory format.
    """
    count, height, width, channels = batch.shape
    if out is None:
        out = torch.empty((count, height, width, channels), dtype=torch.float32, device=batch.device).permute(0, 3, 1, 2)
    flat = out.permute(0, 2, 3, 1)
    if tuple(flat.shape) != tuple(batch.shape) or out.dtype != torch.float32 or not flat.is_contiguous():
        expected = (count, channels, height, width)
        raise GeometryError(f"expected a float32 channels_last out {expected}, got {out.dtype} {tuple(out.shape)}")
    # Whole rows of repeated constants: a broadcast over an innermost axis of three would not vectorise.
    scale = torch.tensor([1 / (255 * deviation) for deviation in std_rgb], dtype=torch.float32).repeat(width).to(batch.device)
    shift = torch.tensor(
        [-mean / deviation for mean, deviation in zip(mean_rgb, std_rgb, strict=True)], dtype=torch.float32
    ).repeat(width)
    rows = flat.view(count, height, width * channels)
    torch.mul(batch.reshape(count, height, width * channels), scale, out=rows)
    rows.add_(shift.to(batch.device))
    return out


def flip_view(image: np.ndarray, view: str) -> np.ndarray:
    """Show an image or mask (H, W, ...) in a view: ``identity`` as it is, ``hflip`` mirrored left to right (a copy).

    Views are taken of fitted canvases, for images and labels alike: so an odd padding is mirrored with what it surrounds.

    Raises:
        GeometryError: there is no such view.
    """
    if view == "identity":
        return image
    if view == "hflip":
        return np.ascontiguousarray(image[:, ::-1])
    raise GeometryError(f"expected view identity or hflip, got {view!r}")


def restore_logits(logits: Float[Tensor, "c h w"], placement: Placement) -> Float[Tensor, "c height width"]:
    """Bring scores from the canvas' grid to the image's own pixels: crop the content, interpolate bilinearly.

    A label pixel's centre is mapped to its canvas position and from there to grid coordinates, exactly, also where the content
    begins inside a cell. Positions beyond the first and last grid point inside the content are clamped to them, so that what
    the padding was classified as never leaks in. Where the content ends at cell borders (always, when it fills the canvas)
    this is `F.interpolate(align_corners=False)` of the cropped grid.

    Args:
        logits: Scores at the grid points (j + 1/2) * stride of the whole canvas.
        placement: Where the image lies on the canvas.

    Returns:
        Scores at the image's pixel centres (C, image_H, image_W).
    """
    rows, columns = _pixel_positions((logits.shape[1], logits.shape[2]), placement)
    return _read(_read(logits, 1, rows), 2, columns)


def label_pixels(logits: Float[Tensor, "c h w"], placement: Placement) -> np.ndarray:
    """Return the best class of every pixel of the image, uint8 (H, W): `best_labels` of `restore_logits`, to rounding.

    Arguments are those of `restore_logits`; on CPUs the scores of the pixels are not written.
    """
    if logits.device.type != "cpu" or logits.dtype != torch.float32:
        return best_labels(restore_logits(logits, placement))
    positions = _pixel_positions((logits.shape[1], logits.shape[2]), placement)
    labels: np.ndarray = best_interpolated(logits.permute(1, 2, 0), *positions).numpy()
    return labels


def best_labels(logits: Float[Tensor, "c h w"]) -> np.ndarray:
    """Return the best class of every pixel, uint8 (H, W); the first of several that are equal."""
    scores = logits.permute(1, 2, 0).contiguous().cpu()
    best: np.ndarray
    if scores.shape[-1] <= _CLASSES_A_THREAD * (torch.get_num_threads() - 0.5):
        # `argmax` takes half as much again.
        best = scores.max(dim=-1).indices.to(torch.uint8).numpy()
    else:
        # With one thread numpy is faster, and the more so the more classes there are.
        best = scores.numpy().argmax(axis=-1).astype(np.uint8)
    return best


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _pixel_positions(grid_hw: tuple[int, int], placement: Placement) -> tuple[Positions, Positions]:
    """Find the grid points between which the image's pixels lie, and their weights, along each axis."""
    top, left, bottom, right = placement.box_yxyx
    (height, width), (rows, columns) = placement.canvas_hw, placement.image_hw
    return _axis_positions(grid_hw[0], height, (top, bottom), rows), _axis_positions(grid_hw[1], width, (left, right), columns)


def _axis_positions(cells: int, canvas: int, box: tuple[int, int], pixels: int) -> Positions:
    """Find where the `pixels` that fill a box on the canvas lie between the canvas' `cells`, along one axis."""
    start, stop = box
    cell_px = canvas / cells
    # The first and last cell whose centre lies in the content; a content between two centres reads both of them.
    first = -((cells * 2 * start - canvas) // (-2 * canvas))
    last = (cells * 2 * stop - canvas) // (2 * canvas)
    first, last = (max(0, min(first, last)), min(cells - 1, max(first, last)))
    positions = start + (torch.arange(pixels, dtype=torch.float64) + 0.5) * ((stop - start) / pixels)
    positions = positions.clamp((first + 0.5) * cell_px, (last + 0.5) * cell_px)
    lower, upper, weight = linear_taps(positions, axis_map(canvas, cells))
    # A cell of no weight is not read: nothing times what is not finite would not be nothing.
    return torch.where(weight < 1, lower, upper), torch.where(weight > 0, upper, lower), weight


def _read(logits: Tensor, dim: int, positions: Positions) -> Tensor:
    """Interpolate linearly along one axis."""
    lower, upper, weight = (values.to(logits.device) for values in positions)
    shape = [-1 if axis == dim else 1 for axis in range(logits.ndim)]
    first, second, shares = logits.index_select(dim, lower), logits.index_select(dim, upper), weight.to(logits).reshape(shape)
    # Not `lerp`: the difference of two infinities is no number.
    return torch.where((lower == upper).reshape(shape), first, first * (1 - shares) + second * shares)
