"""Kill -9: a process dies at a moment it did not choose; what it had committed stays, and a rerun finishes.

A victim is stopped at a named moment (`chaos.moments`), or by its parent after a random time. Then a fresh process looks at
what is left, runs the same again and compares with a run that nobody disturbed.
"""

from __future__ import annotations

import mmap
import random
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from chaos.forking import ChildError, answer, start
from chaos.moments import Moments, counted, stop_at
from chaos.outcome import Case
from chaos.watching import watched

__all__ = ["Killing", "Undisturbed", "killed_once", "measured", "moment_for"]

_TIMED_SHARE = 0.3
"""Share of the cases that are killed after a random time, wherever they are."""

_AGAIN_SHARE = 0.15
"""Share of the cases whose rerun is killed too."""


@dataclass(frozen=True)
class Killing:
    """What is killed.

    Args:
        phases: the functions it can be killed at (`chaos.moments`).
        work: the work, in a workspace; run in the victim and again in the rerun; returns JSON.
        look: what a reader does all the time: (rows read, what was wrong with them).
        judge: judges a workspace after the kill (before the rerun); returns what was lost or wrong, and figures.
        compare: compares a workspace after the rerun with the undisturbed one; returns what differs.
    """

    phases: Mapping[str, tuple[str, ...]]
    work: Callable[[Path], Any]
    look: Callable[[Path], tuple[int, list[str]]]
    judge: Callable[[Path, int], tuple[list[str], dict[str, float]]]
    compare: Callable[[Path, Any, dict[str, float]], list[str]]


@dataclass(frozen=True)
class Undisturbed:
    """What a run does that nobody disturbs: how often each moment comes up, and its seconds."""

    moments: Moments
    seconds: float


def measured(killing: Killing, workspace: Callable[[str], Path]) -> Undisturbed:
    """Run the work to its end twice: once counted, once timed."""
    moments = answer(lambda: counted(killing.phases, lambda: killing.work(workspace("counted"))))
    begin = time.monotonic()
    answer(lambda: killing.work(workspace("timed")))
    return Undisturbed(moments, time.monotonic() - begin)


def moment_for(choose: random.Random, number: int, undisturbed: Undisturbed) -> tuple[str, int] | float:
    """Choose when to kill: in turn every moment of every phase, at a random one of its calls; or after a random time."""
    if choose.random() < _TIMED_SHARE:
        return choose.uniform(0.0, 1.1 * undisturbed.seconds)
    moments = sorted(undisturbed.moments)
    moment = moments[number % len(moments)]
    return moment, choose.randint(1, undisturbed.moments[moment])


def killed_once(killing: Killing, workspace: Path, number: int, seed: int, undisturbed: Undisturbed) -> dict[str, Any]:
    """Kill a run, perhaps its rerun too, then let one finish; readers look all the time.

    Returns:
        `asdict(Case)`.
    """
    choose = random.Random(f"{seed} {number}")
    whens: list[tuple[str, int] | float] = [moment_for(choose, number, undisturbed)]
    while choose.random() < _AGAIN_SHARE:
        whens.append(moment_for(choose, choose.randrange(10_000), undisturbed))
    lost: list[str] = []
    figures: dict[str, float] = {"killed": 0}
    with watched(lambda: killing.look(workspace), workspace.with_suffix(".stop")) as seen:
        for when in whens:
            begun, died = _victim(killing, workspace, when)
            figures["killed"] += died
            found, measures = answer(partial(killing.judge, workspace, begun))
            lost += found
            figures |= {name: max(value, figures.get(name, 0.0)) for name, value in measures.items()}
        try:
            done = answer(lambda: killing.work(workspace))
            differs = answer(lambda: killing.compare(workspace, done, figures))
        except ChildError as error:
            differs = [f"the rerun failed: {error}"]
    lost += seen.wrong
    figures |= {"passes": seen.passes, "rows": seen.rows}
    shutil.rmtree(workspace, ignore_errors=True)
    name = f"case {number} of seed {seed}, killed at {whens}"
    return asdict(Case(name, None, not differs, [*lost, *differs], figures))


def _victim(killing: Killing, workspace: Path, when: tuple[str, int] | float) -> tuple[int, bool]:
    """Run the work in a child and kill it; return how many images it had begun with, and whether it died of it."""
    begun = mmap.mmap(-1, 8)

    def work() -> None:
        _count_images(begun)
        if isinstance(when, tuple):
            stop_at(killing.phases, *when)
        killing.work(workspace)

    child = start(work)
    if not isinstance(when, tuple):
        time.sleep(when)
        child.kill()
    ending = child.end()
    if ending.error:
        raise ChildError(f"the victim failed by itself: {ending.error}")
    return int.from_bytes(begun[:8], "little"), bool(ending.signal)


def _count_images(shared: mmap.mmap) -> None:
    """Count in shared memory, which outlives this process, how many images went through the backbone."""
    from hypercolumns.backbones.extractor import Backbone

    real = Backbone.__call__

    def call(self: Backbone, images: Any, *arguments: Any) -> Any:
        result = real(self, images, *arguments)
        shared[:8] = (int.from_bytes(shared[:8], "little") + len(images)).to_bytes(8, "little")
        return result

    setattr(Backbone, "__call__", call)  # noqa: B010 - a type checker takes an assignment for a mistake
