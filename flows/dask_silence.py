"""Workers of a Dask cluster that say nothing any more, without their connection having broken: found, and given up.

A machine that stands still keeps its connections. Dask itself waits five minutes for such a worker (`worker-ttl`), and whoever
started the scheduler may have told it to wait for ever.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

__all__ = ["Silence"]


class Silence:
    """How long each worker has been silent, by the scheduler's clock, which need not agree with ours.

    Args:
        most_seconds: A worker that is silent for longer is to be given up.
    """

    def __init__(self, most_seconds: float) -> None:
        self._most = most_seconds
        self._newest = 0.0
        self._newest_came = time.monotonic()

    def too_long(self, last_seen: Mapping[str, float]) -> list[str]:
        """List the workers that have been silent for too long.

        Args:
            last_seen: When the scheduler heard of each worker, in its seconds.
        """
        newest = max(last_seen.values(), default=0.0)
        if newest > self._newest:
            self._newest, self._newest_came = newest, time.monotonic()
        # Where all are silent, the scheduler's clock is not seen to go on: ours is.
        since = time.monotonic() - self._newest_came
        return [worker for worker, seen in last_seen.items() if self._newest - seen + since > self._most]
