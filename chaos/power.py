"""The power-loss campaign: work is recorded, cut after any of its calls; the disk keeps what it must.

What had been said to be safe before the cut must be there and right; nothing wrong may be read; a rerun of the same command
must finish without repair.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from chaos.forking import in_parallel
from chaos.outages import build, outage
from chaos.outcome import Case, Row, scaled, scratch, tallied
from chaos.power_works import WORKS, PowerWork
from chaos.recording import Log, recorded

__all__ = ["campaign", "cut_once"]

_CASES = 3200


def campaign(scale: float, seed: int) -> list[Row]:
    """Cut the power of every kind of publishing."""
    with scratch("power") as folder:
        return [_row(name, folder, scaled(_CASES // len(WORKS), scale, 3), seed) for name in WORKS]


def _row(name: str, folder: Path, cases: int, seed: int) -> Row:
    work = WORKS[name]

    @cache
    def log() -> Log:
        """Record once a process."""
        return _record(work, folder / f"{name}-recorded-{os.getpid()}")

    def one(case: int) -> dict[str, Any]:
        return cut_once(work, log(), folder / f"{name}-{case}", case, seed)

    answers = in_parallel(one, range(cases))
    steps = max(int(answer["figures"]["steps"]) for answer in answers)
    lines = Counter(int(answer["figures"]["step"]) for answer in answers)
    figures = {"steps recorded": steps, "steps cut": len(lines)}
    redone = max(answer["figures"].get("redone", 0) for answer in answers)
    return tallied(f"power lost: {work.title}", answers, work.worst.format(redone=redone), **figures)


def _record(work: PowerWork, root: Path) -> Log:
    work.prepare(root)
    with recorded(root, work.between(root)) as log:
        work.run(root, log.ack)
    shutil.rmtree(root)
    return log


def cut_once(work: PowerWork, log: Log, root: Path, case: int, seed: int) -> dict[str, Any]:
    """Build one state that a power loss may leave, and have the work recover from it.

    Returns:
        `asdict(Case)`.
    """
    choose = random.Random(f"{seed} {case}")
    step = case % len(log.steps) if case < len(log.steps) else choose.randrange(len(log.steps))
    build(outage(log, step, choose), root)
    acked = {seen.what for seen in log.steps[: step + 1] if seen.call == "ack"}
    figures: dict[str, float] = {"steps": len(log.steps), "step": step}
    lost, recovered = work.check(root, acked, figures)
    shutil.rmtree(root)
    call = log.steps[step]
    name = f"case {case} of seed {seed}, power lost after call {step} ({call.call} {call.what})"
    return asdict(Case(name, None, recovered, lost, figures))
