"""Superpixels: pieces of an image that follow its edges, onto which heatmaps are projected to follow them too.

Needs scikit-image (extra `boxes`), imported only when it is asked for.

Source: Hariharan et al., CVPR 2015, sec. 4.2 (the mean of the heatmap in each superpixel; those of at least 0.4 are kept).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from hypercolumns.errors import GeometryError, HypercolumnsError

__all__ = ["KEPT_MEAN", "SuperpixelMethod", "find_superpixels", "project"]

SuperpixelMethod = Literal["slic", "felzenszwalb"]

KEPT_MEAN = 0.4
"""Mean of a heatmap from which a superpixel belongs to the mask."""


def find_superpixels(
    image: NDArray[np.uint8], method: SuperpixelMethod = "slic", pixels: int = 200
) -> Int[NDArray[np.int64], "h w"]:
    """Cut an image into superpixels, numbered from 0.

    Args:
        image: (H, W, 3) uint8.
        method: SLIC, or Felzenszwalb and Huttenlocher's.
        pixels: About how many pixels one holds (Felzenszwalb: the fewest it may hold).

    Raises:
        GeometryError: the image is not one, the method is unknown, or `pixels` is not positive.
        HypercolumnsError: scikit-image is not installed.
    """
    if np.ndim(image) != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise GeometryError(f"expected an image (height, width, 3) of uint8, got {image.dtype} {np.shape(image)}")
    if method not in get_args(SuperpixelMethod) or pixels < 1:
        raise GeometryError(f"expected {' or '.join(get_args(SuperpixelMethod))}, and pixels > 0, got {method!r}, {pixels}")
    segmentation = _skimage()
    if method == "slic":
        count = max(1, round(image.shape[0] * image.shape[1] / pixels))
        found = segmentation.slic(image, n_segments=count, compactness=10, start_label=0)
    else:
        found = segmentation.felzenszwalb(image, scale=float(pixels), sigma=0.8, min_size=pixels)
    _, numbers = np.unique(found, return_inverse=True)
    return numbers.reshape(found.shape).astype(np.int64)


def project(laid: NDArray[Any], superpixels: NDArray[np.int64], least: float = KEPT_MEAN) -> NDArray[np.bool_]:
    """Return the superpixels in which a heatmap laid on the image has a mean of at least `least`.

    Args:
        laid: Heatmap (H, W), 0 outside its box.
        superpixels: Their numbers from 0 (H, W).
        least: In (0, 1].

    Raises:
        GeometryError: sizes differ, or `least` is out of range.
    """
    if np.shape(laid) != np.shape(superpixels) or np.ndim(laid) != 2:
        raise GeometryError(f"expected a heatmap of the superpixels' size {np.shape(superpixels)}, got {np.shape(laid)}")
    if not 0 < least <= 1:
        raise GeometryError(f"expected a least mean in (0, 1], got {least}")
    flat = superpixels.reshape(-1)
    sums = np.bincount(flat, weights=np.asarray(laid, np.float64).reshape(-1))
    kept = sums >= least * np.bincount(flat)
    mask: NDArray[np.bool_] = kept[superpixels]
    return mask


def _skimage() -> Any:
    try:
        from skimage import segmentation
    except ImportError as error:
        raise HypercolumnsError(
            "expected scikit-image, to find superpixels; install it with: pip install 'hypercolumns[boxes]'"
        ) from error
    return segmentation
