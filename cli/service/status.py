"""How a service is: asked of the server, judged here, spelled for people or left as plain values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cli.service.api import Api
from cli.service.marker import Running
from cli.service.settings import POOL
from flows.automations import TAG

__all__ = ["read_status", "spell_status"]

_OLD_HEARTBEAT_SECONDS = 90
_RUNS_SHOWN = 10
_PAGE = 200


def read_status(api_url: str, auth: str | None, running: Running | None) -> dict[str, Any]:
    """Ask a server how everything is.

    Returns:
        `problems` is empty when all is well: the server answers, a worker sends heartbeats, there are deployments.

    Raises:
        SpecError: the server wants another auth string.
    """
    with Api(api_url, auth) as api:
        return _read(api, running)


def spell_status(status: dict[str, Any]) -> str:
    """Spell a status for people."""
    server = status["server"]
    lines = [f"server       {server['url']}  {'healthy' if server['healthy'] else 'NO ANSWER'}"]
    for worker in status["workers"]:
        lines.append(f"worker       {worker['name']}  {worker['status'].lower()}, heartbeat {worker['heartbeat_age_s']} s ago")
    lines += [f"deployment   {one['name']:24s} {one['when']}" for one in status["deployments"]]
    lines += [f"automation   {one['name']}{'' if one['enabled'] else '  SWITCHED OFF'}" for one in status["automations"]]
    for run in status["runs"]:
        lines.append(f"run          {run['started']:19s}  {run['state']:14s} {run['deployment']:22s} {run['name']}")
    lines += [f"problem      {problem}" for problem in status["problems"]]
    return "\n".join(lines)


def _read(api: Api, running: Running | None) -> dict[str, Any]:
    status: dict[str, Any] = {"server": {"url": api.url, "healthy": api.healthy()}, "up": running.pid if running else None}
    if not status["server"]["healthy"]:
        return {
            **status,
            **{"workers": [], "deployments": [], "automations": [], "runs": []},
            "problems": [f"no Prefect server answers at {api.url}. Remedy: hypercolumns up"],
        }
    status["server"]["version"] = api.get("admin/version")
    status["workers"] = _workers(api)
    status["deployments"] = _deployments(api)
    status["automations"] = [
        {"name": one["name"], "enabled": one["enabled"]}
        for one in api.post("automations/filter", limit=_PAGE)
        if TAG in one["tags"]
    ]
    status["runs"] = _runs(api)
    status["problems"] = _problems(status)
    return status


def _workers(api: Api) -> list[dict[str, Any]]:
    if not api.post("work_pools/filter", work_pools={"name": {"any_": [POOL]}}):
        return []
    now = datetime.now(UTC)
    found = []
    for worker in api.post(f"work_pools/{POOL}/workers/filter"):
        if not worker["last_heartbeat_time"]:
            continue
        age = (now - datetime.fromisoformat(worker["last_heartbeat_time"])).total_seconds()
        found.append({"name": worker["name"], "status": worker["status"], "heartbeat_age_s": round(max(age, 0.0))})
    return sorted(found, key=lambda worker: float(worker["heartbeat_age_s"]))


def _deployments(api: Api) -> list[dict[str, Any]]:
    found = api.post("deployments/filter", work_pools={"name": {"any_": [POOL]}}, limit=_PAGE, sort="NAME_ASC")
    return [{"name": one["name"], "id": one["id"], "paused": one["paused"], "when": _when(one)} for one in found]


def _when(deployment: dict[str, Any]) -> str:
    if deployment["paused"]:
        return "paused"
    active = [one["schedule"] for one in deployment["schedules"] if one["active"]]
    spelled = [f"{one['cron']} {one.get('timezone') or 'UTC'}" if "cron" in one else "by its schedule" for one in active]
    return ", ".join(spelled) or "when triggered"


def _runs(api: Api) -> list[dict[str, Any]]:
    pool = {"name": {"any_": [POOL]}}
    begun = {"start_time": {"is_null_": False}}
    found = api.post("flow_runs/filter", work_pools=pool, flow_runs=begun, sort="START_TIME_DESC", limit=_RUNS_SHOWN)
    names = {one["id"]: one["name"] for one in api.post("deployments/filter", work_pools=pool, limit=_PAGE)}
    return [
        {
            "id": run["id"],
            "name": run["name"],
            "deployment": names.get(run["deployment_id"], "?"),
            "state": run["state_name"],
            "started": str(run["start_time"])[:19].replace("T", " "),
        }
        for run in found
    ]


def _problems(status: dict[str, Any]) -> list[str]:
    found = []
    if not any(one["heartbeat_age_s"] <= _OLD_HEARTBEAT_SECONDS for one in status["workers"]):
        found.append(
            f"no worker sent a heartbeat in the last {_OLD_HEARTBEAT_SECONDS} s: nothing runs. Remedy: hypercolumns up"
        )
    if not status["deployments"]:
        found.append(f"no deployment in the work pool {POOL!r}. Remedy: hypercolumns up in the folder of prefect.yaml")
    return found
