"""Challengers: tonight's model, trained on from the champion's weights, from scratch, or both ways, of which one is taken.

Which of two is better is told by train images that neither ever learned from: held out by their bytes, the same ones every
night. The val images never take part: they decide between challenger and champion, and must not have been chosen by.
"""

from __future__ import annotations

from typing import Any, Literal

from hypercolumns.errors import SpecError, TrainingError
from hypercolumns.nights import NightSpec
from hypercolumns.specs import ExperimentSpec, TrainSpec
from tasks.jobs import Job, Prepared, Pretrained, Trained
from tasks.standings import Standing
from tasks.train import train_dense

__all__ = ["Challenger", "holding_out", "train_challenger"]

Origin = Literal["from scratch", "warm start"]


class Challenger(Trained):
    """Tonight's model, how it came about, and why this one."""

    origin: Origin
    why: str
    held_out: dict[str, float | None]
    unseen: float
    """The share of train images that it never learned from."""


def holding_out(config: ExperimentSpec, night: NightSpec) -> ExperimentSpec:
    """Return the experiment as a night runs it: where two ways of training are compared, both hold the same images out.

    Holding out needs patience: a stage without any gets as many epochs as it has, which stops nothing early.

    Raises:
        SpecError: two ways are to be compared, and nothing is held out.
    """
    if not (night.warm_start and night.from_scratch and config.train.epochs):
        return config
    share = config.train.holdout
    if share == 0:
        raise SpecError(
            "train.holdout: expected a share of train images above 0, on which warm start and from scratch "
            "are compared, got 0; or switch one of the two off"
        )
    stages = {name: _patient(getattr(config, name), share) for name in ("pretrain", "train")}
    return config.model_copy(update=stages)


def train_challenger(job: Job, prepared: Prepared, pretrained: Pretrained, standing: Standing, night: NightSpec) -> Challenger:
    """Train tonight's model in the ways that are asked for, and take the better one.

    Args:
        job: The experiment, as `holding_out` gave it.
        prepared: Its checked data set.
        pretrained: Its sparse classifier.
        standing: The champion.
        night: Which ways.

    Raises:
        TrainingError: only a warm start is asked for, and the champion is of another form.
    """
    fresh_unseen = _unseen(job.spec)
    hindrance = _hindrance(job, standing, night)
    if hindrance:
        return _challenger(train_dense(job, prepared, pretrained), "from scratch", hindrance, fresh_unseen)
    unseen = min(fresh_unseen, standing.champion_unseen)
    try:
        warm = train_dense(job, prepared, pretrained, standing.champion_model)
    except TrainingError as error:
        if not night.from_scratch:
            raise
        return _challenger(train_dense(job, prepared, pretrained), "from scratch", f"no warm start: {error}", fresh_unseen)
    if not night.from_scratch:
        return _challenger(warm, "warm start", "the only way that was asked for", unseen)
    return _better(warm, train_dense(job, prepared, pretrained), standing, job.spec, unseen)


def _hindrance(job: Job, standing: Standing, night: NightSpec) -> str:
    """Say why there is no warm start tonight; nothing if there is one."""
    if not night.warm_start:
        return "the only way that was asked for"
    if standing.champion_model is None:
        return "there is no champion to train on from"
    if not job.spec.train.epochs:
        return "without dense training (train.epochs=0) there is nothing to train on"
    return ""


def _better(warm: Trained, fresh: Trained, standing: Standing, spec: ExperimentSpec, unseen: float) -> Challenger:
    scores: dict[str, float | None] = {"warm start": _held_out_score(warm), "from scratch": _held_out_score(fresh)}
    first, second = scores["warm start"], scores["from scratch"]
    if standing.champion_unseen < spec.train.holdout:
        why = "the champion learned from images that are held out now, so that a warm start cannot be judged by them"
        return _challenger(fresh, "from scratch", why, _unseen(spec), scores)
    if first is None or second is None:
        why = f"no train image is held out (train.holdout={spec.train.holdout:g} of few): nothing tells which is better"
        return _challenger(fresh, "from scratch", why, _unseen(spec), scores)
    why = f"held-out train images: mean IU {100 * first:.1f} % warm, {100 * second:.1f} % from scratch"
    if first > second:
        return _challenger(warm, "warm start", why, unseen, scores)
    return _challenger(fresh, "from scratch", why, _unseen(spec), scores)


def _challenger(
    trained: Trained, origin: Origin, why: str, unseen: float, scores: dict[str, float | None] | None = None
) -> Challenger:
    held_out = scores or {origin: _held_out_score(trained)}
    return Challenger(**dict(trained), origin=origin, why=why, held_out=held_out, unseen=unseen)


def _held_out_score(trained: Trained) -> float | None:
    """Return the mean IU on held-out images of the epoch whose weights the model has."""
    history: dict[str, Any] = trained.history
    best = [epoch["held_out"] for epoch in history["epochs"] if epoch["epoch"] == history["best_epoch"]]
    return None if not best or best[0] is None else float(best[0])


def _unseen(spec: ExperimentSpec) -> float:
    stages = [stage for stage in (spec.pretrain, spec.train) if stage.epochs]
    return min((stage.holdout if stage.patience else 0.0 for stage in stages), default=0.0)


def _patient(stage: TrainSpec, share: float) -> TrainSpec:
    return stage.model_copy(update={"holdout": share, "patience": stage.patience or stage.epochs})
