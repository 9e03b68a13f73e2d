"""Masks as COCO's run lengths, and polygons to masks.

Run lengths go column by column and begin with background. They are decoded and encoded here, with every number checked,
because COCO's own C code trusts what it is given; polygons are filled by that code (pycocotools, imported when one is met), so
that masks are COCO's to the pixel.

Source: the COCO API's mask format (Lin et al. 2014, `maskApi.c`).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypercolumns.errors import DatasetError, MaskError

__all__ = ["PolygonMask", "RunMask", "decode_counts", "encode_counts", "mask_from_runs", "runs_of_mask"]

_FIRST_CHARACTER = 48
_MOST_CHARACTERS_A_COUNT = 7


def runs_of_mask(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the run lengths of a mask (H, W)."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    runs: NDArray[np.int64] = np.diff(np.concatenate([[0], changes, [mask.size]]))
    # A mask that reaches its last pixel ends with its own run.
    return runs[:-1] if len(runs) > 1 and runs[-1] == 0 else runs


def mask_from_runs(runs: NDArray[np.int64], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask (H, W) of run lengths that fill it exactly."""
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(size_hw, order="F")


def encode_counts(runs: NDArray[np.int64]) -> str:
    """Write run lengths as COCO's compressed text."""
    differences = runs.copy()
    differences[3:] -= runs[1:-2]
    text = []
    for value in differences.tolist():
        more = True
        while more:
            low, value = value & 0x1F, value >> 5
            more = value != (-1 if low & 0x10 else 0)
            text.append(chr((low | 0x20 if more else low) + _FIRST_CHARACTER))
    return "".join(text)


def decode_counts(text: str | bytes) -> NDArray[np.int64]:
    """Read COCO's compressed text of run lengths.

    Raises:
        DatasetError: it is damaged.
    """
    try:
        raw = np.frombuffer(text.encode("ascii") if isinstance(text, str) else text, np.uint8).astype(np.int64)
    except UnicodeEncodeError as error:
        raise DatasetError("run lengths: expected compressed counts as ASCII text, got other characters") from error
    values = raw - _FIRST_CHARACTER
    if not len(values) or (values < 0).any() or (values > 0x3F).any() or values[-1] & 0x20:
        raise DatasetError("run lengths: expected whole compressed counts, got damaged or truncated ones")
    ends = np.flatnonzero((values & 0x20) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MOST_CHARACTERS_A_COUNT:
        raise DatasetError("run lengths: expected compressed counts of a possible image, got larger ones")
    place = np.arange(len(values)) - np.repeat(starts, lengths)
    counts = np.add.reduceat((values & 0x1F) << (5 * place), starts)
    counts -= np.where(values[ends] & 0x10, 1 << (5 * lengths), 0)
    # From the fourth on, a count is written as the difference from the last but one.
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return np.asarray(counts)


@dataclass(frozen=True, eq=False)
class RunMask:
    """A mask kept as run lengths.

    Attributes:
        path: The file it was read from.
        record: Which record of it.
        size_hw: Its size.
        runs: The run lengths, which fill it exactly.
    """

    path: Path
    record: str
    size_hw: tuple[int, int]
    runs: NDArray[np.int64]

    @classmethod
    def read(cls, path: Path, record: str, segmentation: dict[str, Any], image_hw: tuple[int, int]) -> RunMask:
        """Read {size, counts}, with counts as a list or as compressed text.

        Raises:
            DatasetError: it is damaged, or has another size than the image.
        """
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if not isinstance(size, list) or size != list(image_hw):
            raise DatasetError(f"mask: expected the image's size {list(image_hw)}, got {str(size)[:60]}")
        if isinstance(counts, str):
            runs = decode_counts(counts)
        elif isinstance(counts, list) and all(type(count) is int and 0 <= count <= 1 << 40 for count in counts):
            runs = np.array(counts, np.int64)
        else:
            raise DatasetError("run lengths: expected whole numbers or their compressed text, got something else")
        if (runs < 0).any() or int(runs.sum()) != image_hw[0] * image_hw[1]:
            raise DatasetError(
                f"run lengths: expected counts that fill {image_hw[0]} x {image_hw[1]} pixels, got a sum of {int(runs.sum())}"
            )
        return cls(path, record, image_hw, runs)

    def __call__(self, image_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the mask (H, W).

        Raises:
            MaskError: the image has another size.
        """
        _check_size(self.path, self.record, self.size_hw, image_hw)
        return mask_from_runs(self.runs, self.size_hw)


@dataclass(frozen=True, eq=False)
class PolygonMask:
    """A mask kept as polygons.

    Attributes:
        path: The file it was read from.
        record: Which record of it.
        size_hw: Its image's size.
        polygons: The polygons' corners, each x0, y0, x1, y1 ... (2n,), float64.
    """

    path: Path
    record: str
    size_hw: tuple[int, int]
    polygons: tuple[NDArray[np.float64], ...]

    @classmethod
    def read(cls, path: Path, record: str, segmentation: list[Any], image_hw: tuple[int, int]) -> PolygonMask:
        """Read a list of polygons.

        Raises:
            DatasetError: one has less than three corners, half a corner, or a corner far from the image.
        """
        if not segmentation:
            raise DatasetError("mask: expected at least one polygon, got none")
        height, width = image_hw
        polygons = []
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                count = len(polygon) if isinstance(polygon, list) else repr(polygon)[:60]
                raise DatasetError(f"mask: expected polygons of an even count of at least 6 numbers, got {count}")
            if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in polygon):
                raise DatasetError("mask: expected polygons of finite numbers, got others")
            polygons.append(np.array(polygon, np.float64))
            corners = polygons[-1].reshape(-1, 2)
            # The filling takes memory with the polygon's length.
            if not ((corners >= [-width, -height]) & (corners <= [2 * width, 2 * height])).all():
                raise DatasetError(
                    f"mask: expected polygons in the image of {width} x {height} pixels, got corners far outside"
                )
        return cls(path, record, image_hw, tuple(polygons))

    def __call__(self, image_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the mask (H, W).

        Raises:
            MaskError: the image has another size, or pycocotools is not installed.
        """
        _check_size(self.path, self.record, self.size_hw, image_hw)
        try:
            coco = importlib.import_module("pycocotools.mask")
        except ImportError as error:
            raise MaskError(self.path, "pycocotools is needed to fill polygons", "pip install 'hypercolumns[boxes]'") from error
        filled = coco.merge(coco.frPyObjects([each.tolist() for each in self.polygons], *self.size_hw))
        return mask_from_runs(decode_counts(filled["counts"]), self.size_hw)


def _check_size(path: Path, record: str, size_hw: tuple[int, int], image_hw: tuple[int, int]) -> None:
    if tuple(image_hw) != size_hw:
        raise MaskError(
            path, f"{record}: the mask is {size_hw}, and {tuple(image_hw)} was asked for", "ask for its image's size"
        )
