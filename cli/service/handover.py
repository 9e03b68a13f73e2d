"""Runs that lost their process: handed to the next worker, which finds in the store what was committed.

A worker that is stopped or dies leaves its runs as Running, for ever. Whoever knows that nobody runs them says so here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any

from cli.service.api import Api, NotFoundError
from cli.service.settings import POOL

__all__ = ["abandoned_runs", "hand_over"]

_UNFINISHED = ("RUNNING", "PENDING", "CANCELLING")
_PAGE = 200


def abandoned_runs(api: Api, alive: Collection[str], our_worker: str) -> list[str]:
    """List the runs of our work pool that are under way by their state, and that none of the living processes runs.

    None while a worker other than ours is at work: it may run them, on a machine that cannot be seen from here.
    """
    workers = api.post(f"work_pools/{POOL}/workers/filter")
    if any(worker["status"] == "ONLINE" and worker["name"] != our_worker for worker in workers):
        return []
    found = api.post(
        "flow_runs/filter",
        flow_runs={"state": {"type": {"any_": list(_UNFINISHED)}}},
        work_pools={"name": {"any_": [POOL]}},
        limit=_PAGE,
    )
    return [run["id"] for run in found if run["id"] not in alive]


def hand_over(api: Api, run_ids: Iterable[str], reason: str, most_starts: int | None = None) -> list[str]:
    """Make runs wait for the next worker; those that were being cancelled are cancelled.

    One that ended well, or was cancelled, is left so.

    Args:
        api: the server.
        run_ids: runs that no process runs.
        reason: what happened, for the state's message.
        most_starts: a run that was started this often is Crashed instead: it may be what kills its worker.

    Returns:
        The names of the runs that go on.
    """
    going_on = []
    for run_id in run_ids:
        try:
            run = api.get(f"flow_runs/{run_id}")
        except NotFoundError:
            continue
        state = _next_state(run, reason, most_starts)
        if state is None:
            continue
        api.post(f"flow_runs/{run_id}/set_state", state=state, force=True)
        if state["type"] == "SCHEDULED":
            going_on.append(str(run["name"]))
    return going_on


def _next_state(run: dict[str, Any], reason: str, most_starts: int | None) -> dict[str, Any] | None:
    if run["state_type"] == "CANCELLING":
        return {"type": "CANCELLED", "message": f"{reason} while it was being cancelled"}
    if run["state_type"] not in {*_UNFINISHED, "CRASHED"}:
        return None
    if most_starts is not None and run["run_count"] >= most_starts:
        return {"type": "CRASHED", "message": f"{reason}; it was started {run['run_count']} times, and is not started again"}
    now = datetime.now(UTC).isoformat()
    return {
        "type": "SCHEDULED",
        "name": "AwaitingRetry",
        "message": f"{reason}; the next worker goes on from what was committed",
        "state_details": {"scheduled_time": now},
    }
