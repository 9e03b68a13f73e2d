"""Locks that another process holds: waited for aloud, never for ever, and their holder is named."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from storage import lock_waiting
from storage.errors import LockedError
from storage.features import FeatureStore
from storage.lock_waiting import flock_patiently

HOLD = """
import fcntl, os, sys, time
fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A real process that holds the lock of tmp_path/lock, or of the store's."""
    children = []

    def hold(path):
        child = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
        children.append(child)
        assert child.stdout.readline() == "held\n"
        return child

    yield hold
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()


def take(path, patience_seconds):
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        flock_patiently(descriptor, fcntl.LOCK_EX, path, patience_seconds)
    finally:
        os.close(descriptor)


def test_a_suspended_holder_is_named_and_not_waited_for_for_ever(tmp_path, holder):
    child = holder(tmp_path / "lock")
    child.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(LockedError, match=rf"process {child.pid} \(suspended\).*kill -CONT"):
        take(tmp_path / "lock", 0.3)
    assert time.monotonic() - began < 20


def test_a_holder_that_runs_is_waited_for_longer_and_the_log_says_so(tmp_path, holder, caplog):
    child = holder(tmp_path / "lock")
    timer = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(1); os.kill({child.pid}, 9)"])
    with caplog.at_level(logging.WARNING, logger="hypercolumns.storage"):
        take(tmp_path / "lock", 0.2)
    timer.wait()
    assert f"held by process {child.pid} (state S)" in caplog.text


def test_a_holder_that_runs_is_not_waited_for_for_ever_either(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(lock_waiting, "_LONGEST_SECONDS", 0.5)
    child = holder(tmp_path / "lock")
    with pytest.raises(LockedError, match=rf"process {child.pid} \(state S\)"):
        take(tmp_path / "lock", 0.2)


def test_a_holder_that_cannot_be_seen_is_said_to_be_unknown(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(lock_waiting, "_LONGEST_SECONDS", 0.3)
    monkeypatch.setattr(lock_waiting, "_holders", lambda path: [])
    holder(tmp_path / "lock")
    with pytest.raises(LockedError, match="cannot be named"):
        take(tmp_path / "lock", 0.2)


def test_writers_of_a_store_end_when_its_lock_is_held_by_a_suspended_process_and_go_on_when_it_is_gone(tmp_path, holder):
    store = FeatureStore.create_or_open(tmp_path, {"backbone": "vgg11"}, lease_seconds=0.3)
    store.declare_layers({"layer": (2, 2, 3)})
    lock = next(path for path in tmp_path.rglob("*lock*") if path.is_file())
    child = holder(lock)
    child.send_signal(signal.SIGSTOP)
    with pytest.raises(LockedError, match=f"process {child.pid}"):
        store.claim(["a" * 64 + ":identity"], ["layer"])
    child.kill()
    child.wait()
    assert store.claim(["a" * 64 + ":identity"], ["layer"]) is not None
