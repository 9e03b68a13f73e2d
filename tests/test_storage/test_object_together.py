"""Several processes, on one machine and as if on several, in one object store at once; some of them killed."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

PROGRAM = Path(__file__).with_name("extracting.py")
work = SimpleNamespace(**runpy.run_path(str(PROGRAM)))


def started(root, first, last, pause=0.0, layers=work.LAYERS):
    command = [sys.executable, PROGRAM, "share", root, str(first), str(last), "|".join(layers), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(run):
    printed, errors = run.communicate(timeout=100)
    assert run.returncode == 0, errors
    return int(printed)


def roots_of(bucket, tmp_path, count, shared):
    """Return a mirror each, as if on machines of their own, or one for all of them."""
    start = time.time() + 2.5
    roots = [bucket.mirror(tmp_path / f"machine {0 if shared else number}") for number in range(count)]
    for root in roots:
        (root / "start").write_text(str(start))
    return roots


def is_right(store, keys):
    reader, rows = store.reader(work.LAYERS), store.rows(keys, work.LAYERS)
    assert len(set(rows)) == len(keys)
    for layer in work.LAYERS:
        expected = np.stack([work.map_of(key, layer) for key in keys]).astype(np.float16)
        np.testing.assert_array_equal(reader.read(layer, rows), expected)


def commits(bucket):
    """Return how often each row was committed, told from the records alone."""
    records = [json.loads(bucket.get(key)) for key in bucket.keys("/records/")]
    return Counter(
        (key, layer)
        for record in records
        if record["kind"] == "commit"
        for key in record["row_keys"]
        for layer in record["layers"]
    )


@pytest.mark.parametrize("shared", [True, False], ids=["one machine", "several machines"])
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_that_want_overlapping_images_share_the_work(bucket, tmp_path, count, shared):
    roots = roots_of(bucket, tmp_path, count, shared)
    runs = [started(root, 5 * number, 5 * number + 20, 0.02) for number, root in enumerate(roots)]
    computed = [ended(run) for run in runs]
    keys = work.keys_of(0, 5 * (count - 1) + 20)
    store = work.opened(bucket.mirror(tmp_path / "looking"))
    is_right(store, keys)
    assert store.verify() == []
    assert set(commits(bucket).values()) == {1}, "nothing is committed twice"
    assert sum(computed) == len(keys) * len(work.LAYERS), "and nothing was computed twice"
    assert min(computed) > 0
    assert bucket.keys("/leases/") == []


@pytest.mark.parametrize("shared", [True, False], ids=["the same machine", "another machine"])
def test_what_a_killed_process_committed_stays_and_the_rest_is_done_by_the_next(bucket, tmp_path, shared):
    roots = roots_of(bucket, tmp_path, 2, shared)
    victim = started(roots[0], 0, 40, 0.1)
    deadline = time.monotonic() + 60
    while len(bucket.keys("/records/")) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    before = {key: bucket.get(key) for key in bucket.keys("/records/")}
    done = sum(commits(bucket).values())
    begun = time.monotonic()
    assert ended(started(roots[1], 0, 40)) == 40 * len(work.LAYERS) - done
    assert time.monotonic() - begun < 20, "a dead process of this machine is not waited for"
    assert {key: bucket.get(key) for key in before} == before
    store = work.opened(bucket.mirror(tmp_path / "looking"))
    is_right(store, work.keys_of(0, 40))
    assert store.verify() == []
    assert set(commits(bucket).values()) == {1}
    assert bucket.keys("/leases/") == []
    assert not [path for root in roots for path in root.rglob("*.partial")]


@pytest.mark.slow
def test_kills_at_many_moments_lose_nothing(bucket, tmp_path):
    """A process is killed at a random time after it took its first lease; the next one goes on from there."""
    root, random = bucket.mirror(tmp_path / "mirrors"), np.random.default_rng(5)
    keys, committed = work.keys_of(0, 120), Counter()
    for _ in range(12):
        run = started(root, 0, 120, 0.05)
        before = set(bucket.keys("/leases/"))
        deadline = time.monotonic() + 30
        while not set(bucket.keys("/leases/")) - before:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.5))
        run.kill()
        run.communicate()
        now = commits(bucket)
        assert committed <= now
        committed = now
    assert 0 < sum(committed.values()) < 360, "it was killed on its way"
    store = work.opened(root)
    assert len(work.extract(store, keys)) == 360 - sum(committed.values())
    is_right(work.opened(bucket.mirror(tmp_path / "looking")), keys)
    assert store.verify() == []
    assert set(commits(bucket).values()) == {1}
    assert not list(root.rglob("*.partial"))


def test_a_process_that_is_stopped_until_its_lease_expires_loses_it_and_harms_nothing(bucket, tmp_path):
    roots = roots_of(bucket, tmp_path, 2, shared=False)
    program = f"""
import sys, time, os
sys.argv = ["extracting"]
sys.path.insert(0, {str(PROGRAM.parents[2])!r})
import runpy
work = runpy.run_path({str(PROGRAM)!r})
from pathlib import Path
store = work["opened"](Path(sys.stdin.readline().strip()), lease_seconds=1.5)
keys = tuple(work["keys_of"](0, 4))
with store.claim(keys, work["LAYERS"]) as writer:
    writer.write(0, {{layer: maps * 0 for layer, maps in work["maps_of"](keys, work["LAYERS"]).items()}})
    print("written", flush=True)
    os.kill(os.getpid(), 19)
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as slow:
        slow.stdin.write(f"{roots[0]}\n")
        slow.stdin.flush()
        assert slow.stdout.readline() == "written\n"
        os.waitid(os.P_PID, slow.pid, os.WSTOPPED)
        assert ended(started(roots[1], 0, 4)) == 12
        slow.send_signal(signal.SIGCONT)
        _, errors = slow.communicate(timeout=60)
    assert "LeaseLostError" in errors
    store = work.opened(bucket.mirror(tmp_path / "looking"))
    is_right(store, work.keys_of(0, 4))
    assert store.verify() == []
