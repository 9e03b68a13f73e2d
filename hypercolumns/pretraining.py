"""Train a small backbone as a classifier of generated figures: weights that a demonstration can ship and anyone can make again.

The figures come from `hypercolumns.datasets.shapes` under seeds of their own, so that no figure of a demonstration was seen
here. Only the features are kept, in half precision; the classifier on top served to learn them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hypercolumns.canvas import normalise
from hypercolumns.datasets.shapes import FIGURE_CLASSES, GENERATOR_VERSION, figure_crops
from hypercolumns.specs import BackboneSpec, Precision, Spec

__all__ = ["BackbonePretrainingSpec", "PretrainedBackbone", "model_card", "pretrain_backbone", "write_backbone"]

_CHUNK = 250
_TEST_SEED_OFFSET = 1_000_003
_WARM_UP = 0.1
_FEATURES = 512
"""Channels of squeezenet1_1's last feature map."""


class BackbonePretrainingSpec(Spec):
    """How many generated figures, how large, and for how long."""

    crops: int = Field(16_000, ge=64, le=10_000_000, description="pictures to train on, one figure each")
    test_crops: int = Field(1_600, ge=64, le=1_000_000, description="pictures of other seeds to test on")
    size: int = Field(96, ge=64, le=512, description="side of the pictures in pixels")
    epochs: int = Field(14, ge=1, le=1000, description="passes over the pictures")
    batch: int = Field(64, ge=1, le=4096, description="pictures a step")
    precision: Precision = Field(
        "bfloat16", description="arithmetic of the training; bfloat16 is much faster where there is it"
    )
    learning_rate: float = Field(1e-3, gt=0, le=1, description="peak learning rate of AdamW")
    seed: int = Field(7001, ge=0, le=2**31 - 1, description="seed of the figures, the initial weights and the order")


@dataclass(frozen=True)
class PretrainedBackbone:
    """The features of a trained network, and how well it told figures apart.

    Attributes:
        features: State of the feature layers, float16.
        test_accuracy: Share of test pictures classified right.
        train_loss: Mean loss of the last epoch.
        seconds: Wall time, figures included.
    """

    features: dict[str, Tensor]
    test_accuracy: float
    train_loss: float
    seconds: float


def pretrain_backbone(
    spec: BackbonePretrainingSpec, *, workers: int | None = None, report: Callable[[str], None] = lambda line: None
) -> PretrainedBackbone:
    """Train squeezenet1_1 from nothing to classify generated figures.

    Args:
        spec: What to train on.
        workers: Processes that draw figures; by default one a core, 1 for none but this one.
        report: Called with a line of text after every epoch.
    """
    from torchvision.models import squeezenet1_1

    start = time.perf_counter()
    images, labels = _draw(spec.crops, spec.size, spec.seed, workers)
    report(f"drew {len(images)} figures in {time.perf_counter() - start:.0f} s")
    torch.manual_seed(spec.seed)
    features = _normalised(squeezenet1_1().features)
    model = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(_FEATURES, len(FIGURE_CLASSES)))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), spec.learning_rate, weight_decay=1e-4)
    steps = spec.epochs * -(-len(images) // spec.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, spec.learning_rate, steps, pct_start=_WARM_UP)
    random = np.random.default_rng(spec.seed)
    loss = 0.0
    for epoch in range(spec.epochs):
        loss = _epoch(model, optimizer, schedule, images, labels, random, spec)
        report(f"epoch {epoch + 1} of {spec.epochs}: loss {loss:.3f}, {time.perf_counter() - start:.0f} s")
    accuracy = _accuracy(model, *_draw(spec.test_crops, spec.size, spec.seed + _TEST_SEED_OFFSET, workers))
    state = _folded(features).state_dict()
    kept = {f"features.{name}": value.half().contiguous() for name, value in state.items()}
    return PretrainedBackbone(kept, accuracy, loss, time.perf_counter() - start)


def write_backbone(path: Path, result: PretrainedBackbone) -> None:
    """Write the features as safetensors, whole or not at all; an existing file is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(save(result.features))
    partial.replace(path)


def model_card(spec: BackbonePretrainingSpec, result: PretrainedBackbone) -> str:
    """Describe the weights: what they are, how they were made, how good they are, and what they are not for."""
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in spec.model_dump().items())
    return f"""# squeezenet1_1, trained on generated figures

Features (no classifier) of torchvision's `squeezenet1_1`, float16 safetensors. They exist so that the demonstration works
offline and honestly: better than random weights on generated scenes, and nothing to use on photographs.

- made by: `hypercolumns pretrain-backbone {options}`
- task: tell {len(FIGURE_CLASSES)} classes of generated figures apart, one figure on clutter, {spec.size} x {spec.size} pixels
- figures: generator version {GENERATOR_VERSION}, seed {spec.seed}; test seed {spec.seed + _TEST_SEED_OFFSET}
- test accuracy: {result.test_accuracy:.3f} on {spec.test_crops} pictures (chance: {1 / len(FIGURE_CLASSES):.3f})
- training: {spec.crops} pictures, {spec.epochs} epochs, final loss {result.train_loss:.3f}, {result.seconds:.0f} s
- preprocessing: RGB in [0, 1], ImageNet mean and standard deviation
"""


def _normalised(module: nn.Module) -> nn.Module:
    """Put batch normalisation behind every convolution, in place: without it, this network hardly learns from nothing."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            setattr(module, name, nn.Sequential(child, nn.BatchNorm2d(child.out_channels)))
        else:
            _normalised(child)
    return module


def _folded(module: nn.Module) -> nn.Module:
    """Fold every batch normalisation into its convolution, in place: the plain network again, computing the same."""
    module.eval()
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential) and isinstance(child[0], nn.Conv2d) and isinstance(child[1], nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(child[0], child[1]))
        else:
            _folded(child)
    return module


