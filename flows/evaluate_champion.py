"""Flow: score the champion on a frozen set, week after week, and write the history of its line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import BaseModel, ConfigDict, Field

from flows.artifacts import publish_history
from flows.events import announce
from flows.runs import recorded_run
from flows.stages import freeze, history, prepare, score
from hypercolumns.reporting.numbers import interval, percent
from hypercolumns.specs import DatasetSpec
from storage.workspace import Workspace, resolve_workspace
from tasks.frozen import ChampionScored, champion_experiment, note_score
from tasks.record import finish_run

__all__ = ["ChampionScore", "evaluate_champion"]


class ChampionScore(BaseModel):
    """What the champion scored, and where its history is; of a line without a frozen set only that there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Literal["scored", "no frozen set"] = "scored"
    line: str
    message: str
    model: str | None = None
    metrics: dict[str, Any] | None = None
    frozen: str | None = None
    run_id: str | None = None
    history: Path | None = None


@flow(name="evaluate-champion", flow_run_name="{line}", persist_result=False, result_serializer="json")
def evaluate_champion(
    line: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "experiment",
    frozen: DatasetSpec | None = None,
    refreeze: bool = False,
    workspace: Path | None = None,
) -> State[ChampionScore]:
    """Score the champion on a frozen set, and write the history of its line.

    Args:
        line: Name of the task line; by default nights name it after the experiment.
        frozen: The labelled images that never change; its val split is scored. Pinned when it is first given; by default
            the set that was pinned, and where none was, nothing is scored.
        refreeze: Pin the set as it is now: earlier scores can then not be compared with later ones.
        workspace: Folder of stores, samples, models and runs; by default $HYPERCOLUMNS_HOME or the user's data folder.
    """
    config = champion_experiment(Workspace(resolve_workspace(workspace)), line, frozen)
    if config is None:
        result = _nothing_to_score(line)
        return Completed(name=result.status.capitalize(), message=result.message, data=result)
    with recorded_run(config, workspace) as job:
        prepared = prepare(job)
        pinned = freeze(job, prepared, line, refreeze)
        scored = score(job, prepared, line)
        note_score(job, line, pinned, scored)
        written = history(job, line)
        publish_history(written, line)
        finish_run(job, scored.metrics, written.path)
        result = _sum_up(line, pinned.key, scored, written.path)
    announce("champion.evaluated", line, {"model": scored.model, "mean_iu": scored.metrics["mean_iu"]})
    return Completed(message=result.message, data=result)


def _nothing_to_score(line: str) -> ChampionScore:
    message = f"line {line} has no frozen set: nothing was scored. Name one in `frozen`, once, and it is scored from then on"
    return ChampionScore(status="no frozen set", line=line, message=message)


def _sum_up(line: str, frozen: str, scored: ChampionScored, path: Path) -> ChampionScore:
    bounds = scored.metrics.get("intervals", {}).get("mean_iu")
    sure = "" if bounds is None else f", interval {interval((bounds[0], bounds[1]))}"
    message = f"champion {scored.model} of {line}: mean IU {percent(scored.metrics['mean_iu'])} on the frozen set{sure}"
    return ChampionScore(
        line=line,
        message=message.replace("\u00a0", " "),
        model=scored.model,
        metrics=scored.metrics,
        frozen=frozen,
        run_id=path.parent.name,
        history=path,
    )
