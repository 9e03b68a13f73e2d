"""The loop: resumed runs end in the same bits, divergence says where, and early stopping keeps the best epoch."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hypercolumns.columns import Frame
from hypercolumns.errors import DivergedError, TrainingError
from hypercolumns.heads import PixelMLP, convert
from hypercolumns.problems import DenseProblem, SparseProblem
from hypercolumns.specs import HeadSpec, TrainSpec
from hypercolumns.training import CheckpointKeeper, EpochRecord, Problem, fit
from tests.core_factory import MemorySource, make_layer

CANVAS = (16, 24)
LAYERS = (make_layer("fine", 3, (8, 12)), make_layer("coarse", 4, (2, 3), (8.0, 8.0), (4.0, 4.0)))
IMAGES = 6


class Keeper:
    """Checkpoints in memory, copied in and out as a file would."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, dict[str, Tensor], dict[str, Any]]] = []

    def save(self, epoch: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        assert all(value.is_contiguous() for value in tensors.values())
        self.kept.append(copy.deepcopy((epoch, tensors, state)))

    def latest(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        return copy.deepcopy(self.kept[-1]) if self.kept else None

    def up_to(self, epoch: int) -> Keeper:
        earlier = Keeper()
        earlier.kept = [kept for kept in self.kept if kept[0] <= epoch]
        return earlier


def make_labels(index: int) -> np.ndarray:
    labels = np.random.default_rng(index).integers(0, 3, CANVAS).astype(np.uint8)
    labels[:3] = 255
    return labels


def sparse(spec: TrainSpec) -> tuple[nn.Module, Problem]:
    torch.manual_seed(11)
    mlp = PixelMLP(LAYERS, 3, HeadSpec(hidden=8, dropout=0.3, coordinates=True), Frame(CANVAS))
    columns = torch.randn(90, 9)
    labels = (columns[:, 0] > 0).long() + (columns[:, 1] > 0.5).long()
    held_out = np.arange(90) % 5 == 0
    return mlp, SparseProblem(columns.half(), labels, held_out, torch.tensor([1.0, 0.5, 1.5]), spec)


def dense(spec: TrainSpec) -> tuple[nn.Module, Problem]:
    torch.manual_seed(11)
    head = HeadSpec(hidden=8, dropout=0.3, context="kernel3", alignment="receptive_field", output_stride=4)
    layers = (make_layer("fine", 3, (8, 12), (2.0, 2.0), (1.0, 1.0)), make_layer("coarse", 4, (1, 2), (16.0, 12.0), (8.0, 6.0)))
    conv = convert(PixelMLP(layers, 3, head, Frame(CANVAS, "receptive_field")))
    source = MemorySource(layers, CANVAS, IMAGES)
    views = ["identity", "hflip"]
    names = [f"image {index}" for index in range(IMAGES)]
    weights = torch.tensor([1.0, 0.5, 1.5])
    return conv, DenseProblem(source, [0, 1, 2, 3], [4, 5], make_labels, views, weights, spec, names)


def spec_of(**options: Any) -> TrainSpec:
    return TrainSpec(**{"epochs": 6, "batch": 3, "learning_rate": 0.05, "seed": 5, "label_smoothing": 0.1, **options})


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def without_seconds(records: list[EpochRecord]) -> list[tuple[Any, ...]]:
    return [(record.epoch, record.loss, record.held_out, record.learning_rate) for record in records]


@pytest.mark.parametrize("build", [sparse, dense])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "sgd", "schedule": "cosine"},
        {"patience": 50},
        {"patience": 1, "learning_rate": 1.0, "dice": 0.5},
        {"precision": "bfloat16", "schedule": "constant"},
    ],
)
def test_a_run_resumed_after_any_epoch_ends_in_the_same_bits(build, options):
    spec = spec_of(**options)
    model, problem = build(spec)
    keeper = Keeper()
    history = fit(model, problem, spec, checkpoints=keeper)
    assert history.resumed_from == 0
    assert len(keeper.kept) == len(history.epochs) > 1
    for stop in range(1, len(history.epochs) + 1):
        again, problem = build(spec)
        with torch.no_grad():
            for parameter in again.parameters():
                parameter.normal_()
        torch.manual_seed(stop)
        resumed = fit(again, problem, spec, checkpoints=keeper.up_to(stop))
        assert bits(again) == bits(model)
        assert resumed.resumed_from == stop
        assert resumed.best_epoch == history.best_epoch
        assert without_seconds(resumed.epochs) == without_seconds(history.epochs)


