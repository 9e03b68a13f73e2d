"""Children by fork(2): of a parent that has imported everything once, computes nothing and has no threads.

A child answers in JSON through a pipe, or dies. Nobody is left behind: whoever starts a child waits for it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

__all__ = ["Child", "ChildError", "Ending", "answer", "cores", "in_parallel", "start"]

_LONGEST_SECONDS = 180.0


class ChildError(RuntimeError):
    """A child that was to come to its end raised, was killed or hung."""


@dataclass(frozen=True)
class Ending:
    """How a child ended.

    Args:
        value: what it answered; None if it did not come to that.
        signal: what killed it; 0 if nothing did.
        error: what it raised, with the traceback; empty if nothing.
    """

    value: Any = None
    signal: int = 0
    error: str = ""


class Child:
    """A running child. Made by `start`."""

    def __init__(self, process: int, pipe: int) -> None:
        self.process = process
        self._pipe = pipe

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; one that has ended already is left alone."""
        with suppress(ProcessLookupError):
            os.kill(self.process, number)

    def end(self, seconds: float = _LONGEST_SECONDS) -> Ending:
        """Wait for the end. A child that takes longer than `seconds` is killed and said to hang."""
        data, deadline, hangs = b"", time.monotonic() + seconds, False
        while True:
            ready, _, _ = select.select([self._pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready and not hangs:
                hangs, deadline = True, time.monotonic() + 5
                self.kill()
                continue
            part = os.read(self._pipe, 1 << 16) if ready else b""
            if not part:
                break
            data += part
        os.close(self._pipe)
        status = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        if hangs:
            return Ending(error=f"still running after {seconds:.0f} s: killed")
        if status < 0:
            return Ending(signal=-status)
        answer = json.loads(data) if data else {"error": f"exit status {status}"}
        return Ending(answer.get("value"), 0, answer.get("error", ""))


def start(work: Callable[[], Any], *, quiet: bool = True) -> Child:
    """Run `work` in a child, which answers with what it returns.

    Args:
        work: Its result must be JSON.
        quiet: Send what the child says on stderr (progress bars) nowhere.

    Raises:
        ChildError: this process has other threads, which a child would not have.
    """
    threads = len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").exists() else 1
    if threads > 1:
        raise ChildError(f"expected to fork with one thread, got {threads}: a lock that another one holds would stay locked")
    sys.stdout.flush()
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return Child(process, reading)
    status = 1
    try:
        os.close(reading)
        # Torch makes its thread pool anew after a fork, and not safely if several threads come to that at once.
        torch.set_num_threads(1)
        if quiet:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _send(writing, _told(work))
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def answer(work: Callable[[], Any], seconds: float = _LONGEST_SECONDS) -> Any:
    """Run `work` in a child and return its answer.

    Raises:
        ChildError: it raised, was killed or hung.
    """
    ending = start(work).end(seconds)
    if ending.error or ending.signal:
        raise ChildError(ending.error or f"killed by signal {ending.signal}")
    return ending.value


def in_parallel(work: Callable[[int], Any], cases: Sequence[int], processes: int | None = None) -> list[Any]:
    """Return `work(case)` of each case, in order, from as many children as there are cores.

    Raises:
        ChildError: one of them raised.
    """
    count = max(1, min(processes or cores(), len(cases)))
    children = [start(partial(_each, work, cases[part::count]), quiet=False) for part in range(count)]
    endings = [child.end(3600.0) for child in children]
    for ending in endings:
        if ending.error or ending.signal:
            raise ChildError(ending.error or f"killed by signal {ending.signal}")
    results: list[Any] = [None] * len(cases)
    for part, ending in enumerate(endings):
        results[part::count] = ending.value
    return results


def _each(work: Callable[[int], Any], cases: Sequence[int]) -> list[Any]:
    return [work(case) for case in cases]


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _told(work: Callable[[], Any]) -> bytes:
    try:
        return json.dumps({"value": work()}).encode()
    except BaseException:  # noqa: BLE001 - told to the parent, which raises it: nothing is swallowed
        return json.dumps({"error": traceback.format_exc()}).encode()


def _send(pipe: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(pipe, view) :]
    os.close(pipe)
