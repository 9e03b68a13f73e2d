"""What peers trained by gradients share: batches read ahead, a schedule by the clock, averaged weights, scores at times.

The rate warms up, holds, and falls to zero over the last part of the budget. What is scored on the way are averaged weights
(an exponential moving average), so that a peer is not judged at 60 seconds by weights in the middle of a ten-minute schedule.
The strongest of them is trained again for shorter times, each with a schedule of its own (`benchmarks.peers.run`), as this
project is.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peers.ledger import Ledger, prediction_milliseconds
from benchmarks.peers.scene import CLASSES, VOID, Scene, read_image, read_labels
from hypercolumns.arithmetic import multiplies_bfloat16
from hypercolumns.canvas import IMAGENET_MEAN_RGB, best_labels, normalise
from hypercolumns.read_ahead import read_ahead

__all__ = ["Recipe", "as_batch", "fast_dtype", "segmentation_loss", "train_by_the_clock"]

_STD_RGB = (0.229, 0.224, 0.225)
_WARM_UP, _DECAY_FROM = 0.02, 0.6


@dataclass(frozen=True)
class Recipe:
    """How a peer is trained.

    Attributes:
        batch: images a step.
        rate: peak learning rate of AdamW.
        weight_decay: its decay.
        average: weight of the past in the averaged weights, once there is a past.
        loss_stride: pixels between the labels that the loss looks at.
        dice: weight of the soft Dice loss beside the cross entropy.
    """

    batch: int
    rate: float
    weight_decay: float = 0.01
    average: float = 0.99
    loss_stride: int = 2
    dice: float = 1.0


def as_batch(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Turn photographs into what networks trained on ImageNet take, channels last in memory."""
    return normalise(torch.from_numpy(np.stack(images)), IMAGENET_MEAN_RGB, _STD_RGB)


def fast_dtype() -> torch.dtype:
    """Return the type whose products are the fastest here: no peer is held to bfloat16 where processors lack it."""
    return torch.bfloat16 if multiplies_bfloat16() else torch.float32


def fast_arithmetic() -> torch.autocast:
    """Multiply in that type."""
    return torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16())


def segmentation_loss(logits: Tensor, labels: Tensor, dice: float) -> Tensor:
    """Return cross entropy over the labelled pixels, plus the soft Dice loss over the classes present.

    Args:
        logits: (b, classes, h, w).
        labels: int64 (b, h, w), `VOID` where nothing is known.
        dice: weight of the Dice loss.
    """
    loss = functional.cross_entropy(logits.float(), labels, ignore_index=VOID)
    if not dice:
        return loss
    known = labels != VOID
    shares = logits.float().softmax(1) * known[:, None]
    truth = functional.one_hot(labels.where(known, torch.zeros_like(labels)), CLASSES).permute(0, 3, 1, 2) * known[:, None]
    overlap, total = (shares * truth).sum((0, 2, 3)), (shares + truth).sum((0, 2, 3))
    present = truth.sum((0, 2, 3)) > 0
    return loss + dice * (1 - 2 * overlap[present] / total[present]).mean()


def train_by_the_clock(model: nn.Module, scene: Scene, ledger: Ledger, recipe: Recipe) -> None:
    """Train until the budget is spent, handing over masks at the times that are asked for, and time prediction."""
    model = model.to(memory_format=torch.channels_last).train()
    averaged = copy.deepcopy(model).eval()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=recipe.weight_decay, fused=True)
    longest, images = 0.0, 0
    for number, (batch, labels) in enumerate(_batches(scene, recipe)):
        start = time.perf_counter()
        _step(model, optimiser, batch, labels, recipe, ledger.share)
        _average(averaged, model, min(recipe.average, number / (number + 5)))
        longest, images = 0.8 * longest + 0.2 * (time.perf_counter() - start), images + len(batch)
        if ledger.due(longest):
            ledger.note(epochs=images / len(scene.train_images))
            ledger.mark(_predict(averaged, path) for path in scene.val_images)
        if ledger.over:
            break
    ledger.note(prediction_ms=prediction_milliseconds(lambda path: _predict(averaged, path), scene.val_images))


def _step(
    model: nn.Module, optimiser: torch.optim.Optimizer, batch: Tensor, labels: Tensor, recipe: Recipe, share: float
) -> None:
    rate = recipe.rate * min(1.0, (share + 1e-3) / _WARM_UP, (1.001 - share) / (1 - _DECAY_FROM))
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    size_hw = (labels.shape[1], labels.shape[2])
    with fast_arithmetic():
        logits = model(batch)
    logits = functional.interpolate(logits.float(), size=size_hw, mode="bilinear", align_corners=False)
    segmentation_loss(logits, labels, recipe.dice).backward()  # type: ignore[no-untyped-call]
    optimiser.step()


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, weight: float) -> None:
    for kept, now in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.dtype.is_floating_point:
            kept.lerp_(now, 1 - weight)
        else:
            kept.copy_(now)


@torch.inference_mode()
def _predict(model: nn.Module, path: Path) -> NDArray[np.uint8]:
    image = read_image(path)
    with fast_arithmetic():
        logits = model(as_batch([image]))
    logits = functional.interpolate(logits.float(), size=image.shape[:2], mode="bilinear", align_corners=False)
    return best_labels(logits[0])


def _batches(scene: Scene, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches for ever: shuffled, mirrored at random, each file decoded once."""
    generator = np.random.default_rng(0)
    kept: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
    first = recipe.loss_stride // 2

    def read(work: tuple[NDArray[np.int64], NDArray[np.bool_]]) -> tuple[Tensor, Tensor]:
        pairs = []
        for index, mirrored in zip(*work, strict=True):
            if index not in kept:
                kept[index] = read_image(scene.train_images[index]), read_labels(scene.train_labels[index])
            pairs.append(tuple(part[:, ::-1] if mirrored else part for part in kept[index]))
        labels = np.stack([label[first :: recipe.loss_stride, first :: recipe.loss_stride] for _, label in pairs])
        return as_batch([image for image, _ in pairs]), torch.from_numpy(labels.astype(np.int64))

    def drawn() -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        queue: list[int] = []
        for _ in itertools.count():
            while len(queue) < recipe.batch:
                queue.extend(generator.permutation(len(scene.train_images)).tolist())
            chosen, queue = queue[: recipe.batch], queue[recipe.batch :]
            yield np.array(chosen), generator.random(recipe.batch) < 0.5

    return read_ahead(drawn(), read)
