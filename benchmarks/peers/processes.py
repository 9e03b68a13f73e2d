"""How a peer is run: a process of its own, a wall limit, an environment of its own where it comes from the registry."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import forget
from benchmarks.peers.scoring import Outcome, Truth, read_outcome

__all__ = ["Peer", "run_peer", "use_cores"]

_ROOT = Path(__file__).parents[2]
_POLL_SECONDS = 0.2
_SETTINGS = {"CUDA_VISIBLE_DEVICES": "", "QT_QPA_PLATFORM": "offscreen", "MPLBACKEND": "Agg", "TF_CPP_MIN_LOG_LEVEL": "2"}


@dataclass(frozen=True)
class Peer:
    """One way to do the job.

    Attributes:
        label: for people.
        module: its module in this package.
        variant: which of the module's peers.
        limit_seconds: what it may take beyond the budget, predictions included.
        packages: requirements of its own environment; empty for the project's environment.
        pinned: take the versions of `requirements.lock` for what both need.
        share: of the budget, for which it is trained from start to end.
    """

    label: str
    module: str
    variant: str = ""
    limit_seconds: float = 300.0
    packages: tuple[str, ...] = ()
    pinned: bool = True
    share: float = 1.0


def use_cores(count: int) -> None:
    """Keep this process, and all it starts, to a number of cores, where the system has the means."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def run_peer(peer: Peer, work: Path, camvid: Path, budget_seconds: float, truth: Truth) -> Outcome:
    """Run a peer and score what it left behind; whatever goes wrong is its status, and its log is kept in the work folder."""
    try:
        python = _environment(peer, work / "environments")
    except subprocess.CalledProcessError as error:
        return Outcome(f"cannot be installed: {_last_line(str(error.stderr))}")
    folder, log = work / "runs" / peer.module / peer.variant, work / "logs" / f"{peer.module}-{peer.variant}-{peer.share:g}.txt"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log.parent.mkdir(exist_ok=True)
    forget(camvid)
    budget_seconds *= peer.share
    start = time.time()
    options = {"--out": folder, "--started": start, "--budget-seconds": budget_seconds, "--variant": peer.variant}
    command = [str(python), "-m", f"benchmarks.peers.{peer.module}", *(f"{name}={value}" for name, value in options.items())]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=_ROOT, env={**os.environ, **_SETTINGS}, stdout=file, stderr=file, start_new_session=True
        )
        try:
            status, peak_gb = _wait(process, start + budget_seconds + peer.limit_seconds)
        except KeyboardInterrupt:
            # In a session of its own it does not hear the key.
            os.killpg(process.pid, signal.SIGKILL)
            raise
    wall = time.time() - start
    if status == "failed":
        status = f"failed: {_last_line(log.read_text(encoding='utf-8', errors='replace'))}"
    outcome = read_outcome(folder, truth, status)
    shutil.rmtree(folder, ignore_errors=True)
    outcome.peak_gb, outcome.wall_seconds = peak_gb, wall
    return outcome


def _environment(peer: Peer, folder: Path) -> Path:
    """Return the interpreter the peer runs in, making its environment if there is none yet.

    Raises:
        subprocess.CalledProcessError: the packages cannot be had.
    """
    if not peer.packages:
        return Path(sys.executable)
    name = hashlib.sha256(repr((peer.packages, peer.pinned, sys.version_info[:2])).encode()).hexdigest()[:12]
    place = folder / name
    python, stamp = place / "bin" / "python", place / "installed"
    if not stamp.exists():
        uv = str(Path(sys.executable).with_name("uv"))
        lock = ("--constraint", str(_ROOT / "requirements.lock")) if peer.pinned else ()
        for command in (
            (uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(place)),
            (uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *lock, *peer.packages),
        ):
            subprocess.run(command, capture_output=True, text=True, check=True)
        stamp.touch()
    return python


def _wait(process: subprocess.Popen[bytes], deadline: float) -> tuple[str, float]:
    """Wait for a process, and end it with all it started at the deadline; return its status and its peak memory in GB."""
    late = False
    while True:
        ended, code, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        if not late and time.time() > deadline:
            late = True
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    process.returncode = os.waitstatus_to_exitcode(code)
    status = "stopped at its limit" if late else "done" if process.returncode == 0 else "failed"
    return status, usage.ru_maxrss * 1024 / 1e9


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"
