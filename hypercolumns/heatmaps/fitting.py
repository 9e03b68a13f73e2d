"""From boxes with targets to a trained grid classifier: each cell's classifier on its own first, then all of them together.

The fit by cells is convex and quick; training goes on from there end to end, by backpropagation through the interpolation
between classifiers. Either may be left out. On a CPU the same boxes and seed give the same classifier.

Source: Hariharan et al., CVPR 2015, sec. 3 (classifiers trained on the pixels of their cell) and 3.3 (end to end).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hypercolumns.box_experiments import BoxTrainSpec
from hypercolumns.fitting import channel_statistics
from hypercolumns.heads import GridClassifier
from hypercolumns.heads.cells import fit_cells, sample_cell_pixels
from hypercolumns.heads.grid_plan import nearest_cells
from hypercolumns.heatmaps.problem import BoxExamples, BoxProblem
from hypercolumns.sources import Item, MapSource
from hypercolumns.training import CheckpointKeeper, History, Progress, fit

__all__ = ["fit_box_classifier", "initialise_by_cells"]


def fit_box_classifier(
    model: GridClassifier,
    source: MapSource,
    examples: BoxExamples,
    train: BoxTrainSpec,
    *,
    held_out: np.ndarray | None = None,
    checkpoints: CheckpointKeeper | None = None,
    progress: Progress | None = None,
) -> History:
    """Train a grid classifier in place on boxes with targets.

    Args:
        model: Trained in place.
        source: Gives the maps of the model's layers.
        examples: The boxes.
        train: Boxes and pixels of the fit by cells, epochs, batch, learning rate, seed.
        held_out: Boxes (n,) kept for early stopping; None keeps none.
        checkpoints: Where to resume from and keep the state after every epoch; None keeps nothing.
        progress: Called after every step.

    Returns:
        The history of the training end to end.

    Raises:
        DivergedError: a loss or a column is not finite.
    """
    out = held_out if held_out is not None and train.patience and not held_out.all() else None
    problem = BoxProblem(source, examples, train.batch, train.seed, out, model.mean.device)
    # A resumed run finds the classifiers in its checkpoint.
    if checkpoints is None or checkpoints.latest() is None:
        torch.manual_seed(train.seed)
        model.first.reset_parameters()
        allowed = np.arange(len(examples)) if out is None else np.flatnonzero(~out)
        initialise_by_cells(model, source, examples, allowed, train)
    return fit(model, problem, train.loop, checkpoints=checkpoints, progress=progress)


def initialise_by_cells(
    model: GridClassifier, source: MapSource, examples: BoxExamples, allowed: np.ndarray, train: BoxTrainSpec
) -> None:
    """Set the standardisation from some of the boxes' pixels, and (with `cell_iterations`) fit each cell's classifier on them.

    Args:
        model: Set in place.
        source: Gives the maps.
        examples: The boxes.
        allowed: Numbers of those that may be used.
        train: How many boxes and pixels of them, and how the fit is penalised.
    """
    random = np.random.default_rng([train.seed, 0])
    chosen = np.sort(random.permutation(allowed)[: train.cell_boxes])
    cells = nearest_cells(model.grid, model.side)
    smallest = int(torch.bincount(cells).min())
    per_cell = min(smallest, max(1, round(train.cell_pixels / model.grid**2)))
    pixels = sample_cell_pixels(model.grid, model.side, len(chosen), per_cell, train.seed)
    views = examples.draw_views(random)[chosen].tolist()
    with torch.inference_mode():
        columns = torch.cat(list(_columns(model, source, examples, chosen, views, pixels)))
    model.set_statistics(*channel_statistics(_single_cells(model, columns)))
    if train.cell_iterations:
        targets = torch.stack(
            [_targets(model, examples, *each) for each in zip(chosen.tolist(), views, pixels, strict=True)]
        ).flatten(0, 1)
        device = model.mean.device
        fit_cells(
            model,
            columns,
            cells[pixels].flatten().to(device),
            targets.to(device),
            l2=train.cell_l2,
            iterations=train.cell_iterations,
        )


def _columns(
    model: GridClassifier, source: MapSource, examples: BoxExamples, chosen: np.ndarray, views: Sequence[str], pixels: Tensor
) -> Iterator[Float[Tensor, "m d"]]:
    """Yield the hypercolumns at the pixels of each box, reading the maps of an image once for neighbouring boxes of it."""
    previous, maps = -1, []
    for number, view, own in zip(chosen.tolist(), views, pixels, strict=True):
        image = int(examples.images[number])
        if image != previous:
            item: Item = (image, view)
            previous, maps = image, [values.to(model.mean.device) for values in source.maps([item])]
        box, edge = (torch.from_numpy(part) for part in examples.placed(np.array([number]), view))
        yield model.hypercolumns(maps, box, pixels=own[None], edges_xyxy=edge)[0]


def _targets(
    model: GridClassifier, examples: BoxExamples, number: int, view: str, pixels: Tensor
) -> Float[Tensor, "m classes"]:
    """Return what each output should be at pixels of a box; NaN for outputs of other classes than the box's."""
    targets = torch.full((len(pixels), model.classes), torch.nan)
    loaded = torch.from_numpy(examples.target(number, view)).flatten(1)[:, pixels]
    targets[:, examples.blocks[int(examples.labels[number])]] = loaded.T
    return targets


def _single_cells(model: GridClassifier, columns: Tensor) -> Tensor:
    """Keep of what a 3 x 3 kernel sees the cell in its middle: statistics are those of channels."""
    parts = torch.split(columns, model.sizes, dim=1)
    kept = []
    for part, layer in zip(parts, model.layers, strict=True):
        middle = (part.shape[1] // layer.channels) // 2 * layer.channels
        kept.append(part[:, middle : middle + layer.channels])
    return torch.cat(kept, dim=1)
