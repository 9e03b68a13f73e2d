"""The service's processes: started in sessions of their own, found by the mark in their environment, and ended, all of them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from cli.service.environment import MARK_VARIABLE

__all__ = ["Child", "all_processes", "end_processes", "flow_processes", "marked_processes"]

_FLOW_RUN_VARIABLE = "PREFECT__FLOW_RUN_ID"
_TAIL_LINES = 15


class Child:
    """A process of the service; what it prints goes to a file, and what it printed last time is kept beside it.

    Args:
        name: names the log, `NAME.log`.
        arguments: for this Python.
        environment: all of it.
        logs: folder of the log.
        folder: where it starts.
        listens: whether it waits for `go`.
    """

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: Mapping[str, str],
        logs: Path,
        folder: Path,
        *,
        listens: bool = False,
    ) -> None:
        self.name, self._asked = name, False
        self.log = logs / f"{name}.log"
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("wb") as output:
            # A session of its own: Ctrl-C in the terminal reaches us alone, and we end the others in their order.
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.PIPE if listens else subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def go(self) -> None:
        """Tell it to begin; one that is gone is not told."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(b"go\n")
                self._process.stdin.close()

    def terminate(self) -> None:
        """Ask it to end; once, because a worker takes a second signal for impatience and dies without a word."""
        if self.code is None and not self._asked:
            self._asked = True
            self._process.terminate()

    def end(self, patience_s: float) -> None:
        """Ask it to end, and kill it when it does not."""
        self.terminate()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def tail(self) -> str:
        """Return the last lines that it printed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])


def all_processes() -> list[psutil.Process]:
    """List the processes of this machine, other than this one and those that started it."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [process for process in psutil.process_iter() if process.pid not in own]


def marked_processes(mark: str) -> list[psutil.Process]:
    """Find the processes that carry a service's mark, other than this one and those that started it."""
    return [process for process in all_processes() if _variable(process, MARK_VARIABLE) == mark]


def flow_processes(processes: Iterable[psutil.Process]) -> dict[str, list[psutil.Process]]:
    """Sort processes by the flow run that they run; those that run none are left out."""
    found: dict[str, list[psutil.Process]] = {}
    for process in processes:
        if run := _variable(process, _FLOW_RUN_VARIABLE):
            found.setdefault(run, []).append(process)
    return found


def end_processes(processes: Iterable[psutil.Process], patience_s: float) -> None:
    """Ask processes to end, kill those that do not, and wait until all are gone."""
    waiting = list(processes)
    for process in waiting:
        _signal(process, kill=False)
    _, left = psutil.wait_procs(waiting, timeout=patience_s)
    for process in left:
        _signal(process, kill=True)
    psutil.wait_procs(left, timeout=5)


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        process.kill() if kill else process.terminate()
    except psutil.NoSuchProcess:
        return


def _variable(process: psutil.Process, name: str) -> str | None:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        found: str | None = process.environ().get(name)
    except (psutil.Error, OSError):
        # Somebody else's process, or one that is ending: not ours in either case.
        return None
    return found