@pytest.mark.parametrize("build", [sparse, dense])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(build):
    ends = []
    for seed, noise in [(5, 0), (5, 99), (6, 0)]:
        spec = spec_of(seed=seed, epochs=2)
        model, problem = build(spec)
        torch.manual_seed(noise)
        fit(model, problem, spec)
        ends.append(bits(model))
    assert ends[0] == ends[1] != ends[2]


def test_training_learns_what_can_be_learned():
    spec = spec_of(epochs=60, batch=32, patience=60, label_smoothing=0.0)
    model, problem = sparse(spec)
    history = fit(model, problem, spec)
    assert history.epochs[-1].loss < 0.5 * history.epochs[0].loss
    assert max(record.held_out for record in history.epochs) > 0.7
    assert not model.training


class Scripted:
    """A problem whose losses and held-out scores are written down beforehand: epoch by epoch, one step each."""

    steps = 1

    def __init__(self, scores: list[float | None], losses: list[float] | None = None) -> None:
        self.scores, self.losses, self.epoch = scores, losses, 0

    def batches(self, epoch: int) -> Iterator[int]:
        self.epoch = epoch
        yield epoch

    def loss(self, model: nn.Module, batch: int) -> Tensor:
        scale = 1.0 if self.losses is None else self.losses[batch]
        return model.weight.sum() * scale

    def describe(self, batch: int) -> str:
        return f"image 'cat {batch}'"

    def held_out_score(self, model: nn.Module) -> float | None:
        return self.scores[self.epoch]


def scripted_fit(scores, *, patience=2, epochs=None, losses=None, model=None):
    spec = TrainSpec(
        epochs=len(scores) if epochs is None else epochs, patience=patience, learning_rate=0.1, schedule="constant"
    )
    model = nn.Linear(2, 1, bias=False) if model is None else model
    keeper = Keeper()
    history = fit(model, Scripted(scores, losses), spec, checkpoints=keeper)
    return model, history, keeper


def test_the_doubles_of_these_tests_are_what_the_loop_asks_for():
    assert isinstance(Scripted([None]), Problem)
    assert isinstance(Keeper(), CheckpointKeeper)


@pytest.mark.parametrize(
    ("scores", "patience", "epochs_run", "best"),
    [
        ([0.1, 0.2, 0.3, 0.4], 2, 4, 4),
        ([0.4, 0.3, 0.2, 0.9], 2, 3, 1),
        ([0.4, 0.3, 0.5, 0.1, 0.1, 0.9], 2, 5, 3),
        ([0.4, 0.4, 0.4], 2, 3, 1),
        ([0.4, 0.1, 0.1, 0.5], 3, 4, 4),
        ([0.9, 0.1, 0.1], 0, 3, 3),
        ([None, None, None], 1, 3, 3),
        ([0.0, 0.0, 0.0], 1, 2, 1),
    ],
)
def test_patience_counts_epochs_since_the_best_and_the_best_weights_are_kept(scores, patience, epochs_run, best):
    model, history, keeper = scripted_fit(scores, patience=patience)
    assert len(history.epochs) == epochs_run
    assert history.best_epoch == best
    assert model.weight.equal(keeper.kept[best - 1][1]["model.weight"])


