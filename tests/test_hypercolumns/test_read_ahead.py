"""Reading ahead: in order, a bounded number ahead, errors in their turn, and nobody waits for what he does not want."""

from __future__ import annotations

import threading
import time

import pytest

from hypercolumns.read_ahead import read_ahead


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
