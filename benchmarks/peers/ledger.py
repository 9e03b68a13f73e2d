"""What a peer's process keeps while it works: its clock, the masks it predicted at times, and figures of its own.

The process that started it reads the ledger afterwards and does the scoring. Only numpy is imported, as in `scene`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.scene import Scene, open_scene

__all__ = ["LEDGER", "MARKS", "Ledger", "begin", "prediction_milliseconds"]

LEDGER = "ledger.jsonl"
MARKS = (1 / 20, 1 / 10, 1 / 5, 1 / 2, 1.0)
"""Shares of the budget at which the score is asked for: 30, 60, 120, 300 and 600 seconds of ten minutes."""

_TIMED_IMAGES, _WARM_UP_IMAGES = 20, 3


class Ledger:
    """A clock that stands still while masks are predicted, and the file that figures go to.

    Args:
        folder: where masks and figures are written.
        started: when the process was started, seconds since the epoch.
        budget_seconds: how long it may train.
    """

    def __init__(self, folder: Path, started: float, budget_seconds: float) -> None:
        self.folder, self.budget_seconds = folder, budget_seconds
        self._started = started
        self._paused = 0.0
        self._marked = 0
        self._due = [share * budget_seconds for share in MARKS]

    @property
    def seconds(self) -> float:
        """Seconds on the clock."""
        return time.time() - self._started - self._paused

    @property
    def share(self) -> float:
        """Share of the budget that is spent, in [0, 1]."""
        return min(1.0, self.seconds / self.budget_seconds)

    def due(self, step_seconds: float) -> bool:
        """Say whether another step of this length would end after the next time at which the score is asked for."""
        if not self._due or self.seconds + step_seconds < self._due[0]:
            return False
        reached = self.seconds + step_seconds
        self._due = [mark for mark in self._due if mark > reached]
        return True

    @property
    def over(self) -> bool:
        """Whether every time at which the score is asked for has gone by."""
        return not self._due

    def mark(self, masks: Iterable[NDArray[np.uint8]], *, seconds: float | None = None, name: str = "") -> None:
        """Keep the val masks of the present model; the clock stands still until they are written.

        Args:
            masks: one (H, W) mask a val photograph, in order; they are predicted while this iterates.
            seconds: when the model was ready, where the clock does not tell.
            name: what the model is, for people.
        """
        reached = self.seconds if seconds is None else seconds
        with self.paused():
            np.save(self.folder / f"masks-{self._marked}.npy", np.stack(list(masks)))
        self._write({"point": {"seconds": reached, "masks": f"masks-{self._marked}.npy", "name": name}})
        self._marked += 1

    def note(self, **figures: Any) -> None:
        """Keep figures of the peer's own."""
        self._write({"notes": figures})

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock for the length of a block."""
        start = time.time()
        try:
            yield
        finally:
            self._paused += time.time() - start

    def _write(self, line: dict[str, Any]) -> None:
        with (self.folder / LEDGER).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def begin(description: str | None) -> tuple[Ledger, Scene, str]:
    """Read what a peer's process was started with: its ledger, the photographs, and which variant of the peer is meant."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="folder for masks and figures")
    parser.add_argument("--started", type=float, default=time.time(), help="when the clock started, seconds since the epoch")
    parser.add_argument("--budget-seconds", type=float, default=600.0, help="how long to train")
    parser.add_argument("--variant", default="", help="which of the module's peers")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    scene = open_scene(Path(os.environ["HYPERCOLUMNS_REAL_DATA"]))
    return Ledger(options.out, options.started, options.budget_seconds), scene, options.variant


def prediction_milliseconds(predict: Callable[[Path], NDArray[np.uint8]], images: Iterable[Path]) -> float:
    """Return the median milliseconds of labelling one image file; the first few warm up."""
    times = []
    for path in list(images)[: _TIMED_IMAGES + _WARM_UP_IMAGES]:
        start = time.perf_counter()
        predict(path)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[_WARM_UP_IMAGES:] or times)