def test_no_epochs_leave_the_model_as_it_is():
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.clone()
    _, history, keeper = scripted_fit([], epochs=0, model=model)
    assert model.weight.equal(before)
    assert (history.epochs, history.best_epoch, keeper.kept) == ([], 0, [])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_the_epoch_the_step_and_the_image(value):
    with pytest.raises(DivergedError, match=r"epoch 3, step 1, at image 'cat 2'.*learning_rate"):
        scripted_fit([None] * 5, losses=[1.0, 1.0, value, 1.0, 1.0])


def test_an_image_with_a_value_that_is_not_finite_is_named():
    spec = spec_of(batch=1)
    model, problem = dense(spec)
    problem._source.values[0][2, 0, 0, 0] = math.nan
    with pytest.raises(DivergedError, match=r"epoch 1, step \d, at image 'image 2' \((identity|hflip)\)"):
        fit(model, problem, spec)


class Exploding(Scripted):
    def loss(self, model: nn.Module, batch: int) -> Tensor:
        # Zero, with an infinite slope.
        total = model.weight.sum()
        return (total - total.detach()).sqrt()


def test_weights_that_diverge_in_the_very_last_step_are_noticed_and_not_kept():
    keeper = Keeper()
    with pytest.raises(DivergedError, match=r"finite weights after epoch 1.*weight"):
        fit(nn.Linear(2, 1, bias=False), Exploding([None]), TrainSpec(epochs=1), checkpoints=keeper)
    assert keeper.kept == []


def test_a_checkpoint_of_another_model_is_refused():
    spec = spec_of(epochs=1)
    model, problem = sparse(spec)
    keeper = Keeper()
    fit(model, problem, spec, checkpoints=keeper)
    other = PixelMLP(LAYERS, 3, HeadSpec(hidden=5, coordinates=True), Frame(CANVAS))
    with pytest.raises(TrainingError, match="epoch 1 belongs to another model"):
        fit(other, problem, spec, checkpoints=keeper)


def test_progress_is_told_every_step_counted_from_one():
    told: list[tuple[int, int]] = []
    spec = spec_of(epochs=2, batch=30)
    model, problem = sparse(spec)
    fit(model, problem, spec, progress=lambda epoch, step, loss: told.append((epoch, step)))
    assert told == [(epoch, step) for epoch in (1, 2) for step in (1, 2, 3)]


def learning_rates(schedule: str, epochs: int) -> list[float]:
    spec = TrainSpec(epochs=epochs, schedule=schedule, learning_rate=0.5)
    return [record.learning_rate for record in fit(nn.Linear(2, 1, bias=False), Scripted([None] * epochs), spec).epochs]


def test_learning_rates_follow_their_schedule():
    assert learning_rates("constant", 4) == [0.5] * 4
    cosine = learning_rates("cosine", 11)
    assert cosine == pytest.approx([0.5 * (0.001 + 0.999 * (1 + math.cos(math.pi * k / 10)) / 2) for k in range(11)])
    one_cycle = learning_rates("one_cycle", 11)
    assert one_cycle[:3] == pytest.approx([0.5 * 0.04, 0.5 * 0.52, 0.5])
    assert one_cycle[-1] == pytest.approx(0.5 * 0.001)
    assert all(before > after for before, after in pairwise(one_cycle[2:]))
    assert learning_rates("one_cycle", 1) == [0.5]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_weight_decay_leaves_biases_alone(optimizer):
    model = nn.Linear(2, 2)
    nn.init.ones_(model.bias)

    class Flat(Scripted):
        def loss(self, model: nn.Module, batch: int) -> Tensor:
            return sum(parameter.sum() for parameter in model.parameters()) * 0

    before = model.weight.detach().clone()
    spec = TrainSpec(epochs=3, optimizer=optimizer, weight_decay=0.5, learning_rate=0.1)
    fit(model, Flat([None] * 3), spec)
    assert model.bias.equal(torch.ones(2))
    assert (model.weight.abs() < before.abs()).all()
