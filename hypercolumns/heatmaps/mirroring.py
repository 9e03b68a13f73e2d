"""Boxes and targets in the mirror: what the hflip view of an image shows where the image itself shows a box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

__all__ = ["Mirror"]


@dataclass(frozen=True)
class Mirror:
    """What a mirrored canvas does to the boxes on it and to what they are to show.

    Attributes:
        width_px: Width of the canvas.
        orders: For each class, which of its own outputs shows in the mirror what each one shows outside it; -1 for none.
    """

    width_px: int
    orders: Sequence[Sequence[int]]

    def boxes(self, boxes_xyxy: NDArray[np.float64]) -> Float[NDArray[np.float64], "n 4"]:
        """Return where boxes (n, 4) of a canvas lie on the mirrored one."""
        x0, y0, x1, y1 = boxes_xyxy.T
        return np.stack([self.width_px - x1, y0, self.width_px - x0, y1], axis=1)

    def target(self, target: NDArray[np.float32], label: int) -> Float[NDArray[np.float32], "c s s"]:
        """Return what heatmaps (c, S, S) of a class are to be in the mirrored box; NaN for outputs that nothing shows."""
        order = np.asarray(self.orders[label], np.int64)
        mirrored: NDArray[np.float32] = np.ascontiguousarray(target[order][..., ::-1])
        mirrored[order < 0] = np.nan
        return mirrored
