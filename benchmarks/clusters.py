"""Programs beside this one for measuring what more processes bring; all of them end with this process, however it ends."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

from cli.embedded import SETTINGS

__all__ = ["DaskCluster", "call_program", "dask_cluster", "prefect_server", "run_in_turns", "wait_for_server"]

_ROOT = Path(__file__).parent.parent
_START_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def run_in_turns(turns: Sequence[Sequence[Sequence[str]]], rounds: int = 1) -> list[list[list[float]]]:
    """Start Python programs; when all are ready, let those of each turn begin at the same moment, one turn after the other.

    Args:
        turns: For each program its text and arguments. It prints `ready`, and for each line that it then reads a number.
        rounds: How often the turns are taken.

    Returns:
        the numbers that they print: for each turn, for each round, of each program.

    Raises:
        RuntimeError: one ended without getting ready or without a number.
    """
    with ExitStack() as stack:
        running = [[stack.enter_context(_started([sys.executable, "-c", *program])) for program in turn] for turn in turns]
        for process in chain.from_iterable(running):
            _expect(_stream(process.stdout).readline().strip() == b"ready", process)
        answers: list[list[list[float]]] = [[] for _ in turns]
        for _ in range(rounds):
            for turn, found in zip(running, answers, strict=True):
                for process in turn:
                    _stream(process.stdin).write(b"\n")
                    _stream(process.stdin).flush()
                found.append([_number(process) for process in turn])
        return answers


def call_program(text: str, *arguments: str, settings: Mapping[str, str]) -> str:
    """Run one Python program, with these settings in its environment, and return what it prints.

    Raises:
        RuntimeError: it failed.
    """
    with _started([sys.executable, "-c", text, *arguments], settings=settings) as process:
        return _answer(process)


@contextmanager
def prefect_server(folder: Path) -> Iterator[dict[str, str]]:
    """Start a Prefect server on the loopback address, and give the settings of programs that use it; it answers later."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {**SETTINGS, "PREFECT_HOME": str(folder), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}

    server = ["-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1", "--port", str(port)]
    log = folder / "server.log"
    with log.open("ab") as output, _started([sys.executable, *server, "--lifespan", "on"], folder, output, settings):
        yield settings


def wait_for_server(settings: Mapping[str, str]) -> None:
    """Wait until a Prefect server answers.

    Raises:
        TimeoutError: it did not.
    """

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{settings['PREFECT_API_URL']}/health", timeout=1):
                return True
        except OSError:
            return False

    _wait(answers, "a Prefect server")


@dataclass(frozen=True)
class DaskCluster:
    """A scheduler's address, and the processes of the cluster."""

    address: str
    processes: tuple[int, ...]


@contextmanager
def dask_cluster(folder: Path, workers: int) -> Iterator[DaskCluster]:
    """Start a scheduler and workers of one thread each on the loopback address.

    Raises:
        TimeoutError: they did not start.
    """
    folder.mkdir()
    told, log = folder / "scheduler.json", folder / "log"
    here = ["--host", "127.0.0.1", "--no-dashboard", "--preload", "flows.dask_preload"]
    options = ["--no-nanny", "--nthreads", "1", "--memory-limit", "0"]
    with ExitStack() as stack, log.open("ab") as output:
        processes: list[int] = []

        def start(*arguments: str) -> None:
            command = [sys.executable, "-m", "dask", *arguments]
            processes.append(stack.enter_context(_started(command, folder, output)).pid)

        start("scheduler", *here, "--port", "0", "--scheduler-file", str(told))
        # It is there before its content is.
        _wait(lambda: told.exists() and told.stat().st_size > 0)
        address = str(json.loads(told.read_text(encoding="utf-8"))["address"])
        for _ in range(workers):
            start("worker", address, *here, *options, "--local-directory", str(folder / "scratch"))
        _wait(lambda: log.read_text(encoding="utf-8").count("Registered to") >= workers)
        yield DaskCluster(address, tuple(processes))


@contextmanager
def _started(
    command: Sequence[str], folder: Path = _ROOT, output: IO[bytes] | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that is killed at the end of the block, and also when this process is killed."""
    parent = os.getpid()

    def end_with_parent() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**_environment(), **(settings or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if output is None else output,
        stderr=None if output is None else output,
        preexec_fn=end_with_parent,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "HYPERCOLUMNS"))}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT)}


def _number(process: subprocess.Popen[bytes]) -> float:
    line = _stream(process.stdout).readline()
    _expect(bool(line.strip()), process)
    return float(line)


def _answer(process: subprocess.Popen[bytes]) -> str:
    printed = process.communicate()[0].decode()
    _expect(process.returncode == 0 and bool(printed.strip()), process)
    return printed


def _expect(fulfilled: bool, process: subprocess.Popen[bytes]) -> None:
    if not fulfilled:
        raise RuntimeError(f"expected process {process.pid} to do its part, it ended ({process.poll()}); its reason is above")


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ValueError("expected a process with pipes")
    return stream


def _wait(condition: Callable[[], bool], what: str = "Dask's processes") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"expected {what} within {_START_SECONDS:g} s; is the machine busy, or a package missing?")
        time.sleep(0.05)
