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

from tasks.challengers import train_challenger
from tasks.data_checks import check_data
from tasks.decide import decide_night, tidy_up
from tasks.evaluate import evaluate_model
from tasks.extract import extract_features
from tasks.frozen import pin_frozen_set, score_champion
from tasks.history import write_history
from tasks.jobs import Job, Stage
from tasks.plan import check_plan
from tasks.prepare import prepare_dataset
from tasks.pretrain import pretrain_classifier
from tasks.record import note_stage
from tasks.report import write_report
from tasks.sample import sample_pixels
from tasks.standings import find_news
from tasks.train import train_dense

__all__ = ["check", "evaluate", "extract", "prepare", "pretrain", "report", "sample", "train"]
__all__ += ["challenge", "check_night_data", "decide", "freeze", "history", "news", "score", "tidy"]

_logger = logging.getLogger("hypercolumns.flows")
StageT = TypeVar("StageT", bound=Stage)


def _stage(name: str, function: Callable[..., StageT]) -> Task[..., StageT]:
    def run(job: Job, *earlier: Any) -> StageT:
        result = function(job, *earlier)
        note_stage(job, name, result)
        _logger.info("%s: %s in %.1f s", name, "found" if result.cached else "done", result.seconds)
        return result

    run.__doc__ = function.__doc__
    run.__name__ = name
    return task(name=name, cache_policy=NO_CACHE, persist_result=False)(run)


prepare = _stage("prepare", prepare_dataset)
check = _stage("plan", check_plan)
extract = _stage("extract", extract_features)
sample = _stage("sample", sample_pixels)
pretrain = _stage("pretrain", pretrain_classifier)
train = _stage("train", train_dense)
evaluate = _stage("evaluate", evaluate_model)
report = _stage("report", write_report)
news = _stage("news", find_news)
check_night_data = _stage("data checks", check_data)
challenge = _stage("train", train_challenger)
decide = _stage("decide", decide_night)
tidy = _stage("tidy up", tidy_up)
freeze = _stage("frozen set", pin_frozen_set)
score = _stage("score", score_champion)
history = _stage("history", write_history)
