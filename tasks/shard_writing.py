"""Shards are written beside those who compute them: by one thread, in order, while another one commits what is finished."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import torch

from storage.features import ShardWriter

__all__ = ["ShardWriting"]

_WRITES_AHEAD = 1
_COMMITS_AHEAD = 0


class ShardWriting:
    """One thread that writes in order, a bounded number of batches behind the backbone, and one that commits beside it.

    However the block is left, shards that were opened and not committed are given up: nobody has to wait for their leases.
    """

    def __init__(self) -> None:
        self._writer = ThreadPoolExecutor(1, "shard-writer", initializer=torch.set_num_threads, initargs=(1,))
        self._committer = ThreadPoolExecutor(1, "shard-committer")
        self._writes: deque[Future[object]] = deque()
        self._commits: deque[Future[object]] = deque()
        self._opened: list[ShardWriter] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.settle()
        finally:
            self._drain()
            self._writer.shutdown()
            self._committer.shutdown()
            for claim in self._opened:
                claim.abandon()

    def open(self, claim: ShardWriter) -> None:
        """Begin a claimed shard."""
        self._opened.append(claim)
        self.put(claim.__enter__)

    def commit(self, claim: ShardWriter) -> None:
        """Have a shard committed as soon as it is written. Its disk works on while the next shard is being written."""
        written = self._writes[-1]

        def finish() -> None:
            written.result()
            claim.__exit__(None, None, None)
            self._opened.remove(claim)

        self._settle(self._commits, _COMMITS_AHEAD)
        self._commits.append(self._committer.submit(finish))

    def put(self, write: Callable[..., object], *arguments: Any) -> None:
        """Queue a write; waits while the queue is full, and raises what an earlier write raised."""
        self._settle(self._writes, _WRITES_AHEAD)
        for claim in self._opened:
            claim.keep()
        self._writes.append(self._writer.submit(write, *arguments))

    def settle(self) -> None:
        """Wait for all that is queued, raising what it raises."""
        self._settle(self._writes, 0)
        self._settle(self._commits, 0)

    def _settle(self, queue: deque[Future[object]], most: int) -> None:
        while len(queue) > most:
            queue.popleft().result()

    def _drain(self) -> None:
        """Drop what has not started and wait for what has."""
        for future in (*self._writes, *self._commits):
            future.cancel()
        for future in (*self._writes, *self._commits):
            if not future.cancelled():
                future.exception()
