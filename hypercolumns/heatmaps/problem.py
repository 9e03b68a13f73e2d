"""What heatmaps over boxes are learned from, in the form that the training loop takes: batches of boxes with their targets.

A box shows the heatmaps of its own class alone, a block of neighbouring outputs of the head: one mask, or all keypoints, or all
parts of the class. Boxes of one image follow each other, so that its maps are read once for all of them; images come in a new
order every epoch, and (with a mirror) each in one of its two views, drawn anew every epoch. The loss is the mean logistic loss
of the interpolated probabilities over the pixels whose target is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from hypercolumns.errors import TrainingError
from hypercolumns.heatmaps.mirroring import Mirror
from hypercolumns.read_ahead import read_ahead
from hypercolumns.sources import Item, MapSource

__all__ = ["BoxExamples", "BoxProblem", "heatmap_loss"]

TargetLoader = Callable[[int], NDArray[np.float32]]
"""Loads the target of example `i`: (outputs of its class, S, S); NaN where unknown."""


@dataclass(frozen=True)
class BoxExamples:
    """Boxes to learn from.

    Attributes:
        images: Number of each box's image in the source (n,).
        boxes_xyxy: The boxes on the canvas, not expanded (n, 4), float64.
        edges_xyxy: What of the canvas is image, for each box (n, 4), float64.
        labels: The class of each box (n,).
        blocks: The head's outputs of each class.
        load: Loads a target.
        names: What to call each box in an error message.
        mirror: How boxes and targets are mirrored, to learn from the images' hflip view too; None if the source has none.

    Raises:
        TrainingError: lengths disagree, a class has no outputs, or there is no box.
    """

    images: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float64]
    edges_xyxy: NDArray[np.float64]
    labels: NDArray[np.int64]
    blocks: Sequence[slice]
    load: TargetLoader
    names: Sequence[str]
    mirror: Mirror | None = None

    def __post_init__(self) -> None:
        count = len(self.images)
        lengths = [len(part) for part in (self.boxes_xyxy, self.edges_xyxy, self.labels, self.names)]
        if lengths != [count] * len(lengths):
            raise TrainingError(f"expected boxes, edges, labels and names for {count} boxes, got {lengths}")
        if not count:
            raise TrainingError("expected boxes to train on, got none; lower pairs.least_iou, or use other detections")
        if self.labels.min() < 0 or self.labels.max() >= len(self.blocks):
            raise TrainingError(f"expected labels in 0..{len(self.blocks) - 1}, got {self.labels.min()} to {self.labels.max()}")

    def __len__(self) -> int:
        return len(self.images)

    def draw_views(self, random: np.random.Generator) -> NDArray[np.str_]:
        """Draw a view for each box (n,), the same for all boxes of an image; identity, and nothing drawn, without a mirror."""
        if self.mirror is None:
            return np.full(len(self), "identity")
        return np.array(["identity", "hflip"])[random.integers(2, size=int(self.images.max()) + 1)[self.images]]

    def placed(self, numbers: NDArray[np.int64], view: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return boxes (n, 4) and what of their canvas is image (n, 4), in a view."""
        boxes, edges = self.boxes_xyxy[numbers], self.edges_xyxy[numbers]
        return (boxes, edges) if view == "identity" else (self._mirror.boxes(boxes), self._mirror.boxes(edges))

    def target(self, number: int, view: str) -> NDArray[np.float32]:
        """Load the target of a box in a view (outputs of its class, S, S); NaN where unknown."""
        target = self.load(number)
        return target if view == "identity" else self._mirror.target(target, int(self.labels[number]))

    @property
    def _mirror(self) -> Mirror:
        if self.mirror is None:
            raise TrainingError("expected a mirror, to learn from mirrored images, got none; give `BoxExamples(mirror=...)`")
        return self.mirror


@dataclass(frozen=True)
class _OneClass:
    """The boxes of one class in a batch, and what they are to show."""

    outputs: slice
    boxes: Tensor
    edges: Tensor
    rows: Tensor
    targets: Tensor


@dataclass(frozen=True)
class _BoxBatch:
    numbers: tuple[int, ...]
    views: tuple[str, ...]
    maps: list[Tensor]
    classes: list[_OneClass]


