"""Examining a Dask cluster: does a scheduler answer, are there workers, and can each of them take part?

Asked before anything is computed, so that what is wrong is known within seconds and by name.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from distributed import Client

from tasks.cluster import ClusterError, Terms

__all__ = ["ANSWER_SECONDS", "CONNECT_SECONDS", "examine"]

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
"""Who is asked for the first time imports what it needs to answer: a worker, and the scheduler that unpacks the first parts."""
_LISTED = 5
_LONGEST_GREETING = 1 << 20

_logger = logging.getLogger("hypercolumns.flows")


def examine(address: str, terms: Terms, api: str, patience_seconds: float) -> int:
    """Make sure that the scheduler answers, that there are workers, and that those who answer fit.

    Args:
        address: The scheduler's.
        terms: What workers must have in common with this process.
        api: The Prefect server that they must reach.
        patience_seconds: How long to wait for a first worker.

    Returns:
        How many worker threads there are.

    Raises:
        ClusterError: says which worker, what is wrong, and what to do.
    """
    _knock(address)
    # In a thread of its own: the caller may have an event loop running.
    with ThreadPoolExecutor(1, "examine-cluster") as executor:
        return executor.submit(asyncio.run, _examined(address, terms, api, patience_seconds)).result()


def _knock(address: str) -> None:
    """Open and close a connection: what is wrong is known at once, where Dask would try again and again, or wait for ever."""
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=CONNECT_SECONDS) as connection:
            # Dask's listeners speak first: eight bytes, the length of a short greeting, the lowest first.
            greeting = connection.recv(8) if parts.scheme == "tcp" else b"\1"
    except TimeoutError as error:
        raise _no_scheduler(address, "nobody who answers") from error
    except (OSError, ValueError) as error:
        raise _no_scheduler(address, f"none ({error})") from error
    if not 0 < int.from_bytes(greeting, "little") < _LONGEST_GREETING:
        raise _no_scheduler(address, "a server of another kind")


def _no_scheduler(address: str, found: str) -> ClusterError:
    return ClusterError(
        f"{address}: expected a Dask scheduler, found {found}. Remedy: start one (`dask scheduler`), or correct dask_address: "
        "the port is the scheduler's (8786), not its dashboard's"
    )


async def _examined(address: str, terms: Terms, api: str, patience_seconds: float) -> int:
    try:
        async with Client(  # type: ignore[no-untyped-call]
            address, asynchronous=True, timeout=CONNECT_SECONDS, set_as_default=False
        ) as client:
            workers = await _first_workers(client, address, patience_seconds)
            answers = await asyncio.gather(*(_answer(client, worker, terms, api) for worker in workers))
    except (OSError, TimeoutError) as error:
        raise ClusterError(
            f"{address}: expected a Dask scheduler's answer, got none ({error}). Remedy: both sides need the same release of "
            "Dask, and the scheduler must have time to answer"
        ) from error
    unfit = [f"worker {worker}: {'; '.join(said)}" for worker, said in zip(workers, answers, strict=True) if said]
    if unfit:
        listed = " | ".join(unfit[:_LISTED])
        raise ClusterError(f"{address}: {len(unfit)} of {len(workers)} workers cannot take part. {listed}")
    if silent := [worker for worker, said in zip(workers, answers, strict=True) if said is None]:
        _logger.warning("%s did not answer within %g s; the others begin", ", ".join(silent), ANSWER_SECONDS)
    return max(1, sum(workers.values()))


async def _first_workers(client: Client, address: str, patience_seconds: float) -> dict[str, int]:
    """Wait for a first worker; return the number of threads by address."""
    deadline = time.monotonic() + patience_seconds
    while not (workers := await client.scheduler.ncores()):  # type: ignore[union-attr]
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{address}: the cluster has no workers, also after {patience_seconds:g} s. Remedy: start some: "
                f"`dask worker {address} --nthreads 1`"
            )
        await asyncio.sleep(0.2)
    return dict(workers)


async def _answer(client: Client, worker: str, terms: Terms, api: str) -> list[str] | None:
    """Ask a worker what keeps it from taking part; None if it does not answer."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            said = await client.run(_complaints, terms, api, workers=[worker], on_error="return")
    except (TimeoutError, OSError):
        return None
    answer = said.get(worker)
    if isinstance(answer, Exception):
        # As Dask tells it, mostly an ImportError in words.
        return [f"it cannot run our code ({answer}): install the same release of hypercolumns there"]
    return answer  # type: ignore[no-any-return]


def _complaints(terms: Terms, api: str) -> list[str]:
    """Say what keeps this worker from taking part."""
    return [*terms.complaints(), *_unreachable(api)]


def _unreachable(api: str) -> list[str]:
    try:
        with urllib.request.urlopen(f"{api.rstrip('/')}/health", timeout=5):
            return []
    except urllib.error.HTTPError:
        # Somebody is there, and wants a password.
        return []
    except (OSError, ValueError) as error:
        return [f"it does not reach the Prefect server at {api} ({error}): set PREFECT_API_URL to an address that it does"]
