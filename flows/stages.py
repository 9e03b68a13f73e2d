"""The tasks of `tasks` as Prefect tasks: named, logged, recorded, and never cached by Prefect.

Prefect's own result cache stays off: its keys miss edits in code that a task calls, and it returns results whose files are
gone. Every stage looks by content key whether its work is done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Protocol, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

from flows.accelerator import accelerator
from flows.fleet import fleet_of
from flows.resilience import RETRYING
from tasks.challengers import train_challenger
from tasks.data_checks import check_data
from tasks.decide import decide_night, tidy_up
from tasks.evaluate import evaluate_model
from tasks.extract import extract_features
from tasks.extract_together import extract_together
from tasks.frozen import pin_frozen_set, score_champion
from tasks.history import write_history
from tasks.jobs import Evaluated, Extracted, Job, Prepared, Stage
from tasks.plan import check_plan
from tasks.prepare import prepare_dataset
from tasks.pretrain import pretrain_classifier
from tasks.record import note_stage
from tasks.report import write_report
from tasks.sample import sample_pixels
from tasks.standings import find_news
from tasks.train import train_dense

__all__ = ["check", "evaluate", "extract", "prepare", "pretrain", "recorded_task", "report", "sample", "train"]
__all__ += ["challenge", "check_night_data", "decide", "freeze", "history", "news", "score", "tidy"]

_logger = logging.getLogger("hypercolumns.flows")
StageT = TypeVar("StageT", bound=Stage)


class AnyJob(Protocol):
    """An experiment of any kind: whatever its tasks take, its record is kept by the job of its features."""

    @property
    def features(self) -> Job:
        """The job of filling the feature store."""
        ...


def recorded_task(name: str, function: Callable[..., StageT], *, runs_backbone: bool = False) -> Task[..., StageT]:
    """Make a task of a stage: logged, noted in the run's record, and never cached by Prefect.

    Args:
        name: What it is called in records and in Prefect's pages.
        function: The stage.
        runs_backbone: It computes maps, if only a few of them: on an accelerator it waits for its turn.
    """

    def run(job: Job | AnyJob, *earlier: Any) -> StageT:
        with accelerator() if runs_backbone else nullcontext():
            result = function(job, *earlier)
        note_stage(job if isinstance(job, Job) else job.features, name, result)
        _logger.info("%s: %s in %.1f s", name, "found" if result.cached else "done", result.seconds)
        return result

    run.__doc__ = function.__doc__
    run.__name__ = name
    return task(name=name, cache_policy=NO_CACHE, persist_result=False, **RETRYING)(run)


def _extract(job: Job, prepared: Prepared) -> Extracted:
    """Compute and store every missing row of the experiment's images, views and layers."""
    with fleet_of(job) as fleet:
        return extract_features(job, prepared) if fleet is None else extract_together(job, prepared, fleet)


def _evaluate(job: Job, *earlier: Any) -> Evaluated:
    """Score everything on the val split, or find the scores."""
    with fleet_of(job) as fleet:
        return evaluate_model(job, *earlier, fleet=fleet)


prepare = recorded_task("prepare", prepare_dataset)
check = recorded_task("plan", check_plan, runs_backbone=True)
extract = recorded_task("extract", _extract, runs_backbone=True)
sample = recorded_task("sample", sample_pixels)
pretrain = recorded_task("pretrain", pretrain_classifier)
train = recorded_task("train", train_dense)
evaluate = recorded_task("evaluate", _evaluate)
report = recorded_task("report", write_report, runs_backbone=True)
news = recorded_task("news", find_news)
check_night_data = recorded_task("data checks", check_data)
challenge = recorded_task("train", train_challenger)
decide = recorded_task("decide", decide_night, runs_backbone=True)
tidy = recorded_task("tidy up", tidy_up)
freeze = recorded_task("frozen set", pin_frozen_set)
score = recorded_task("score", score_champion, runs_backbone=True)
history = recorded_task("history", write_history)
