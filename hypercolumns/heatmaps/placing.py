"""Where the heatmap of one box lies in its image: the expanded box, and the positions of the heatmap's pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from hypercolumns.geometry import box_positions, expand_boxes

__all__ = ["expanded_box", "heatmap_positions"]


def expanded_box(box_xyxy: NDArray[Any], expansion: float) -> Float[NDArray[np.float64], 4]:
    """Return a box (4,) with its sides moved outwards by a share of its size.

    Raises:
        GeometryError: the box is not one, or the share is out of range.
    """
    return expand_boxes(_as_tensor(box_xyxy), expansion)[0].numpy()


def heatmap_positions(
    box_xyxy: NDArray[Any], side: int, expansion: float
) -> tuple[Float[NDArray[np.float64], " s"], Float[NDArray[np.float64], " s"]]:
    """Return the image positions of a heatmap's columns (S,) and rows (S,).

    Raises:
        GeometryError: the box is not one, or a number is out of range.
    """
    columns, rows = box_positions(expand_boxes(_as_tensor(box_xyxy), expansion), side)
    return columns[0].numpy(), rows[0].numpy()


def _as_tensor(box_xyxy: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(box_xyxy, np.float64)[None])
