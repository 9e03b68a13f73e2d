"""The certificate that a converted classifier is the classifier: sparse MLP ≡ dense 1x1 ≡ classify-then-upsample.

Measured at pixels (output stride 1) of given images, against the MLP in double precision on gathered hypercolumns; the
effect of a larger output stride, which is an approximation and not an identity, is reported on its own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hypercolumns.columns import gather, stack
from hypercolumns.errors import TrainingError
from hypercolumns.geometry import grid_positions
from hypercolumns.heads.pixel import PixelMLP, convert
from hypercolumns.sources import Item, MapSource

__all__ = ["TOLERANCE", "Certificate", "certify"]

TOLERANCE = 1e-5
"""Largest max|a-b| / max|b| that counts as equal; `F.interpolate` itself is this far off at activations around 140."""

_CHUNK_POINTS = 512
_PIXELS = 32_768
_STACK_BYTES = 1.5e9


@dataclass(frozen=True)
class Certificate:
    """How far the forms of one classifier are apart, in relative terms: max|a-b| / max|b|, b in double precision.

    Attributes:
        pixels: Pixels compared, at output stride 1: all of small canvases, a random choice of large ones.
        sparse_difference: The float32 MLP on gathered hypercolumns against the reference.
        stacked_difference: 1x1 convolutions on upsampled, stacked maps; None where the stack would not fit in memory.
        factorised_difference: Classify-then-upsample against the reference.
        argmax_agreement: Share of pixels to which classify-then-upsample and the reference give the same class.
        output_stride: The stride the model works at.
        stride_argmax_agreement: Share of pixels that keep their class when logits are computed at that stride and resampled.
        holds: Whether every difference is within the tolerance.
    """

    pixels: int
    sparse_difference: float
    stacked_difference: float | None
    factorised_difference: float
    argmax_agreement: float
    output_stride: int
    stride_argmax_agreement: float
    tolerance: float
    holds: bool

    def to_json(self) -> dict[str, Any]:
        """Spell the certificate as plain data."""
        return asdict(self)


@torch.inference_mode()
def certify(mlp: PixelMLP, source: MapSource, items: Sequence[Item]) -> Certificate:
    """Compare all forms of a classifier at the pixels of some images: 32,768 an image, or all if there are no more.

    Args:
        mlp: The sparse classifier.
        source: Gives its maps; layers as the classifier's.
        items: The images and views to compare on, at least one.

    Raises:
        TrainingError: there is nothing to compare on, or logits are not finite.
    """
    if not items:
        raise TrainingError("expected at least one image to certify on, got none")
    mlp = copy.deepcopy(mlp).eval()
    mlp.spec = mlp.spec.model_copy(update={"context": "none"})
    conv = convert(mlp).eval()
    double = copy.deepcopy(mlp).double()
    worst = {"sparse": 0.0, "stacked": 0.0, "factorised": 0.0}
    agree = stride_agree = pixels = 0
    stack_fits = _stack_bytes(mlp) <= _STACK_BYTES
    for item in items:
        maps = source.maps([item])
        chosen = _chosen_pixels(mlp.frame.canvas_hw)
        reference, sparse = _pointwise(mlp, double, maps, chosen)
        factorised = _flat(conv(maps, stride_px=1))[chosen]
        strided = F.interpolate(conv(maps), size=mlp.frame.canvas_hw, mode="bilinear", align_corners=False)
        candidates = {"sparse": sparse, "factorised": factorised}
        if stack_fits:
            candidates["stacked"] = _flat(conv.forward_stacked(_with_grid(mlp, stack(maps, mlp.layers, mlp.frame))))[chosen]
        for name, value in candidates.items():
            worst[name] = max(worst[name], _relative_difference(value, reference))
        best = reference.argmax(1)
        agree += int((factorised.argmax(1) == best).sum())
        stride_agree += int((_flat(strided)[chosen].argmax(1) == best).sum())
        pixels += len(best)
    return Certificate(
        pixels,
        worst["sparse"],
        worst["stacked"] if stack_fits else None,
        worst["factorised"],
        agree / pixels,
        mlp.spec.output_stride,
        stride_agree / pixels,
        TOLERANCE,
        max(worst.values()) <= TOLERANCE,
    )


def _relative_difference(value: Tensor, reference: Tensor) -> float:
    difference = float((value - reference).abs().max())
    largest = float(reference.abs().max())
    # max() would lose a NaN, and the certificate would hold.
    if not math.isfinite(difference) or not math.isfinite(largest):
        raise TrainingError(f"expected finite logits to certify, got {largest} in double precision, {difference} away from it")
    return difference / largest if largest else difference


def _chosen_pixels(canvas_hw: tuple[int, int]) -> Tensor:
    """Choose the pixels that are compared: numbers y·W + x, rising; the same ones for the same canvas."""
    total = canvas_hw[0] * canvas_hw[1]
    if total <= _PIXELS:
        return torch.arange(total)
    return torch.randperm(total, generator=torch.Generator().manual_seed(0))[:_PIXELS].sort().values


def _pointwise(mlp: PixelMLP, double: PixelMLP, maps: Sequence[Tensor], pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of some pixels in double and in single precision."""
    reference, single = [], []
    for points in torch.split(_pixel_centres(mlp.frame.canvas_hw)[pixels], _CHUNK_POINTS):
        columns = mlp.with_coordinates(gather([values[0] for values in maps], points, mlp.layers, mlp.frame), points)
        reference.append(double(columns))
        single.append(mlp(columns))
    return torch.cat(reference), torch.cat(single)


def _pixel_centres(canvas_hw: tuple[int, int]) -> Tensor:
    y, x = torch.meshgrid(grid_positions(canvas_hw[0], 1), grid_positions(canvas_hw[1], 1), indexing="ij")
    return torch.stack([x.reshape(-1), y.reshape(-1)], dim=1)


def _with_grid(mlp: PixelMLP, hypercolumns: Tensor) -> Tensor:
    flat = mlp.with_coordinates(hypercolumns.flatten(0, 2), _pixel_centres(mlp.frame.canvas_hw))
    return flat.reshape(*hypercolumns.shape[:3], -1)


def _flat(logits: Tensor) -> Tensor:
    return logits.float().permute(0, 2, 3, 1).flatten(0, 2)


def _stack_bytes(mlp: PixelMLP) -> float:
    return 8.0 * mlp.columns * mlp.frame.canvas_hw[0] * mlp.frame.canvas_hw[1]
