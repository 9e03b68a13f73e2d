"""Fit each classifier of a grid on its own: the pixels of a cell train the classifier of that cell.

Cheap, convex and exact, it is where training through the interpolation (`GridClassifier.forward`) starts from. Nothing here
reads maps: it takes hypercolumns, the cells they lie in, and targets.

Source: Hariharan et al., CVPR 2015, sec. 3 (classifiers of a grid cell are trained on the pixels of the cell).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hypercolumns.errors import DivergedError, GeometryError, SamplingError
from hypercolumns.heads.grid import GridClassifier
from hypercolumns.heads.grid_plan import nearest_cells

__all__ = ["fit_cells", "sample_cell_pixels"]

_LARGEST = 1e6
"""Standard deviations from the mean beyond which losses may overflow."""


def sample_cell_pixels(grid: int, side: int, boxes: int, per_cell: int, seed: int = 0) -> Int[Tensor, "boxes m"]:
    """Draw as many pixels from every cell of every box's heatmap, without replacement.

    Args:
        grid: K.
        side: S, at least K.
        boxes: How many boxes.
        per_cell: Pixels a cell, at most as many as the smallest one has.
        seed: Seed of the draws.

    Returns:
        Pixel numbers y·S + x, cell by cell (boxes, K²·per_cell).

    Raises:
        SamplingError: a cell has too few pixels.
        GeometryError: K or S is not positive.
    """
    cells = nearest_cells(grid, side)
    smallest = int(torch.bincount(cells, minlength=grid * grid).min())
    if not 1 <= per_cell <= smallest:
        raise SamplingError(f"expected 1 to {smallest} pixels a cell (K = {grid}, S = {side}), got {per_cell}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(boxes, side * side, generator=generator).argsort(1)
    # A stable sort by cell keeps the random order within each cell: its first pixels are a draw.
    order = order.gather(1, cells[order].argsort(stable=True, dim=1))
    starts = torch.bincount(cells, minlength=grid * grid).cumsum(0) - torch.bincount(cells, minlength=grid * grid)
    return order[:, (starts[:, None] + torch.arange(per_cell)).flatten()]


def fit_cells(
    model: GridClassifier,
    columns: Tensor,
    cells: Tensor,
    targets: Tensor,
    *,
    l2: float = 1e-3,
    iterations: int = 100,
) -> Float[Tensor, "cells classes"]:
    """Fit the classifiers of a grid in place, each on the pixels of its cell, by logistic loss.

    For each cell and class, mean loss + l2/2·|w|² is minimised over weights w of standardised columns and a free bias. Where
    all known targets are the same, the classifier becomes the constant (sum + ½)/(n + 1); where none is known, nothing changes.

    Args:
        model: The classifiers, their standardisation set before.
        columns: Raw hypercolumns (m, D), as `GridClassifier.hypercolumns` returns them.
        cells: The cell ky·K + kx of each (m,).
        targets: In [0, 1] (m, classes); NaN where unknown, as for the classes other than the box's own.
        l2: Weight of the penalty, > 0.
        iterations: Limit of the optimiser's (L-BFGS) steps for one classifier.

    Returns:
        The mean loss of each classifier without the penalty; NaN where nothing was known.

    Raises:
        GeometryError: shapes or numbers do not fit.
        DivergedError: a column is not finite, or far too large.
    """
    _check(model, columns, cells, targets, l2, iterations)
    losses = torch.full((model.grid**2, model.classes), math.nan)
    weight = model.first.weight.data.view(model.grid**2, model.classes, -1)
    bias = model.first.bias.data.view(model.grid**2, model.classes)
    for cell in sorted(set(cells.tolist())):
        inside = (cells == cell).nonzero()[:, 0]
        values = (columns[inside] - model.mean) / model.std
        if not bool((values.abs() < _LARGEST).all()):
            raise DivergedError(
                f"cell {cell}: expected standardised columns below {_LARGEST:.0e}, got others; set the statistics first, and "
                "use float32 maps where half precision overflows"
            )
        for label in range(model.classes):
            known = targets[inside, label].isnan().logical_not().nonzero()[:, 0]
            if not len(known):
                continue
            fitted = _fit_one(values[known], targets[inside[known], label].float(), l2, iterations)
            weight[cell, label], bias[cell, label], losses[cell, label] = fitted
    return losses


def _fit_one(values: Tensor, targets: Tensor, l2: float, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    if bool((targets == targets[0]).all()):
        constant = torch.logit((targets.sum() + 0.5) / (len(targets) + 1))
        return torch.zeros_like(values[0]), constant, F.binary_cross_entropy_with_logits(constant.expand_as(targets), targets)
    weight, bias = torch.zeros_like(values[0]).requires_grad_(), values.new_zeros(()).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        return F.binary_cross_entropy_with_logits(values @ weight + bias, targets)

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = loss() + l2 / 2 * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach(), loss().detach()


def _check(model: GridClassifier, columns: Tensor, cells: Tensor, targets: Tensor, l2: float, iterations: int) -> None:
    count = len(columns)
    if columns.shape != (count, model.columns) or targets.shape != (count, model.classes) or cells.shape != (count,):
        raise GeometryError(
            f"expected columns (m, {model.columns}), cells (m,) and targets (m, {model.classes}), got "
            f"{tuple(columns.shape)}, {tuple(cells.shape)} and {tuple(targets.shape)}"
        )
    if count == 0 or int(cells.min()) < 0 or int(cells.max()) >= model.grid**2:
        raise GeometryError(f"expected at least one column, and cells in 0..{model.grid**2 - 1}")
    if bool(((targets < 0) | (targets > 1)).any()):
        raise GeometryError("expected targets in [0, 1], or NaN where unknown, got others")
    if not (l2 > 0 and math.isfinite(l2)) or iterations < 1:
        raise GeometryError(f"expected l2 > 0 and at least one iteration, got {l2} and {iterations}")
