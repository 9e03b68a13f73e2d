"""Fit each classifier of a grid on its own: the pixels of a cell train the classifier of that cell.

Cheap, convex and exact, it is where training through the interpolation (`GridClassifier.forward`) starts from. Nothing here
reads maps: it takes hypercolumns, the cells they lie in, and targets.

Source: Hariharan et al., CVPR 2015, sec. 3 (classifiers of a grid cell are trained on the pixels of the cell).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    offsets: Tensor | None = None,
    own_l2: float | None = None,
) -> Float[Tensor, "cells classes"]:
    """Fit the classifiers of a grid in place, each on the pixels of its cell, by logistic loss.

    For each cell and class, mean loss + l2/2·|w|² is minimised over weights w of standardised columns and a free bias. Where
    all known targets are the same, the classifier becomes the constant (sum + ½)/(n + 1), or, with offsets, adds nothing to
    them; where none is known, nothing changes.

    With `own_l2` the classes of a cell share a classifier, fitted on the pixels of all of them, and each class departs from it
    in weights and bias: mean loss + own_l2/2·(|w - w_shared|² + (b - b_shared)²) is minimised. At infinity none does.

    Args:
        model: The classifiers, their standardisation set before.
        columns: Raw hypercolumns (m, D), as `GridClassifier.hypercolumns` returns them.
        cells: The cell ky·K + kx of each (m,).
        targets: In [0, 1] (m, classes); NaN where unknown, as for the classes other than the box's own.
        l2: Weight of the penalty, > 0.
        iterations: Limit of the optimiser's (L-BFGS) steps for one classifier.
        offsets: What is added to the logits and not learned (m, classes), such as the head's prior; by default nothing.
        own_l2: Weight of the penalty of what classes have of their own, > 0; None lets classes share nothing.

    Returns:
        The mean loss of each classifier without the penalty; NaN where nothing was known.

    Raises:
        GeometryError: shapes or numbers do not fit.
        DivergedError: a column is not finite, or far too large.
    """
    _check(model, columns, cells, targets, l2, iterations)
    _check_options(targets, offsets, own_l2)
    fixed = torch.zeros_like(targets) if offsets is None else offsets
    losses = torch.full((model.grid**2, model.classes), math.nan)
    weight = model.first.weight.data.view(model.grid**2, model.classes, -1)
    bias = model.first.bias.data.view(model.grid**2, model.classes)
    for cell in sorted(set(cells.tolist())):
        inside = (cells == cell).nonzero()[:, 0]
        values = _standardised(model, columns[inside], cell)
        fit = _CellFit(values, targets[inside].float(), fixed[inside].float(), iterations)
        shared = None if own_l2 is None else fit.together(l2)
        for label in range(model.classes):
            fitted = fit.alone(label, l2) if shared is None or own_l2 is None else fit.apart(label, shared, own_l2)
            if fitted is not None:
                weight[cell, label], bias[cell, label], losses[cell, label] = fitted
    return losses


def _standardised(model: GridClassifier, columns: Tensor, cell: int) -> Tensor:
    values: Tensor = (columns - model.mean) / model.std
    if not bool((values.abs() < _LARGEST).all()):
        raise DivergedError(
            f"cell {cell}: expected standardised columns below {_LARGEST:.0e}, got others; set the statistics first, and use "
            "float32 maps where half precision overflows"
        )
    return values


_Fitted = tuple[Tensor, Tensor, Tensor]
"""Weights, bias and mean loss."""


@dataclass(frozen=True)
class _CellFit:
    """The pixels of one cell: standardised columns (m, D), targets and offsets (m, classes)."""

    values: Tensor
    targets: Tensor
    offsets: Tensor
    iterations: int

    def alone(self, label: int, l2: float) -> _Fitted | None:
        known = self._known(label)
        if not len(known):
            return None
        return _fit_one(self.values[known], self.targets[known, label], self.offsets[known, label], l2, self.iterations)

    def together(self, l2: float) -> _Fitted | None:
        """Fit one classifier on what is known of all classes."""
        rows, labels = self.targets.isnan().logical_not().nonzero(as_tuple=True)
        if not len(rows):
            return None
        return _fit_one(self.values[rows], self.targets[rows, labels], self.offsets[rows, labels], l2, self.iterations)

    def apart(self, label: int, shared: _Fitted, own_l2: float) -> _Fitted:
        """Fit what a class has of its own; nothing where it has no pixel, or may have nothing."""
        known, (weight, bias, loss) = self._known(label), shared
        if not len(known) or math.isinf(own_l2):
            return shared
        start = self.offsets[known, label] + self.values[known] @ weight + bias
        # The bias departs at the same price: a column of ones, and no free bias.
        values = torch.cat([self.values[known], torch.ones(len(known), 1, device=start.device)], dim=1)
        both, _, loss = _fit_one(values, self.targets[known, label], start, own_l2, self.iterations, free_bias=False)
        more, further = both[:-1], both[-1]
        return weight + more, bias + further, loss

    def _known(self, label: int) -> Tensor:
        return self.targets[:, label].isnan().logical_not().nonzero()[:, 0]


def _fit_one(
    values: Tensor, targets: Tensor, offsets: Tensor, l2: float, iterations: int, *, free_bias: bool = True
) -> _Fitted:
    if free_bias and bool((targets == targets[0]).all()):
        # A free bias would grow without end.
        constant = torch.logit((targets.sum() + 0.5) / (len(targets) + 1))
        constant = torch.zeros_like(constant) if bool(offsets.any()) else constant
        return torch.zeros_like(values[0]), constant, F.binary_cross_entropy_with_logits(offsets + constant, targets)
    weight, bias = torch.zeros_like(values[0]).requires_grad_(), values.new_zeros(()).requires_grad_(free_bias)
    optimizer = torch.optim.LBFGS(
        [weight, bias] if free_bias else [weight],
        max_iter=iterations,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        return F.binary_cross_entropy_with_logits(offsets + values @ weight + bias, targets)

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


def _check_options(targets: Tensor, offsets: Tensor | None, own_l2: float | None) -> None:
    if offsets is not None and (offsets.shape != targets.shape or not bool(offsets.isfinite().all())):
        raise GeometryError(f"expected finite offsets {tuple(targets.shape)}, as targets, got {tuple(offsets.shape)} or others")
    if own_l2 is not None and not own_l2 > 0:
        raise GeometryError(f"expected own_l2 > 0, or none, got {own_l2}")
