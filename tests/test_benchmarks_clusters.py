"""What measuring with more processes rests on: they begin together, a failure is told, and none outlives the benchmark."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.clusters import run_in_turns

ROOT = Path(__file__).parents[1]
WAITING = "import sys; print('ready', flush=True); [print(float(sys.argv[1]) * 2, flush=True) for _ in sys.stdin]"
SLEEPING = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(60)
"""


def test_programs_are_told_to_begin_and_answer_in_order():
    turns = [[[WAITING, "1"]], [[WAITING, "2.5"], [WAITING, "-1"]]]
    assert run_in_turns(turns) == [[[2.0]], [[5.0, -2.0]]]
    assert run_in_turns(turns, rounds=3) == [[[2.0]] * 3, [[5.0, -2.0]] * 3]


@pytest.mark.parametrize("text", ["raise SystemExit(3)", "print('ready', flush=True); raise SystemExit(3)"])
def test_a_program_that_fails_is_told(text):
    with pytest.raises((RuntimeError, BrokenPipeError)):
        run_in_turns([[[text]]])


def is_running(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition, what):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end children with their parent")
def test_children_end_when_the_benchmark_is_killed(tmp_path):
    note = tmp_path / "child"
    text = f"from benchmarks.clusters import run_in_turns; run_in_turns([[[{SLEEPING!r}, {str(note)!r}]]])"
    benchmark = subprocess.Popen([sys.executable, "-c", text], cwd=ROOT)
    try:
        wait_until(lambda: note.is_file() and note.read_text(), "the child to start")
        child = int(note.read_text())
        assert is_running(child)
        benchmark.send_signal(signal.SIGKILL)
        benchmark.wait()
        wait_until(lambda: not is_running(child), "the child to end")
    finally:
        benchmark.kill()
        benchmark.wait()
