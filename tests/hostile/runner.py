"""Run each case of a corpus in a process of its own, with limits on time and memory, and write down how it ended.

`python -m tests.hostile.runner CORPUS OUT.json` imports the heavy packages once and forks for each case: a hang is a case that
was killed, a crash one that a signal ended, and neither takes the others with it.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SECONDS = 20.0
MEMORY_BYTES = 1 << 30
"""What a case may take beyond what was there before it began; the largest picture let through in these corpora is small."""
_TOGETHER = 16
_REPOSITORY = Path(__file__).parents[2]


def explained(error: BaseException) -> dict[str, Any]:
    """Tell what was raised: whether it is ours, and what it says."""
    from hypercolumns.errors import HypercolumnsError
    from storage.errors import StorageError

    ours = isinstance(error, HypercolumnsError | StorageError)
    return {
        "error": type(error).__name__,
        "ours": ours,
        "message": str(error),
        "families": [t.__name__ for t in type(error).__mro__],
    }


def run_corpus(module: str, names: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Run `module.perform(name, folder)` for each of `module.names()`.

    A fork of such a large process takes longer than most cases, so several share one; where one of them does not end well, each
    of them is run again by itself.
    """
    corpus = importlib.import_module(module)
    listed, outcomes = names or corpus.names(), {}
    for start in range(0, len(listed), _TOGETHER):
        some = listed[start : start + _TOGETHER]
        found = _apart(corpus, some)
        for name in some:
            outcomes[name] = found[name] if name in found else _apart(corpus, [name])[name]
    return outcomes


def _apart(corpus: Any, some: list[str]) -> dict[str, dict[str, Any]]:
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    readable, writable = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(readable)
        _perform(corpus, some, folder, writable)
    os.close(writable)
    try:
        answer = _read_until(readable, started + SECONDS * (1 if len(some) == 1 else 3))
        if answer is None:
            os.kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
    finally:
        os.close(readable)
        shutil.rmtree(folder, ignore_errors=True)
    if answer is None or os.WIFSIGNALED(status):
        ended = f"killed after {SECONDS:g} seconds" if answer is None else f"signal {os.WTERMSIG(status)}"
        return {some[0]: {"ended": ended}} if len(some) == 1 else {}
    common = {"ended": "by itself", "peak_kib": usage.ru_maxrss}
    return {name: {**common, **found} for name, found in json.loads(answer).items()}


def _perform(corpus: Any, some: list[str], folder: Path, writable: int) -> None:
    before = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = before + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer = {}
    for number, name in enumerate(some):
        started = time.monotonic()
        (folder / str(number)).mkdir()
        try:
            answer[name] = {"returned": corpus.perform(name, folder / str(number))}
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test judges it
            answer[name] = explained(error)
        answer[name]["seconds"] = time.monotonic() - started
    with os.fdopen(writable, "w") as stream:
        json.dump(answer, stream)
    os._exit(0)


def _read_until(descriptor: int, deadline: float) -> bytes | None:
    """Read to the end of a pipe; None when it did not end in time."""
    parts = []
    while (left := deadline - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            part = os.read(descriptor, 1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)
    return None


def outcomes_of(module: str, shared: Path | None = None) -> dict[str, dict[str, Any]]:
    """Run a corpus in a fresh interpreter; where `shared` is a folder of several test processes, once for all of them."""
    from filelock import FileLock

    with tempfile.TemporaryDirectory() as private:
        out = (shared or Path(private)) / f"{module}.json"
        with FileLock(f"{out}.lock"):
            if not out.exists():
                subprocess.run([sys.executable, "-m", "tests.hostile.runner", module, str(out)], cwd=_REPOSITORY, check=True)
        found: dict[str, dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))
        return found


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(run_corpus(sys.argv[1], sys.argv[3:] or None)), encoding="utf-8")
