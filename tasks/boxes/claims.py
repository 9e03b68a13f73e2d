"""The published claims about hypercolumns, each held against what was measured here.

Source: Hariharan et al., "Hypercolumns for object segmentation and fine-grained localization", CVPR 2015: tables 1 to 4 and
sec. 5 (layers, grid, AP^r 49.7 to 60.0 at 0.5 and 40.4 at 0.7, APK 18.5, parts 6.6 points better).
"""

from __future__ import annotations

from collections.abc import Sequence

from hypercolumns.reporting import numbers
from tasks.boxes.compare import Difference, HeadRow
from tasks.boxes.scoring import HEADLINES
from tasks.jobs import Message

__all__ = ["PUBLISHED", "Claim", "judge_claims"]

PUBLISHED = {
    "segment": "AP^r 49.7 (top layer) to 60.0 at 0.5, 40.4 at 0.7",
    "keypoints": "APK 18.5, 3.3 more than before",
    "parts": "AP^r_part 6.6 more than the top layer",
}
"""Published figures, for orientation: other images, another network."""

_NEAR = 0.02
"""Difference of scores up to which two heads are called as good as each other."""


class Claim(Message):
    """A published claim, whether it holds here, and the numbers that say so."""

    text: str
    holds: bool | None
    numbers: str

    @property
    def line(self) -> str:
        """The claim in one line."""
        verdict = "cannot be told here" if self.holds is None else "holds" if self.holds else "does not hold here"
        return f"{verdict}: {self.text} ({self.numbers})"


def judge_claims(rows: Sequence[HeadRow], differences: Sequence[Difference], grid: int) -> tuple[Claim, ...]:
    """Hold the claims against the rows of a comparison.

    Args:
        rows: Of all tasks.
        differences: Paired differences of the same.
        grid: K of the heads on some of the layers.
    """
    tasks = tuple(dict.fromkeys(row.task for row in rows))
    book = _Book(rows, differences)
    found = []
    for task in tasks:
        found += [_every_layer_helps(book, task, grid), _deepest_is_worst(book, task, grid)]
        found += [_grid_helps(book, task, grid), _more_is_the_same(book, task, grid)]
    found.append(_beats_the_top(book, tasks, grid))
    return tuple(each for each in found if each is not None)


class _Book:
    """Rows and differences by name."""

    def __init__(self, rows: Sequence[HeadRow], differences: Sequence[Difference]) -> None:
        self.rows = {(row.task, row.name): row for row in rows}
        self._differences = {(d.task, d.score, d.first, d.second): d for d in differences}

    def score(self, task: str, name: str, score: str) -> float | None:
        """Return a head's score, None where there is none."""
        row = self.rows.get((task, name))
        return None if row is None else row.scores.get(score)

    def gain(self, task: str, first: str, second: str, score: str) -> tuple[float, str] | None:
        """Return how much better the first head is, and the numbers that say so."""
        values = self.score(task, first, score), self.score(task, second, score)
        if values[0] is None or values[1] is None:
            return None
        gain = values[0] - values[1]
        text = f"{numbers.percent(values[0])} against {numbers.percent(values[1])}, {numbers.points(gain)} points"
        if paired := self._differences.get((task, score, first, second)):
            text += f", interval {numbers.points(paired.low)} to {numbers.points(paired.high)}"
        return gain, text


def _every_layer_helps(book: _Book, task: str, grid: int) -> Claim | None:
    score, reference = HEADLINES[task], f"all layers, K = {grid}"
    gains = {
        name: gain
        for (own, name) in book.rows
        if own == task and name.startswith("without ") and (gain := book.gain(task, reference, name, score))
    }
    if not gains:
        return None
    worst = min(gains, key=lambda name: gains[name][0])
    helped = sum(gain > 0 for gain, _ in gains.values())
    text = f"{task}: every layer helps ({score})"
    return Claim(text=text, holds=helped == len(gains), numbers=f"{helped} of {len(gains)} do; {worst}: {gains[worst][1]}")


def _deepest_is_worst(book: _Book, task: str, grid: int) -> Claim | None:
    score = {"segment": "ap_r@0.7", "keypoints": "pck@0.1", "parts": "ap_r_part@0.7"}[task]
    values = {
        row.name: row.scores[score]
        for (own, _), row in book.rows.items()
        if own == task and row.grid == grid and row.scores.get(score) is not None and not row.name.startswith("without ")
    }
    deepest = values.pop("deepest", None)
    if deepest is None or not values:
        return None
    least = min(values, key=lambda name: values[name] or 0.0)
    # A tie is no proof: where nothing is found at all, no head is worse than another.
    holds = deepest < (values[least] or 0.0)
    said = f"deepest {numbers.percent(deepest)}, next {least} {numbers.percent(values[least])}"
    return Claim(text=f"{task}: the deepest layer alone is worst ({score})", holds=holds, numbers=said)


def _grid_helps(book: _Book, task: str, grid: int) -> Claim | None:
    gain = book.gain(task, f"all layers, K = {grid}", "all layers, K = 1", HEADLINES[task]) if grid > 1 else None
    published = ", published: by 2.4 points of AP^r" if task == "segment" else ""
    text = f"{task}: K = {grid} beats K = 1{published} ({HEADLINES[task]})"
    return None if gain is None else Claim(text=text, holds=gain[0] > 0, numbers=gain[1])


def _more_is_the_same(book: _Book, task: str, grid: int) -> Claim | None:
    gain = book.gain(task, f"all layers, K = {2 * grid}", f"all layers, K = {grid}", HEADLINES[task])
    text = f"{task}: K = {2 * grid} is as good as K = {grid}, within {100 * _NEAR:g} points ({HEADLINES[task]})"
    return None if gain is None else Claim(text=text, holds=abs(gain[0]) <= _NEAR, numbers=gain[1])


def _beats_the_top(book: _Book, tasks: Sequence[str], grid: int) -> Claim | None:
    gains = {task: book.gain(task, f"all layers, K = {grid}", "deepest", HEADLINES[task]) for task in tasks}
    known = {task: gain for task, gain in gains.items() if gain is not None}
    if not known:
        return None
    said = "; ".join(f"{task} {HEADLINES[task]}: {text}; published: {PUBLISHED[task]}" for task, (_, text) in known.items())
    holds = all(gain > 0 for gain, _ in known.values())
    return Claim(text=f"hypercolumns beat the top layer on {', '.join(known)}", holds=holds, numbers=said)
