"""What a campaign tells: one row a fault, and in it what was detected, recovered and lost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Case", "Row", "print_table", "scaled", "scratch", "tallied"]


@dataclass(frozen=True)
class Case:
    """One thing that was broken.

    Args:
        name: what was broken and how, with the seed: enough to do it again.
        detected: whether it was noticed; None where there is nothing to notice.
        recovered: whether a rerun or a repair brought everything back.
        lost: what was lost, or read wrongly, in words; each counts one.
        figures: what was measured.
    """

    name: str
    detected: bool | None = None
    recovered: bool = True
    lost: Sequence[str] = ()
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """All cases of one fault.

    Args:
        fault: what was broken.
        cases: how many.
        detected: how many of them were noticed; None where there is nothing to notice.
        recovered: how many ended in the state of an undisturbed run.
        lost: how many things were lost or wrong.
        worst: the worst case seen, in words.
        problems: what went wrong, in words.
        figures: what was measured.
        skipped: why nothing was done; empty if it was.
    """

    fault: str
    cases: int = 0
    detected: int | None = None
    recovered: int = 0
    lost: int = 0
    worst: str = ""
    problems: Sequence[str] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    skipped: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, all that can be noticed was, and all came back."""
        return not self.lost and self.recovered == self.cases and self.detected in (None, self.cases)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def tallied(fault: str, answers: Sequence[Mapping[str, Any]], worst: str = "", **figures: Any) -> Row:
    """Count cases, which come as JSON from the children that had them.

    Args:
        fault: What was broken.
        answers: `asdict(Case)` of each.
        worst: The worst case, in words.
        figures: What was measured.
    """
    told = [answer["detected"] for answer in answers if answer["detected"] is not None]
    problems = [f"{answer['name']}: {what}" for answer in answers for what in answer["lost"]]
    problems += [f"{answer['name']}: not recovered" for answer in answers if not answer["recovered"]]
    problems += [f"{answer['name']}: not noticed" for answer in answers if answer["detected"] is False]
    return Row(
        fault,
        len(answers),
        sum(told) + len(answers) - len(told) if told else None,
        sum(bool(answer["recovered"]) for answer in answers),
        sum(len(answer["lost"]) for answer in answers),
        worst,
        problems,
        figures,
    )


def print_table(rows: Sequence[Row]) -> None:
    """Print one line a fault, what was skipped, the worst cases, and everything that went wrong."""
    width = max(len(row.fault) for row in rows)
    print(f"{'fault':{width}s}  {'cases':>6s}  {'detected':>8s}  {'recovered':>9s}  {'lost':>5s}")
    for row in rows:
        if row.skipped:
            print(f"{row.fault:{width}s}  skipped: {row.skipped}")
            continue
        detected = "-" if row.detected is None else str(row.detected)
        print(f"{row.fault:{width}s}  {row.cases:6d}  {detected:>8s}  {row.recovered:9d}  {row.lost:5d}")
    for row in rows:
        if row.worst:
            print(f"worst case of {row.fault}: {row.worst}")
        for problem in row.problems:
            print(f"PROBLEM, {row.fault}: {problem}")


def scaled(cases: int, scale: float, least: int = 1) -> int:
    """Return a number of cases at a scale."""
    return max(least, round(cases * scale))


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """Give an empty folder in memory where there is one: kill -9 and damage do not care, and the disk is slow."""
    memory = Path("/dev/shm")
    root = os.environ.get("HYPERCOLUMNS_CHAOS_DIR") or (str(memory) if os.access(memory, os.W_OK) else None)
    with tempfile.TemporaryDirectory(dir=root, prefix=f"chaos-{name}-") as folder:
        yield Path(folder).resolve()
