"""Painting items onto a backdrop, with everything that is known of every pixel kept in step.

Each item covers what was painted before it: colours blend by coverage, labels change where it covers at least half a pixel.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hypercolumns.datasets.shapes.backdrop import DEPTH_PER_METRE, UPRIGHT, Backdrop
from hypercolumns.datasets.shapes.items import Item
from hypercolumns.datasets.shapes.primitives import FloatArray, ellipse, point
from hypercolumns.datasets.shapes.rasters import Coverage, cover, extreme
from hypercolumns.datasets.shapes.textures import Float32Array, paint

_CONTOUR_SHADE = np.float32(0.72)
_SHADOW_SHADE = np.float32(0.35)


class Easel:
    """A picture in the making.

    Args:
        backdrop: Ground and sky; its arrays are painted over.
    """

    def __init__(self, backdrop: Backdrop) -> None:
        self.backdrop = backdrop
        self.class_mask: npt.NDArray[np.uint8] = np.zeros(backdrop.image_hw, dtype=np.uint8)
        self.object_mask: npt.NDArray[np.uint8] = np.zeros(backdrop.image_hw, dtype=np.uint8)
        self.part_mask: npt.NDArray[np.uint8] = np.zeros(backdrop.image_hw, dtype=np.uint8)

    def shade(self, item: Item) -> None:
        """Darken the ground where an item stands, so that it does not float."""
        corners = np.concatenate(item.polygons_xy)
        half_width = 0.42 * float(np.ptp(corners[:, 0]))
        pool = ellipse(point(float(corners[:, 0].mean()), item.footing.foot_xy[1]), (half_width, 0.16 * half_width))
        coverage = cover([pool], [0], self.backdrop.image_hw)
        if coverage is not None:
            y0, x0, y1, x1 = coverage.box
            self.backdrop.colour[y0:y1, x0:x1] *= 1 - _SHADOW_SHADE * coverage.total[..., None]

    def add(self, item: Item, instance: int) -> None:
        """Paint an item over everything painted so far.

        Args:
            item: What to paint.
            instance: Its number in the object mask; 0 for clutter.
        """
        coverage = cover(item.polygons_xy, item.kinds, self.backdrop.image_hw)
        if coverage is None:
            return
        y0, x0, y1, x1 = coverage.box
        covered = coverage.total
        window = self.backdrop.colour[y0:y1, x0:x1]
        window *= 1 - covered[..., None]
        window += self._colours(item, coverage)
        solid = covered >= 0.5
        part_labels = np.array(item.part_labels, dtype=np.uint8)[coverage.fractions.argmax(axis=0)]
        self.part_mask[y0:y1, x0:x1][solid] = part_labels[solid]
        self.class_mask[y0:y1, x0:x1][solid] = item.label
        self.object_mask[y0:y1, x0:x1][solid] = instance
        self.backdrop.layout[y0:y1, x0:x1][solid] = UPRIGHT
        self.backdrop.depth[y0:y1, x0:x1][solid] = round(item.footing.distance_m * DEPTH_PER_METRE)

    def _colours(self, item: Item, coverage: Coverage) -> Float32Array:
        """Mix the colours of an item's surfaces by coverage, with darker contours where two of them meet."""
        mixed = np.zeros((*coverage.fractions.shape[1:], 3), dtype=np.float32)
        painted = {id(surface): paint(surface, coverage.box, self.backdrop.unit_px) for surface in item.surfaces}
        for share, surface, shade in zip(coverage.fractions, item.surfaces, item.shades, strict=False):
            mixed += (np.float32(shade) * share)[..., None] * painted[id(surface)]
        owner = np.where(coverage.total >= 0.5, coverage.fractions.argmax(axis=0), 255).astype(np.uint8)
        inside = (owner != 255) & (extreme(owner, 1, np.minimum) != owner)
        mixed[inside] *= _CONTOUR_SHADE
        return mixed

    def keypoints(self, item: Item, instance: int, names: tuple[str, ...]) -> FloatArray:
        """Say where an item's keypoints are and which can be seen, once everything is painted.

        Returns:
            (k, 3), x, y and visibility as in `FigureLabel`.
        """
        height, width = self.backdrop.image_hw
        found = np.zeros((len(names), 3), dtype=np.float64)
        for row, name in enumerate(names):
            point_xy, part_labels = item.joints_xy.get(name, (point(-1.0, -1.0), ()))
            # Rounded first: a point just inside the far edge must not be written down as outside.
            x, y = (round(float(value), 2) for value in point_xy)
            if not (0 <= x < width and 0 <= y < height):
                continue
            # A keypoint is seen when its part shows within a pixel of it: limbs are only a few pixels wide.
            near = np.s_[max(0, int(y) - 1) : int(y) + 2, max(0, int(x) - 1) : int(x) + 2]
            own = self.part_mask[near][self.object_mask[near] == instance]
            found[row] = (x, y, 2 if np.isin(own, part_labels).any() else 1)
        return found
