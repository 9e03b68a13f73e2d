"""Promote: have a challenger and the champion scored on the same images by the same protocol, and decide between them."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypercolumns.metrics.promotion import decide
from hypercolumns.nights import PromotionSpec
from storage.champions import Champion, LineView, note, promote
from tasks.evaluate import load_evaluation, protocol_line
from tasks.jobs import Evaluated, Job, Message, Prepared, Trained
from tasks.manifests import load_manifest
from tasks.rescore import load_scored, score_model, with_classes

__all__ = ["Compared", "compare_with_champion", "record_decision"]


class Compared(Message):
    """A decision, and what it was about."""

    promote: bool
    decision: dict[str, Any]
    champion_model: str | None
    seconds: float


def compare_with_champion(
    job: Job, prepared: Prepared, trained: Trained, evaluated: Evaluated, view: LineView, spec: PromotionSpec
) -> Compared:
    """Decide whether the experiment's model is to replace the champion of a line.

    The champion is scored on the val split as it is today, whatever it was promoted on.

    Args:
        job: The experiment.
        prepared: Its checked data set.
        trained: The challenger.
        evaluated: Its scores.
        view: The line.
        spec: What is asked of a challenger.
    """
    start = time.perf_counter()
    manifest = load_manifest(prepared.path)
    names: tuple[str, ...] = manifest.class_names
    ours, theirs = load_evaluation(evaluated.path)[0]["model"], None
    if view.model is not None:
        scored = score_model(job, prepared, view.model)
        names = with_classes(names, scored.class_names)
        theirs = load_scored(scored)
    decision = decide(_widened(ours, len(names)), theirs, names, spec)
    against = _vetoes(trained, view)
    if against:
        decision = replace(decision, promote=False, reasons=(*against, *decision.reasons))
    told = decision.to_json() | {"protocol": protocol_line(job.spec), "rule": spec.model_dump(mode="json")}
    return Compared(promote=decision.promote, decision=told, champion_model=view.model, seconds=time.perf_counter() - start)


def record_decision(
    job: Job, line: str, compared: Compared, challenger: Champion, night: dict[str, Any], *, who: str, reach: int
) -> LineView:
    """Write a decision into the line's log: the challenger promoted, or the champion kept.

    Args:
        job: The experiment.
        line: Name of the task line.
        compared: The decision.
        challenger: The challenger.
        night: What else is to be known of the night.
        who: The flow or person that decides.
        reach: How many former champions stay ready for a rollback.

    Raises:
        ChampionChangedError: somebody changed the champion since the decision was made.
    """
    decision = compared.decision | {"night": night}
    if compared.promote:
        return promote(job.places, line, challenger, decision, who=who, expected=compared.champion_model, reach=reach)
    return note(job.places, line, "kept", {"decision": decision, "challenger": challenger.as_json(), "who": who})


def _vetoes(trained: Trained, view: LineView) -> tuple[str, ...]:
    """Say what keeps a challenger from being promoted whatever its scores are."""
    found = []
    if trained.key == view.model:
        found.append("it is the champion's own model")
    if view.pinned:
        found.append("the champion is pinned; `hypercolumns champion pin --release` lets it go")
    if trained.key in view.withdrawn:
        found.append("this model was rolled back; `hypercolumns champion pin` brings it back")
    return tuple(found)


def _widened(matrices: NDArray[Any], classes: int) -> NDArray[Any]:
    """Add empty rows and columns for the classes that only the champion knows."""
    missing = classes - matrices.shape[1]
    return np.pad(matrices, ((0, 0), (0, missing), (0, missing)))