def _draw(count: int, size: int, seed: int, workers: int | None) -> tuple[Tensor, Tensor]:
    pieces = [(min(_CHUNK, count - first), size, seed, first) for first in range(0, count, _CHUNK)]
    workers = min(workers or os.cpu_count() or 1, len(pieces))
    if workers == 1:
        # A process takes seconds to start: not worth it for a few pictures.
        drawn = [_draw_piece(piece) for piece in pieces]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
            drawn = list(executor.map(_draw_piece, pieces))
    images = torch.from_numpy(np.concatenate([images for images, _ in drawn]))
    return images, torch.from_numpy(np.concatenate([labels for _, labels in drawn]))


def _draw_piece(piece: tuple[int, int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    count, size, seed, first = piece
    return figure_crops(count, size, seed, first=first)


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    images: Tensor,
    labels: Tensor,
    random: np.random.Generator,
    spec: BackbonePretrainingSpec,
) -> float:
    model.train()
    total = 0.0
    for chosen in np.split(random.permutation(len(images)), range(spec.batch, len(images), spec.batch)):
        picked = _augmented(images[torch.from_numpy(np.sort(chosen))], random)
        with torch.autocast("cpu", torch.bfloat16, enabled=spec.precision == "bfloat16"):
            logits = model(_inputs(picked))
        loss = F.cross_entropy(logits.float(), labels[torch.from_numpy(np.sort(chosen))])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total += float(loss.detach()) * len(chosen)
    return total / len(images)


def _augmented(images: Tensor, random: np.random.Generator) -> Tensor:
    """Mirror half of the pictures and shift all of them together by a few pixels."""
    mirrored = torch.from_numpy(random.random(len(images)) < 0.5)
    images = torch.where(mirrored[:, None, None, None], images.flip(2), images)
    shift = random.integers(-8, 9, size=2)
    return torch.roll(images, (int(shift[0]), int(shift[1])), dims=(1, 2)).contiguous()


def _inputs(images: Tensor) -> Tensor:
    spec = BackboneSpec()
    return normalise(images, spec.mean_rgb, spec.std_rgb)


@torch.inference_mode()
def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    right = sum(
        int((model(_inputs(piece)).argmax(1) == truth).sum())
        for piece, truth in zip(torch.split(images, _CHUNK), torch.split(labels, _CHUNK), strict=True)
    )
    return right / len(images)