class BoxProblem:
    """Boxes with targets as a training problem (`hypercolumns.training.Problem`).

    Args:
        source: Gives the maps.
        examples: The boxes.
        batch: Boxes a step.
        seed: Seed of the order.
        held_out: Which boxes are not trained on but scored, to stop early (n,); None for none.
        device: Where the model is.
    """

    def __init__(
        self,
        source: MapSource,
        examples: BoxExamples,
        batch: int,
        seed: int,
        held_out: NDArray[np.bool_] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        out = np.zeros(len(examples), np.bool_) if held_out is None else held_out
        self._train, self._held_out = np.flatnonzero(~out), np.flatnonzero(out)
        if not len(self._train):
            raise TrainingError("expected boxes to train on, got only held-out ones")
        self._source, self.examples, self._batch = source, examples, batch
        self._seed, self._device = seed, torch.device(device)
        self.steps = -(-len(self._train) // batch)

    def batches(self, epoch: int) -> Iterator[_BoxBatch]:
        """Yield batches of boxes, image after image, the next ones being read while one is trained on."""
        random = np.random.default_rng([self._seed, epoch])
        images = self.examples.images[self._train]
        # A random place for each image, and in it for each of its boxes.
        places = random.permutation(int(images.max()) + 1)[images] + random.random(len(images))
        views = self.examples.draw_views(random)
        yield from read_ahead(self._chunks(self._train[np.argsort(places, kind="stable")], views), self._read)

    def loss(self, model: nn.Module, batch: _BoxBatch) -> Tensor:
        """Return the mean loss over the batch's known pixels."""
        total, known = self._sums(model, batch)
        return total / max(known, 1)

    def describe(self, batch: _BoxBatch) -> str:
        """Name the boxes of a batch."""
        return ", ".join(
            self.examples.names[number] + ("" if view == "identity" else f" ({view})")
            for number, view in zip(batch.numbers, batch.views, strict=True)
        )

    @torch.inference_mode()
    def held_out_score(self, model: nn.Module) -> float | None:
        """Return the mean loss over the held-out boxes, negated: higher is better."""
        if not len(self._held_out):
            return None
        plain = np.full(len(self.examples), "identity")
        sums = [self._sums(model, batch) for batch in read_ahead(self._chunks(self._held_out, plain), self._read)]
        return -sum(float(total) for total, _ in sums) / max(sum(known for _, known in sums), 1)

    def _sums(self, model: nn.Module, batch: _BoxBatch) -> tuple[Tensor, int]:
        totals, known = [], 0
        for own in batch.classes:
            heatmaps = model(batch.maps, own.boxes, own.rows, outputs=own.outputs, edges_xyxy=own.edges)
            total, count = heatmap_loss(heatmaps, own.targets)
            totals.append(total)
            known += count
        return torch.stack(totals).sum(), known

    def _chunks(self, order: NDArray[np.int64], views: NDArray[np.str_]) -> list[tuple[tuple[int, str], ...]]:
        seen = list(zip(order.tolist(), views[order].tolist(), strict=True))
        return [tuple(seen[i : i + self._batch]) for i in range(0, len(seen), self._batch)]

    def _read(self, seen: tuple[tuple[int, str], ...]) -> _BoxBatch:
        numbers, views = zip(*seen, strict=True)
        chosen = np.array(numbers)
        images = self.examples.images[chosen].tolist()
        items: list[Item] = sorted(set(zip(images, views, strict=True)))
        rows = np.array([items.index(item) for item in zip(images, views, strict=True)])
        labels = self.examples.labels[chosen]
        classes = [self._one_class(int(label), seen, rows, np.flatnonzero(labels == label)) for label in np.unique(labels)]
        return _BoxBatch(numbers, views, [values.to(self._device) for values in self._source.maps(items)], classes)

    def _one_class(
        self, label: int, seen: tuple[tuple[int, str], ...], rows: NDArray[np.int64], own: NDArray[np.int64]
    ) -> _OneClass:
        placed = [self.examples.placed(np.array([seen[place][0]]), seen[place][1]) for place in own]
        boxes, edges = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*placed, strict=True))
        targets = torch.from_numpy(np.stack([self.examples.target(*seen[place]) for place in own]))
        return _OneClass(self.examples.blocks[label], boxes, edges, torch.from_numpy(rows[own]), targets.to(self._device))


def heatmap_loss(probabilities: Float[Tensor, "n c s s"], targets: Float[Tensor, "n c s s"]) -> tuple[Float[Tensor, ""], int]:
    """Return the sum of the logistic loss over the pixels whose target is known, and how many they are."""
    known = ~targets.isnan()
    # Interpolation weights may add up to a little more than 1.
    values = probabilities.float().clamp(0, 1)
    # Weighted and not indexed: the sum then runs in one order whatever is known.
    loss = F.binary_cross_entropy(values, targets.nan_to_num(), weight=known.float(), reduction="sum")
    return loss, int(known.sum())
