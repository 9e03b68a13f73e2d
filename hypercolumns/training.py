"""One training loop for sparse samples and dense maps: optimiser, schedule, checkpoints, early stopping, and nothing else.

What an epoch consists of is a `Problem`'s business (`hypercolumns.problems`). Every random choice of an epoch follows from the
seed and the epoch's number, so that a run resumed from a checkpoint ends, on a CPU, in the same bits as one never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from hypercolumns.errors import DivergedError, TrainingError
from hypercolumns.specs import TrainSpec

__all__ = ["CheckpointKeeper", "EpochRecord", "History", "Problem", "Progress", "fit"]


@runtime_checkable
class Problem(Protocol):
    """What is learned: batches, their loss, and a held-out score."""

    steps: int
    """Steps an epoch, ≥ 1."""

    def batches(self, epoch: int) -> Iterator[Any]:
        """Yield the batches of an epoch, in an order that depends on the epoch's number alone."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the mean loss of a batch, a scalar."""
        ...

    def describe(self, batch: Any) -> str:
        """Name a batch for an error message."""
        ...

    def held_out_score(self, model: nn.Module) -> float | None:
        """Score the model on held-out images (higher is better), or None where nothing is held out."""
        ...


@runtime_checkable
class CheckpointKeeper(Protocol):
    """Keeps the state of a run after every epoch; storage is somebody else's business."""

    def save(self, epoch: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Keep the state after `epoch` epochs."""
        ...

    def latest(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """Return the newest kept state, or None."""
        ...


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did: mean loss, held-out score, last learning rate, seconds."""

    epoch: int
    loss: float
    held_out: float | None
    learning_rate: float
    seconds: float


@dataclass
class History:
    """The epochs of a run; `best_epoch` is the one whose weights the model has at the end."""

    epochs: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    resumed_from: int = 0

    def to_json(self) -> dict[str, Any]:
        """Spell the history as plain data."""
        return asdict(self)


Progress = Callable[[int, int, float], None]
"""Called after every step with (epoch, step, loss), both counted from one."""


def fit(
    model: nn.Module,
    problem: Problem,
    spec: TrainSpec,
    *,
    checkpoints: CheckpointKeeper | None = None,
    progress: Progress | None = None,
) -> History:
    """Train a model in place.

    With patience > 0 the model ends with the weights of the epoch that scored best on held-out images; otherwise with the last.

    Args:
        model: Trained in place.
        problem: Gives batches, losses and the held-out score.
        spec: Epochs, optimiser, schedule, patience, seed.
        checkpoints: Where to resume from and keep the state after every epoch; None keeps nothing.
        progress: Called after every step.

    Returns:
        The history, including the epochs before a resume.

    Raises:
        DivergedError: a loss is not finite, and says at which epoch, step and batch; or the weights an epoch ends with.
        TrainingError: a checkpoint belongs to another model.
    """
    run = _Run(model, problem, spec)
    if checkpoints is not None and (kept := checkpoints.latest()) is not None:
        run.restore(*kept)
    while run.epoch < spec.epochs and not run.out_of_patience():
        run.one_epoch(progress)
        if checkpoints is not None:
            checkpoints.save(run.epoch, *run.state())
    run.finish()
    return run.history


class _Run:
    """The state of one call of `fit`: model, optimiser, history, best weights so far."""

    def __init__(self, model: nn.Module, problem: Problem, spec: TrainSpec) -> None:
        self.model, self.problem, self.spec = model, problem, spec
        self.optimizer = _optimizer(model, spec)
        self.history = History()
        self.best: dict[str, Tensor] = {}
        self.best_score = -math.inf
        self.epoch = 0

    def one_epoch(self, progress: Progress | None) -> None:
        start = time.perf_counter()
        self.model.train()
        torch.manual_seed((self.spec.seed << 20) + self.epoch)
        total, steps, rate = 0.0, self.problem.steps, 0.0
        for number, batch in enumerate(self.problem.batches(self.epoch), start=1):
            rate = _learning_rate(self.spec, self.epoch * steps + number - 1, steps * self.spec.epochs)
            value = self._step(batch, rate, number)
            total += value
            if progress is not None:
                progress(self.epoch + 1, number, value)
        self._check_weights()
        self.epoch += 1
        self.model.eval()
        score = self.problem.held_out_score(self.model)
        self.history.epochs.append(EpochRecord(self.epoch, total / steps, score, rate, time.perf_counter() - start))
        if score is not None and score > self.best_score:
            self.best_score, self.history.best_epoch = score, self.epoch
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def _step(self, batch: Any, rate: float, number: int) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.problem.loss(self.model, batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(
                f"the loss is {value} in epoch {self.epoch + 1}, step {number}, at {self.problem.describe(batch)}, with "
                f"learning rate {rate:.3g}; lower train.learning_rate, or look at that input"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return value

    def _check_weights(self) -> None:
        # The last step's update shows in no loss any more.
        broken = [name for name, value in self.model.named_parameters() if not bool(torch.isfinite(value).all())]
        if broken:
            raise DivergedError(
                f"expected finite weights after epoch {self.epoch + 1}, got NaN or infinity in {', '.join(broken)}; "
                "lower train.learning_rate"
            )

    def out_of_patience(self) -> bool:
        return 0 < self.spec.patience <= self.epoch - self.history.best_epoch and bool(self.best)

    def finish(self) -> None:
        if self.spec.patience and self.best:
            self.model.load_state_dict(self.best)
        else:
            self.history.best_epoch = self.epoch
        self.model.eval()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items() if isinstance(value, Tensor)}
        return tensors, {"history": self.history.to_json(), "best_score": self.best_score if self.best else None}

    def restore(self, epoch: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(_with_prefix(tensors, "model."))
        except RuntimeError as error:
            raise TrainingError(f"the checkpoint of epoch {epoch} belongs to another model; remove it: {error}") from error
        self.best = _with_prefix(tensors, "best.")
        self.best_score = -math.inf if state["best_score"] is None else float(state["best_score"])
        kept: dict[int, dict[str, Tensor]] = {}
        for name, value in _with_prefix(tensors, "optimizer.").items():
            index, key = name.split(".", 1)
            kept.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({"state": kept, "param_groups": self.optimizer.state_dict()["param_groups"]})
        history = state["history"]
        self.history = History([EpochRecord(**record) for record in history["epochs"]], history["best_epoch"], epoch)
        self.epoch = epoch


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _optimizer(model: nn.Module, spec: TrainSpec) -> torch.optim.Optimizer:
    # Biases and other vectors are not decayed: they do not make a function steeper.
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": spec.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    if spec.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=spec.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=spec.learning_rate, fused=True)


def _learning_rate(spec: TrainSpec, step: int, steps: int) -> float:
    """Return the learning rate of a step; one_cycle warms up over the first fifth and anneals to 1/1000 by cosine."""
    if spec.schedule == "constant" or steps <= 1:
        return spec.learning_rate
    position = step / (steps - 1)
    warm = 0.2 if spec.schedule == "one_cycle" else 0.0
    if position < warm:
        return spec.learning_rate * (0.04 + 0.96 * position / warm)
    fall = (position - warm) / (1 - warm)
    return spec.learning_rate * (0.001 + 0.999 * (1 + math.cos(math.pi * fall)) / 2)
