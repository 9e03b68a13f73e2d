"""The colour map of palette masks and its inverse: which colour stands for which label.

The bits of a label are dealt out to red, green and blue, most significant first, so that neighbouring labels get distant
colours. Only arrays live here; files are read and written elsewhere.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hypercolumns.errors import DatasetError

__all__ = ["VOID_LABEL", "labels_from_colours", "voc_palette"]

VOID_LABEL = 255
"""The label of pixels that are neither trained on nor scored."""


def voc_palette() -> npt.NDArray[np.uint8]:
    """Compute the 256 colours of PASCAL VOC's palette masks.

    Returns:
        (256, 3) uint8, red, green and blue of every label. Label 0 is black, 255 (void) is (224, 224, 192).

    Source: the colour map of the PASCAL VOC development kit (Everingham et al. 2010), `VOClabelcolormap.m`.
    """
    labels = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for channel in range(3):
        for position in range(8):
            bit = (labels >> (3 * position + channel)) & 1
            palette[:, channel] |= (bit << (7 - position)).astype(np.uint8)
    return palette


def labels_from_colours(colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Turn colours of the VOC map back into labels, the inverse of `voc_palette()[labels]`.

    Args:
        colours: (..., 3) uint8, red, green and blue.

    Returns:
        Labels 0 to 255, of shape (...).

    Raises:
        DatasetError: The last axis is not 3 long, or a colour is not in the map.
    """
    if colours.dtype != np.uint8 or colours.shape[-1:] != (3,):
        raise DatasetError(
            f"expected uint8 colours of shape (..., 3), received {colours.dtype} of shape {colours.shape}. "
            "Remedy: convert the mask to 8-bit RGB first"
        )
    labels = np.zeros(colours.shape[:-1], dtype=np.uint8)
    for bit in range(8):
        position, channel = divmod(bit, 3)
        labels |= ((colours[..., channel] >> (7 - position)) & 1) << bit
    strangers = (voc_palette()[labels] != colours).any(axis=-1)
    if strangers.any():
        where = tuple(int(i) for i in np.argwhere(strangers)[0])
        raise DatasetError(
            f"expected only colours of the VOC map, received {tuple(int(c) for c in colours[where])} at {where}. "
            "Remedy: save the mask with the VOC palette, without interpolation or lossy compression"
        )
    return labels
