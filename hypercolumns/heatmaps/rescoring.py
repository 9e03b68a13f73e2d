"""Scores of detections, once their masks are known, and regions that overlap a better one left out.

Box detectors score boxes; what a mask covers tells more. A small logistic classifier looks at the mean hypercolumn inside the
mask, the mean in the box, how sure the heatmap is, how much of the box it fills, and the detector's own score.

Source: Hariharan et al., "Simultaneous detection and segmentation", ECCV 2014, sec. 3.3 (region and box features together).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from hypercolumns.errors import GeometryError, SamplingError
from hypercolumns.heads import GridClassifier

__all__ = ["Rescorer", "fit_rescorer", "region_features", "suppress_regions"]

_GRID = 10
"""Points along a side of the box at which hypercolumns are read."""

_SMALLEST_STD = 1e-6
_INSIDE = 0.5


def region_features(
    model: GridClassifier,
    maps: list[Tensor],
    boxes_xyxy: Float[Tensor, "n 4"],
    edges_xyxy: Float[Tensor, "n 4"],
    heatmaps: Float[Tensor, "n s s"],
    scores: Float[Tensor, " n"],
    image_rows: Tensor | None = None,
) -> Float[Tensor, "n f"]:
    """Describe the detections of one image.

    Args:
        model: Its layers and geometry are used.
        maps: The image's maps.
        boxes_xyxy: Boxes on the canvas, not expanded.
        edges_xyxy: What of the canvas is image.
        heatmaps: The heatmap of each detection's class.
        scores: The detector's scores.
        image_rows: Which of the maps each detection lies on (n,); may be left out when there is only one.
    """
    places = ((torch.arange(_GRID) + 0.5) * model.side / _GRID).long()
    pixels = (places[:, None] * model.side + places).flatten()
    everywhere = pixels.expand(len(boxes_xyxy), -1)
    columns = model.hypercolumns(maps, boxes_xyxy, image_rows, pixels=everywhere, edges_xyxy=edges_xyxy).float()
    inside = heatmaps.flatten(1)[:, pixels]
    region = (columns * inside[..., None]).sum(1) / inside.sum(1, keepdim=True).clamp(min=1e-6)
    mask = heatmaps >= _INSIDE
    filled = mask.float().mean((1, 2))
    sure = (heatmaps * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
    shape = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).log().float()
    return torch.cat([region, columns.mean(1), torch.stack([filled, sure, scores.float()], 1), shape], dim=1)


@dataclass(frozen=True)
class Rescorer:
    """A logistic classifier of standardised features.

    Attributes:
        mean: Of the features (f,).
        std: Their standard deviation (f,).
        weight: (f,).
        bias: ().
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Float[Tensor, "n f"]) -> Float[Tensor, " n"]:
        """Return new scores in (0, 1)."""
        return torch.sigmoid((features - self.mean) / self.std @ self.weight + self.bias)


def fit_rescorer(features: Float[Tensor, "n f"], right: NDArray[np.bool_], l2: float = 0.1, iterations: int = 100) -> Rescorer:
    """Fit a rescorer by penalised logistic loss.

    Args:
        features: Of training detections.
        right: Which of them found an instance (n,).
        l2: Weight of the penalty l2/2·|w|².
        iterations: Limit of the optimiser's (L-BFGS) steps.

    Raises:
        SamplingError: there are not both right and wrong detections to learn from.
    """
    if len(right) != len(features) or right.all() or not right.any():
        raise SamplingError(
            f"expected right and wrong detections to learn scores from, got {int(right.sum())} right ones of {len(features)}; "
            "set evaluate.rescore=false, or use more copies and a larger spread of the detections"
        )
    mean, std = features.mean(0), features.std(0)
    std = torch.where(std > _SMALLEST_STD, std, torch.ones_like(std))
    values, targets = (features - mean) / std, torch.from_numpy(right.astype(np.float32))
    weight, bias = torch.zeros(features.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(values @ weight + bias, targets) + l2 / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return Rescorer(mean, std, weight.detach(), bias.detach())


def suppress_regions(masks: NDArray[np.bool_], scores: NDArray[Any], most_iou: float = 0.3) -> NDArray[np.int64]:
    """Choose regions best first, leaving out those that overlap a chosen one by more than a limit.

    Args:
        masks: Regions (n, H, W) of one class in one image.
        scores: Their scores (n,); equal ones are taken in the order given.
        most_iou: Overlap that is still allowed, in [0, 1].

    Returns:
        Numbers of the chosen regions, best first.

    Raises:
        GeometryError: masks, scores or limit are not what they should be.
    """
    values = np.asarray(scores, np.float64)
    if np.ndim(masks) != 3 or masks.dtype != np.bool_ or values.shape != (len(masks),) or not np.isfinite(values).all():
        raise GeometryError(f"expected boolean masks (n, height, width) with finite scores, got {np.shape(masks)}")
    if not 0 <= most_iou <= 1:
        raise GeometryError(f"expected a limit of overlap in [0, 1], got {most_iou}")
    chosen: list[int] = []
    for number in np.argsort(-values, kind="stable").tolist():
        if all(_mask_iou(masks[number], masks[other]) <= most_iou for other in chosen):
            chosen.append(number)
    return np.array(chosen, np.int64)


def _mask_iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 0.0
