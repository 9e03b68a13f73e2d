"""From gathered hypercolumns and labels to a trained pixel classifier, in one call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from hypercolumns.backbones import LayerInfo
from hypercolumns.columns import Frame
from hypercolumns.heads.pixel import PixelMLP
from hypercolumns.problems import SparseProblem
from hypercolumns.specs import HeadSpec, TrainSpec
from hypercolumns.training import History, Progress, fit

__all__ = ["channel_statistics", "fit_pixel_classifier"]

_CHUNK = 8192


def fit_pixel_classifier(
    columns: Float[Tensor, "m d"],
    labels: Int[Tensor, " m"],
    layers: Sequence[LayerInfo],
    classes: int,
    head: HeadSpec,
    train: TrainSpec,
    frame: Frame,
    *,
    held_out: NDArray[np.bool_] | None = None,
    weights: Float[Tensor, " classes"] | None = None,
    progress: Progress | None = None,
) -> tuple[PixelMLP, History]:
    """Train a classifier on sparse hypercolumns, standardised by their own mean and standard deviation.

    Args:
        columns: Hypercolumns (m, D), with the two coordinates appended if the head has them.
        labels: Their labels (m,), 0 … classes-1.
        layers: The layers whose channels the columns are, shallow to deep.
        classes: Number of classes.
        head: Hidden units, dropout, coordinates.
        train: Epochs, batch, optimiser, patience, seed.
        frame: Canvas and alignment the columns were gathered with.
        held_out: Samples (m,) kept for early stopping; None keeps none.
        weights: Class weights; None weighs all alike.
        progress: Called after every step.

    Returns:
        The classifier, ready to predict, and its history.

    Source: Bansal et al., "PixelNet", 2017, sec. 3 (an MLP on sparsely sampled hypercolumns).
    """
    torch.manual_seed(train.seed)
    model = PixelMLP(layers, classes, head, frame)
    model.set_statistics(*channel_statistics(columns))
    out = np.zeros(len(columns), np.bool_) if held_out is None else held_out
    problem = SparseProblem(columns, labels, out, torch.ones(classes) if weights is None else weights, train)
    return model, fit(model, problem, train, progress=progress)


def channel_statistics(columns: Float[Tensor, "m d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Return mean and standard deviation per channel, accumulated in double precision, as float32."""
    total = torch.zeros(columns.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for chunk in torch.split(columns, _CHUNK):
        total += chunk.double().sum(0)
    mean = total / len(columns)
    for chunk in torch.split(columns, _CHUNK):
        squares += (chunk.double() - mean).square().sum(0)
    return mean.float(), (squares / len(columns)).sqrt().float()
