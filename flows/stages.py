"""The tasks of `tasks` as Prefect tasks: named, logged, recorded, and never cached by Prefect.

Prefect's own result cache stays off: its keys miss edits in code that a task calls, and it returns results whose files are
gone. Every stage looks by content key whether its work is done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

from flows.fleet import fleet_of
from tasks.evaluate import evaluate_model
from tasks.extract import extract_features
from tasks.extract_together import extract_together
from tasks.jobs import Evaluated, Extracted, Job, Prepared, Stage
from tasks.plan import check_plan
from tasks.prepare import prepare_dataset
from tasks.pretrain import pretrain_classifier
from tasks.record import note_stage
from tasks.report import write_report
from tasks.sample import sample_pixels
from tasks.train import train_dense

__all__ = ["check", "evaluate", "extract", "prepare", "pretrain", "report", "sample", "train"]

_logger = logging.getLogger("hypercolumns.flows")
StageT = TypeVar("StageT", bound=Stage)


def _stage(name: str, function: Callable[..., StageT]) -> Task[..., StageT]:
    def run(job: Job, *earlier: Stage) -> StageT:
        result = function(job, *earlier)
        note_stage(job, name, result)
        _logger.info("%s: %s in %.1f s", name, "found" if result.cached else "done", result.seconds)
        return result

    run.__doc__ = function.__doc__
    run.__name__ = name
    return task(name=name, cache_policy=NO_CACHE, persist_result=False)(run)


def _extract(job: Job, prepared: Prepared) -> Extracted:
    """Compute and store every missing row of the experiment's images, views and layers."""
    with fleet_of(job) as fleet:
        return extract_features(job, prepared) if fleet is None else extract_together(job, prepared, fleet)


def _evaluate(job: Job, *earlier: Any) -> Evaluated:
    """Score everything on the val split, or find the scores."""
    with fleet_of(job) as fleet:
        return evaluate_model(job, *earlier, fleet=fleet)


prepare = _stage("prepare", prepare_dataset)
check = _stage("plan", check_plan)
extract = _stage("extract", _extract)
sample = _stage("sample", sample_pixels)
pretrain = _stage("pretrain", pretrain_classifier)
train = _stage("train", train_dense)
evaluate = _stage("evaluate", _evaluate)
report = _stage("report", write_report)
