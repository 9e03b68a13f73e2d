"""Real Dask processes on the loopback address, each started and ended by number; imported by the tests of the cluster."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from distributed import Client

from tests.pipeline_factory import python_environment

_START_SECONDS = 90


class DaskProcesses:
    """A scheduler and workers, processes of this machine.

    Args:
        folder: Where they keep their files and logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self.address = ""
        folder.mkdir(parents=True, exist_ok=True)

    def start_scheduler(self, port: int = 0) -> str:
        """Start a scheduler and return its address."""
        found = self.folder / f"scheduler-{time.monotonic_ns()}.json"
        command = ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--scheduler-file", str(found)]
        self.scheduler = self._start("scheduler", command)
        # It is there before its content is.
        wait_until(lambda: found.exists() and found.stat().st_size > 0, "the scheduler to start", self.logs)
        self.address = str(json.loads(found.read_text(encoding="utf-8"))["address"])
        return self.address

    def start_workers(self, count: int) -> None:
        """Start some workers side by side, and wait until all are there."""
        for _ in range(count):
            self.start_worker(wait=False)
        wait_until(lambda: len(self.names()) >= count, f"{count} workers to register", self.logs)

    def start_worker(
        self,
        *,
        wait: bool = True,
        preload: str = "flows.dask_preload",
        nanny: bool = False,
        prefix: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a worker of one thread, mostly without a nanny, so that killing it kills what computes."""
        name = f"worker-{len(self.workers)}"
        where = ["--host", "127.0.0.1", "--no-dashboard", "--local-directory", str(self.folder / "scratch")]
        # It imports what it needs before it registers: on a busy machine that takes longer than a whole test.
        options = ["--nanny" if nanny else "--no-nanny", "--nthreads", "1", "--memory-limit", "0", "--name", name]
        command = ["worker", self.address, *where, *options, "--preload", preload]
        worker = self._start(name, command, prefix, environment)
        self.workers.append(worker)
        if wait:
            wait_until(lambda: name in self.names(), "a worker to register", self.logs)
        return worker

    def names(self) -> set[str]:
        """Return the names of the workers that the scheduler knows."""
        with Client(self.address, timeout=10, set_as_default=False) as client:
            return {str(worker["name"]) for worker in client.scheduler_info()["workers"].values()}

    def logs(self) -> str:
        """Return the ends of all logs."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in sorted(self.folder.glob("*.log"))
        )

    def stop(self) -> None:
        """End exactly the processes that were started here."""
        for process in (*self.workers, self.scheduler):
            if process is not None and process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait(20)

    def _start(
        self, name: str, command: list[str], prefix: tuple[str, ...] = (), environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [*prefix, sys.executable, "-m", "dask", *command],
                cwd=self.folder,
                env=python_environment(**(environment or {})),
                stdout=log,
                stderr=log,
            )


def wait_until(condition, what, explain=lambda: "", seconds=_START_SECONDS):
    """Wait for something, and say what did not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}\n{explain()}"
        time.sleep(0.05)


@contextlib.contextmanager
def slowed(process: subprocess.Popen[bytes], *, stopped: float = 0.2, running: float = 0.02) -> Iterator[None]:
    """Make a process slow: most of the time it is stopped."""
    ended = threading.Event()

    def pulse() -> None:
        while not ended.is_set():
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(stopped)
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(running)

    thread = threading.Thread(target=pulse)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
