"""Reading ahead: in order, a bounded number ahead, errors in their turn, and nobody waits for what he does not want."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from hypercolumns.read_ahead import read_ahead, read_in_turn_or_ahead


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order_whoever_is_done_first(threads):
    def read(item):
        time.sleep(0.002 * (item % 3))
        return item * item

    assert list(read_ahead(range(20), read, threads=threads, ahead=4)) == [item * item for item in range(20)]


def test_no_more_than_so_many_are_read_ahead():
    begun = []
    results = read_ahead(range(100), lambda item: begun.append(item) or item, ahead=3)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(begun) <= 4
    results.close()


def test_an_error_comes_in_its_turn():
    results = read_ahead(range(-2, 3), lambda item: 1 / item, ahead=2)
    assert [next(results), next(results)] == [-0.5, -1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_stopping_early_leaves_no_thread_behind():
    results = read_ahead(range(1000), lambda item: item, threads=2, ahead=8)
    next(results)
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def readers(read, **options):
    """Return the names of the threads that read the items of a list."""
    return list(read_in_turn_or_ahead(range(8), lambda item: (read(item), threading.current_thread().name)[1], **options))


def spin(_):
    until = time.thread_time() + 0.005
    while time.thread_time() < until:
        pass


def test_what_takes_a_core_is_read_in_its_turn_and_what_waits_is_read_ahead_after_some_tries(monkeypatch):
    here = threading.current_thread().name
    with monkeypatch.context() as patches:
        # On a busy machine a spinning thread waits too: for its core.
        patches.setattr("hypercolumns.read_ahead.time.perf_counter", time.thread_time)
        assert readers(spin, cores_are_free=False) == [here] * 8
    waiting = readers(lambda _: time.sleep(0.005), cores_are_free=False)
    assert waiting[:3] == [here] * 3
    assert all(name.startswith("read-ahead") for name in waiting[3:])


def test_with_a_core_to_spare_everything_is_read_ahead(monkeypatch):
    assert all(name.startswith("read-ahead") for name in readers(spin, cores_are_free=True))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(torch.get_num_threads() + 1), raising=False)
    assert all(name.startswith("read-ahead") for name in readers(spin))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(torch.get_num_threads()), raising=False)
    monkeypatch.setattr("hypercolumns.read_ahead.time.perf_counter", time.thread_time)
    assert readers(spin) == [threading.current_thread().name] * 8


@pytest.mark.parametrize("free", [True, False])
def test_however_it_is_read_the_order_is_kept_and_an_error_comes_in_its_turn(free):
    assert list(read_in_turn_or_ahead(range(20), lambda item: item * item, cores_are_free=free)) == [i * i for i in range(20)]
    results = read_in_turn_or_ahead(range(-4, 3), lambda item: 1 / item, cores_are_free=free)
    assert [next(results) for _ in range(4)] == [-0.25, 1 / -3, -0.5, -1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_torchs_threads_are_shared_out_among_those_that_compute_and_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert list(read_ahead(range(6), lambda _: torch.get_num_threads(), threads=2, torch_threads=1)) == [1] * 6
        assert torch.get_num_threads() == 3
        results = read_ahead(range(6), lambda _: torch.get_num_threads())
        assert next(results) == 3, "whoever comes later has all of them again"
        results.close()
    finally:
        torch.set_num_threads(before)
