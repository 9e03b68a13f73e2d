"""From boxes with targets to a trained grid classifier: each cell's classifier on its own first, then all of them together.

Before either, what the boxes' targets have in common is set as the head's prior: classifiers learn how a box differs from it.
The fit by cells is convex and quick; training goes on from there end to end, by backpropagation through the interpolation
between classifiers. Either may be left out. On a CPU the same boxes and seed give the same classifier.

Source: Hariharan et al., CVPR 2015, sec. 3 (classifiers trained on the pixels of their cell) and 3.3 (end to end).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from hypercolumns.box_experiments import BoxTrainSpec
from hypercolumns.fitting import channel_statistics
from hypercolumns.heads import GridClassifier
from hypercolumns.heads.cells import fit_cells, sample_cell_pixels
from hypercolumns.heads.grid_plan import nearest_cells
from hypercolumns.heatmaps.baselines import prior_logits
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
    alike: bool = False,
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
        alike: Whether all outputs show the same of different classes, such as their masks: then they learn from each other.
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
        initialise_by_cells(model, source, examples, allowed, train, alike=alike)
    return fit(model, problem, train.loop, checkpoints=checkpoints, progress=progress)


def initialise_by_cells(
    model: GridClassifier,
    source: MapSource,
    examples: BoxExamples,
    allowed: np.ndarray,
    train: BoxTrainSpec,
    *,
    alike: bool = False,
) -> None:
    """Set standardisation and prior from some of the boxes, and (with `cell_iterations`) fit each cell's classifier on them.

    Args:
        model: Set in place.
        source: Gives the maps.
        examples: The boxes.
        allowed: Numbers of those that may be used.
        train: How many boxes and pixels of them, and how the fit is penalised.
        alike: As for `fit_box_classifier`.
    """
    random = np.random.default_rng([train.seed, 0])
    chosen = np.sort(random.permutation(allowed)[: train.cell_boxes])
    # Boxes of one image follow each other, so that its maps are read once.
    chosen = chosen[np.argsort(examples.images[chosen], kind="stable")]
    cells = nearest_cells(model.grid, model.side)
    smallest = int(torch.bincount(cells).min())
    per_cell = min(smallest, max(1, round(train.cell_pixels / model.grid**2)))
    pixels = sample_cell_pixels(model.grid, model.side, len(chosen), per_cell, train.seed)
    views = examples.draw_views(random)[chosen].tolist()
    with torch.inference_mode():
        columns = torch.cat(list(_columns(model, source, examples, chosen, views, pixels)))
    model.set_statistics(*channel_statistics(_single_cells(model, columns)))
    targets = _Targets(model, examples, chosen, views, pixels)
    if train.prior_boxes is not None:
        model.set_prior(torch.from_numpy(prior_logits(targets.seen(), model.classes, train.prior_boxes, alike=alike)))
    if train.cell_iterations:
        device = model.mean.device
        fit_cells(
            model,
            columns,
            cells[pixels].flatten().to(device),
            targets.at_pixels().to(device),
            l2=train.cell_l2,
            iterations=train.cell_iterations,
            offsets=model.prior.flatten(1).T[pixels.flatten().to(device)],
            own_l2=train.class_l2 if alike and model.classes > 1 else None,
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


class _Targets:
    """What chosen boxes are to show: kept at the pixels that are fitted while all of it is gone through once."""

    def __init__(
        self, model: GridClassifier, examples: BoxExamples, chosen: np.ndarray, views: Sequence[str], pixels: Tensor
    ) -> None:
        self._examples, self._seen, self._pixels = examples, list(zip(chosen.tolist(), views, strict=True)), pixels
        self._kept = torch.full((*pixels.shape, model.classes), torch.nan)
        self._complete = False

    def seen(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield each box's outputs and whole target."""
        for place, ((number, view), own) in enumerate(zip(self._seen, self._pixels, strict=True)):
            outputs = self._examples.blocks[int(self._examples.labels[number])]
            target = self._examples.target(number, view)
            self._kept[place][:, outputs] = torch.from_numpy(target).flatten(1)[:, own].T
            yield outputs, target
        self._complete = True

    def at_pixels(self) -> Float[Tensor, "m classes"]:
        """Return what each output should be at the fitted pixels; NaN for outputs of other classes than the box's."""
        if not self._complete:
            for _ in self.seen():
                pass
        return self._kept.flatten(0, 1)


def _single_cells(model: GridClassifier, columns: Tensor) -> Tensor:
    """Keep of what a 3 x 3 kernel sees the cell in its middle: statistics are those of channels."""
    parts = torch.split(columns, model.sizes, dim=1)
    kept = []
    for part, layer in zip(parts, model.layers, strict=True):
        middle = (part.shape[1] // layer.channels) // 2 * layer.channels
        kept.append(part[:, middle : middle + layer.channels])
    return torch.cat(kept, dim=1)
