"""Read what comes next while the present is worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["read_ahead"]

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(work: Iterable[T], read: Callable[[T], R], *, threads: int = 1, ahead: int = 2) -> Iterator[R]:
    """Yield `read(item)` of each item, in order, while threads read the next ones.

    Args:
        work: The items.
        read: Called in one of the threads; what it raises is raised in the item's turn.
        threads: How many of them.
        ahead: How many results may wait to be taken.
    """
    executor = ThreadPoolExecutor(threads, thread_name_prefix="read-ahead")
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
