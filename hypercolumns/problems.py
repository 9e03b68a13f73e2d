"""What is learned: sampled pixels, or every labelled pixel of every image. The loop itself is `hypercolumns.training`.

Source: class weights follow Eigen and Fergus, "Predicting depth, surface normals and semantic labels", ICCV 2015, sec. 6.3.2
(median frequency balancing); the square root of them is a milder form of our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from hypercolumns.arithmetic import settle
from hypercolumns.errors import TrainingError
from hypercolumns.geometry import grid_hw
from hypercolumns.losses import dense_loss
from hypercolumns.metrics.segmentation import confusion_matrix
from hypercolumns.read_ahead import read_ahead, read_in_turn_or_ahead
from hypercolumns.sources import Item, LayerMap, MapSource, SourceApart
from hypercolumns.specs import ClassWeighting, TrainSpec

__all__ = ["DenseProblem", "SparseProblem", "class_weights", "mean_iu"]


def class_weights(histograms: Int[NDArray, "n c"], weighting: ClassWeighting) -> Float[Tensor, " c"]:
    """Weigh classes by how rarely their pixels occur; the mean weight of the classes present is one.

    Args:
        histograms: Labelled pixels per image and class.
        weighting: ``none``; ``inverse_frequency`` of a class' share of all pixels; ``median``, the median of the frequencies
            over a class' frequency, each taken over the images it occurs in; ``sqrt_median``, the square root of that.

    Source: Eigen and Fergus, ICCV 2015, sec. 6.3.2, for ``median``.
    """
    counts = histograms.sum(axis=0).astype(np.float64)
    present = counts > 0
    weights = np.ones(len(counts))
    if not present.any():
        return torch.from_numpy(weights).float()
    if weighting == "inverse_frequency":
        weights[present] = counts.sum() / counts[present]
    elif weighting != "none":
        shown = ((histograms > 0) * histograms.sum(axis=1, keepdims=True)).sum(axis=0)
        frequency = counts[present] / shown[present]
        weights[present] = np.median(frequency) / frequency
        if weighting == "sqrt_median":
            weights = np.sqrt(weights)
    return torch.from_numpy(weights / weights[present].mean()).float()


def mean_iu(matrix: NDArray[np.int64]) -> float:
    """Return the mean IU over the classes that occur in the truth (rows)."""
    truth, predicted, right = matrix.sum(axis=1), matrix.sum(axis=0), np.diag(matrix)
    present = truth > 0
    if not present.any():
        return 0.0
    return float((right[present] / (truth + predicted - right)[present]).mean())


class SparseProblem:
    """Sampled hypercolumns and their labels.

    Args:
        columns: Hypercolumns (M, D), in any floating type.
        labels: Their labels (M,), 0 … classes-1.
        held_out: Which samples (M,) belong to held-out images.
        weights: Class weights (classes,).
        spec: Batch size, seed, smoothing.

    Raises:
        TrainingError: nothing is left to train on.
    """

    def __init__(self, columns: Tensor, labels: Tensor, held_out: NDArray[np.bool_], weights: Tensor, spec: TrainSpec) -> None:
        self._columns, self._labels, self._weights, self._spec = columns, labels.long(), weights, spec
        self._bfloat16 = settle(spec.precision) == "bfloat16"
        self._train = torch.from_numpy(np.flatnonzero(~held_out))
        self._held_out = torch.from_numpy(np.flatnonzero(held_out))
        if not len(self._train):
            raise TrainingError(
                f"expected samples to train on, got {len(labels)} samples of which {int(held_out.sum())} are held out"
            )
        self.steps = -(-len(self._train) // spec.batch)

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Yield index batches in the epoch's order."""
        generator = torch.Generator().manual_seed((self._spec.seed << 20) + epoch)
        order = self._train[torch.randperm(len(self._train), generator=generator)]
        # Sorted within a batch: the same batch, read from memory in order.
        yield from (chunk.sort().values for chunk in torch.split(order, self._spec.batch))

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """Return the weighted cross entropy of a batch."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            logits = model(self._columns[batch].float()).float()
        return F.cross_entropy(logits, self._labels[batch], self._weights, label_smoothing=self._spec.label_smoothing)

    def describe(self, batch: Tensor) -> str:
        """Name a batch."""
        return f"samples {batch[:4].tolist()} ... of the sample set"

    @torch.inference_mode()
    def held_out_score(self, model: nn.Module) -> float | None:
        """Return the mean IU over held-out samples."""
        if not len(self._held_out):
            return None
        classes = len(self._weights)
        matrix = np.zeros((classes, classes), np.int64)
        for chunk in torch.split(self._held_out, 16384):
            predicted = model(self._columns[chunk].float()).argmax(dim=1)
            matrix += confusion_matrix(self._labels[chunk].numpy().astype(np.uint8)[None], predicted.numpy()[None], classes)
        return mean_iu(matrix)


@dataclass(frozen=True)
class _DenseBatch:
    items: tuple[Item, ...]
    maps: list[LayerMap]
    labels: Tensor


class DenseProblem:
    """Every labelled pixel of every image, at the loss stride.

    Args:
        source: Gives the maps.
        train: Numbers of the images to train on.
        held_out: Numbers of the images held out.
        load_labels: Loads the label canvas (H, W) uint8 of an image's identity view, 255 for void.
        views: Views to draw from, at random each time an image comes up.
        weights: Class weights (classes,).
        spec: Batch size, loss stride, seed, smoothing.
        names: What to call an image in an error message.
        device: Where the model is.
    """

    def __init__(
        self,
        source: MapSource,
        train: Sequence[int],
        held_out: Sequence[int],
        load_labels: Callable[[int], NDArray[np.uint8]],
        views: Sequence[str],
        weights: Tensor,
        spec: TrainSpec,
        names: Sequence[str],
        device: torch.device | str = "cpu",
    ) -> None:
        if not train:
            raise TrainingError("expected images to train on, got none")
        grid_hw(source.canvas_hw, spec.loss_stride)
        self._source, self._train, self._held_out = source, list(train), list(held_out)
        self._load_labels, self._views, self._names = load_labels, list(views), names
        self._weights, self._spec, self._device = weights.to(device), spec, torch.device(device)
        self.steps = -(-len(self._train) // spec.batch)

    def batches(self, epoch: int) -> Iterator[_DenseBatch]:
        """Yield batches of whole images, the next ones being read meanwhile where that pays."""
        random = np.random.default_rng([self._spec.seed, epoch])
        order = random.permutation(len(self._train))
        views = random.integers(len(self._views), size=len(order))
        items = [(self._train[i], self._views[views[k]]) for k, i in enumerate(order)]
        chunks = [tuple(items[i : i + self._spec.batch]) for i in range(0, len(items), self._spec.batch)]
        yield from read_in_turn_or_ahead(chunks, self._read, cores_are_free=self._device.type != "cpu" or None)

    def loss(self, model: nn.Module, batch: _DenseBatch) -> Tensor:
        """Return the loss over the batch's labelled pixels (`dense_loss`); logits are resampled to the loss stride."""
        logits = model(batch.maps)
        if tuple(logits.shape[2:]) != tuple(batch.labels.shape[1:]):
            logits = F.interpolate(logits, size=batch.labels.shape[1:], mode="bilinear", align_corners=False)
        spec = self._spec
        return dense_loss(logits, batch.labels, self._weights, label_smoothing=spec.label_smoothing, dice=spec.dice)

    def describe(self, batch: _DenseBatch) -> str:
        """Name the images of a batch."""
        return ", ".join(f"image {self._names[index]!r} ({view})" for index, view in batch.items)

    @torch.inference_mode()
    def held_out_score(self, model: nn.Module) -> float | None:
        """Return the mean IU over the held-out images at the loss stride."""
        if not self._held_out or not self._spec.patience:
            return None
        classes = len(self._weights)
        matrix = np.zeros((classes, classes), np.int64)
        for batch in read_ahead([((index, "identity"),) for index in self._held_out], self._read):
            logits = F.interpolate(model(batch.maps).float(), size=batch.labels.shape[1:], mode="bilinear", align_corners=False)
            predicted = logits.argmax(dim=1)[0].cpu().numpy()
            matrix += confusion_matrix(batch.labels[0].cpu().numpy().astype(np.uint8), predicted, classes)
        return mean_iu(matrix)

    def _read(self, items: tuple[Item, ...]) -> _DenseBatch:
        stride = self._spec.loss_stride
        labels = []
        for index, view in items:
            canvas = self._load_labels(index)
            canvas = canvas[:, ::-1] if view == "hflip" else canvas
            labels.append(np.ascontiguousarray(canvas[stride // 2 :: stride, stride // 2 :: stride]))
        maps: list[LayerMap]
        if self._device.type == "cpu" and isinstance(self._source, SourceApart):
            maps = self._source.maps_apart(items)
        else:
            maps = [values.to(self._device, non_blocking=True) for values in self._source.maps(items)]
        return _DenseBatch(items, maps, torch.from_numpy(np.stack(labels)).long().to(self._device))
