"""Parts of a stage as Prefect tasks on the workers of a Dask cluster that runs: handed out, waited for, but never for ever.

Every part is a small message and may be done twice. What crosses the wire is Dask's affair: it pickles the messages, and the
functions by the names under which the workers import them; nothing of it is kept.
"""

from __future__ import annotations

import logging
import queue
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, TypeVar

from distributed import Client, Future
from distributed.scheduler import KilledWorker
from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL
from prefect_dask.task_runners import DaskTaskRunner

from flows.dask_silence import Silence
from flows.dask_workers import ANSWER_SECONDS, CONNECT_SECONDS, examine
from tasks.cluster import Cluster, ClusterError, Terms
from tasks.extract_together import extract_part
from tasks.score_together import score_part

__all__ = ["DaskFleet"]

PartT = TypeVar("PartT")
DoneT = TypeVar("DoneT")

_logger = logging.getLogger("hypercolumns.flows")
_LOOK_SECONDS = 2.0
_RERUN = "What was committed is kept: run again, and it resumes"

_TASKS: dict[Callable[..., Any], Task[..., Any]] = {
    work: task(name=name, cache_policy=NO_CACHE, persist_result=False)(work)
    for name, work in (("extract part", extract_part), ("score part", score_part))
}


class DaskFleet:
    """The workers of a Dask cluster, which are examined first.

    Args:
        cluster: Which one; its address is known.
        terms: What its workers must have in common with us.

    Raises:
        ClusterError: the cluster cannot be used; it says why, and what to do.
    """

    def __init__(self, cluster: Cluster, terms: Terms) -> None:
        if cluster.dask_address is None:
            raise ValueError("expected a cluster with an address, got one without; use Cluster.chosen")
        self.terms, self._patience, self._silence = terms, cluster.patience_seconds, cluster.silence_seconds
        self.address = cluster.dask_address if "://" in cluster.dask_address else f"tcp://{cluster.dask_address}"
        api = PREFECT_API_URL.value()
        if not api:
            raise ClusterError(
                "a cluster's workers report to a Prefect server, and this flow has one of its own that ends with it. Remedy: "
                "set PREFECT_API_URL to a server that every worker reaches, or start the flow with the `hypercolumns` command"
            )
        self.parts = examine(self.address, terms, api, self._patience) * cluster.parts_per_thread

    def run(self, work: Callable[[PartT], DoneT], parts: Sequence[PartT]) -> list[DoneT]:
        """Have every part done by some worker, perhaps more than once; return what came back, in the order of the parts.

        A part that fails ends all: those that have not begun are not begun.

        Raises:
            ClusterError: scheduler or workers were lost.
        """
        if not parts:
            return []
        runner = DaskTaskRunner(address=self.address, client_kwargs={"timeout": CONNECT_SECONDS})
        try:
            with runner:
                futures = [runner.submit(_TASKS[work], {"part": part}).wrapped_future for part in parts]
                ended = _Waiting(runner.client, futures, self._patience, Silence(self._silence)).states()
        except (OSError, TimeoutError) as error:
            raise self._lost(f"does not answer any more ({error})") from error
        except CancelledError as error:
            raise self._lost("was lost") from error
        return [state.result() for state in ended]

    def _lost(self, what: str) -> ClusterError:
        return ClusterError(f"{self.address}: the Dask scheduler {what}. {_RERUN}, once `dask scheduler` and workers are up")


class _Waiting:
    """Parts that are under way; fails as soon as nobody is left to do them."""

    def __init__(self, client: Client, futures: Sequence[Future], patience_seconds: float, silence: Silence) -> None:
        self._client, self._futures, self._patience, self._silence = client, futures, patience_seconds, silence
        self._alive = time.monotonic()
        self._ended: queue.Queue[int] = queue.Queue()
        for number, future in enumerate(futures):
            future.add_done_callback(partial(self._end, number))  # type: ignore[no-untyped-call]

    def _end(self, number: int, _: Future) -> None:
        self._ended.put(number)

    def states(self) -> list[State[Any]]:
        """Wait for all parts and return how each ended; or as soon as one fails, that one alone."""
        found: dict[int, State[Any]] = {}
        while len(found) < len(self._futures):
            try:
                number = self._ended.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                self._look()
                continue
            found[number] = self._state(self._futures[number])
            if not found[number].is_completed():
                return [found[number]]
        return [found[number] for number in range(len(found))]

    def _state(self, future: Future) -> State[Any]:
        while True:
            try:
                state: State[Any] = future.result(timeout=_LOOK_SECONDS)
                return state
            except TimeoutError:
                # The worker that had the result is gone: another one finds the part done.
                self._look()
            except KilledWorker as error:
                raise ClusterError(
                    f"a part was given up, since every worker that had it died ({error}). Mostly they had too little memory: "
                    f"give them more (`dask worker --memory-limit`), or lower store.batch_images. {_RERUN}"
                ) from error

    def _look(self) -> None:
        """Make sure that there are workers, or that it is not long since there were; give up those that stand still."""
        if self._client.status == "closed":
            raise CancelledError
        known = self._ask("identity")["workers"]
        for worker in self._silence.too_long({address: about["last_seen"] for address, about in known.items()}):
            _logger.warning("worker %s says nothing any more: others do its part", worker)
            self._ask("unregister", address=worker, stimulus_id=f"silent-{uuid.uuid4().hex}")
            known.pop(worker)
        if known:
            self._alive = time.monotonic()
        elif time.monotonic() - self._alive > self._patience:
            raise ClusterError(f"the Dask cluster has lost all its workers, for more than {self._patience:g} s now. {_RERUN}")

    def _ask(self, what: str, **about: Any) -> Any:
        """Have the scheduler do something, and return what it answers."""
        ask = getattr(self._client.scheduler, what)
        return self._client.sync(ask, callback_timeout=max(ANSWER_SECONDS, self._patience), **about)  # type: ignore[no-untyped-call]
