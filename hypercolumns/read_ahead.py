"""Read what comes next while the present is worked on, where that is faster than reading it when its turn comes."""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

__all__ = ["read_ahead", "read_in_turn_or_ahead"]

T = TypeVar("T")
R = TypeVar("R")

_TRIED = 3
"""Items that are read in their turn to see how much of the time of reading is waiting."""


def read_ahead(
    work: Iterable[T], read: Callable[[T], R], *, threads: int = 1, ahead: int = 2, torch_threads: int | None = None
) -> Iterator[R]:
    """Yield `read(item)` of each item, in order, while threads read the next ones.

    Args:
        work: The items.
        read: Called in one of the threads; what it raises is raised in the item's turn.
        threads: How many of them.
        ahead: How many results may wait to be taken.
        torch_threads: How many of torch's threads each of them uses, where it does more than read; by default all that are set.
    """
    total = torch.get_num_threads()
    initializer = None if torch_threads is None else partial(torch.set_num_threads, torch_threads)
    executor = ThreadPoolExecutor(threads, thread_name_prefix="read-ahead", initializer=initializer)
    pending: deque[Future[R]] = deque()
    try:
        for item in work:
            pending.append(executor.submit(read, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Whoever stops taking results early does not wait for those that were not begun.
        executor.shutdown(wait=True, cancel_futures=True)
        if torch_threads is not None:
            # Torch remembers for the whole process what any thread sets last.
            torch.set_num_threads(total)


def read_in_turn_or_ahead(work: Iterable[T], read: Callable[[T], R], *, cores_are_free: bool | None = None) -> Iterator[R]:
    """Yield `read(item)` of each item, in order: ahead where a core is free or reading mostly waits, else when its turn comes.

    Torch cuts its work into one piece a core and waits for the slowest. Whoever reads beside it, from memory, takes a core away
    from one of them, and the others wait: each second of reading then costs about two.

    Args:
        work: The items.
        read: What it raises is raised in the item's turn.
        cores_are_free: Whether what is done with the results leaves a core unused; by default told by torch's threads.
    """
    if cores_are_free is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        cores_are_free = torch.get_num_threads() < cores
    items = iter(work)
    seconds = busy = 0.0
    for item in () if cores_are_free else itertools.islice(items, _TRIED):
        begun, begun_busy = time.perf_counter(), time.thread_time()
        result = read(item)
        seconds, busy = seconds + time.perf_counter() - begun, busy + time.thread_time() - begun_busy
        yield result
    if cores_are_free or seconds > 2 * busy:
        yield from read_ahead(items, read)
    else:
        yield from map(read, items)
