"""Crops of images: a box warped to the canvas is a view of its image, with a row of its own in every store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from hypercolumns.errors import GeometryError
from hypercolumns.geometry import expand_boxes

__all__ = ["Crop"]

_BOX_DIGITS = 4
_EXPANSION_DIGITS = 6


class Crop(BaseModel):
    """A box of an image, to be warped to the canvas; numbers are rounded, so that those who mean the same box share its row.

    Attributes:
        box_xyxy: The box in pixels of the image, to a ten-thousandth of one.
        expansion: Share of the box's size by which each of its sides is moved outwards first, to a millionth.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    box_xyxy: tuple[float, float, float, float]
    expansion: float

    @classmethod
    def of(cls, box_xyxy: Sequence[float], expansion: float) -> Self:
        """Name the crop of a box.

        Raises:
            GeometryError: the box has no area, or another number is out of range.
        """
        x0, y0, x1, y1 = (round(float(side), _BOX_DIGITS) + 0.0 for side in box_xyxy)
        crop = cls(box_xyxy=(x0, y0, x1, y1), expansion=round(float(expansion), _EXPANSION_DIGITS) + 0.0)
        if max(map(abs, crop.expanded.tolist())) >= 1e9:
            raise GeometryError(f"expected a box within a billion pixels of its image, got {list(box_xyxy)}")
        return crop

    @property
    def expanded(self) -> NDArray[np.float64]:
        """What is warped to the canvas (4,)."""
        box = torch.tensor([self.box_xyxy], dtype=torch.float64)
        expanded: NDArray[np.float64] = expand_boxes(box, self.expansion)[0].numpy()
        return expanded

    def view(self, of: str) -> str:
        """Name a view of the crop, as part of a row key: its identity or its hflip.

        The name also stands for how crops are warped (`hypercolumns.crops`): whoever changes that changes the name.
        """
        sides = ",".join(_short(side, _BOX_DIGITS) for side in self.box_xyxy)
        name = f"crop({sides};{_short(self.expansion, _EXPANSION_DIGITS)})"
        return name if of == "identity" else f"{name}+{of}"


def _short(number: float, digits: int) -> str:
    return f"{number:.{digits}f}".rstrip("0").rstrip(".")
