"""What the Prefect server does by itself: end runs that died, cancel what hangs, start what is due, tell of a failed night.

Data alone, as Prefect's HTTP interface takes it; who registers it is `cli.service`. Imports nothing of Prefect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["DATA_ARRIVED", "EVALUATE", "LINE_RESOURCE", "NIGHTLY", "TAG", "automations"]

TAG = "hypercolumns"
NIGHTLY = "nightly-retrain"
EVALUATE = "evaluate-champion"
DATA_ARRIVED = "hypercolumns.data.arrived"
LINE_RESOURCE = "hypercolumns.line."
_EVERY_LINE = {"prefect.resource.id": f"{LINE_RESOURCE}*"}
# Spelled out by the server, for each event: its resource without what every line's begins with.
_LINE_OF_EVENT = {"__prefect_kind": "jinja", "template": "{{ event.resource.id | replace('" + LINE_RESOURCE + "', '', 1) }}"}
_DECIDED = ["hypercolumns.champion.kept", "hypercolumns.champion.promoted"]
_HEARTBEAT, _RUNNING, _CANCELLING = (f"prefect.flow-run.{what}" for what in ("heartbeat", "Running", "Cancelling"))
_ENDED = [f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut")]
_FAILED = [f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut")]
# States in which nobody runs it, and no heartbeat is due.
_WAITING = [
    f"prefect.flow-run.{state}" for state in ("AwaitingRetry", "Scheduled", "Paused", "Suspended", "AwaitingConcurrencySlot")
]
_EVERY_RUN = {"prefect.resource.id": "prefect.flow-run.*"}
_MESSAGE = """{
  "text": {{ (flow.name ~ ": run " ~ flow_run.name ~ " ended as " ~ flow_run.state.name) | tojson }},
  "deployment": {{ deployment.name | tojson }},
  "flow_run_id": "{{ flow_run.id }}",
  "state": {{ flow_run.state.name | tojson }},
  "message": {{ (flow_run.state.message or "") | string | truncate(500) | tojson }}
}"""


def automations(
    nights: Mapping[str, str], evaluate: str | None, *, zombie_seconds: int, timeout_hours: float, webhook_block: str | None
) -> list[dict[str, Any]]:
    """Describe the automations that make sense for the deployments there are.

    Args:
        nights: identifier of each deployment that retrains, by name.
        evaluate: identifier of the deployment that scores champions, if there is one.
        zombie_seconds: a run that sent no heartbeat for this long is ended; more than two heartbeats.
        timeout_hours: a run that takes longer is cancelled.
        webhook_block: identifier of the Prefect block that holds the webhook's address, if there is one.
    """
    found = [_end_zombies(zombie_seconds), _end_cancelled(zombie_seconds), _cancel_late(timeout_hours)]
    for name, night in sorted(nights.items()):
        found.append(_retrain_on_arrival(name, night))
        if webhook_block:
            found.append(_tell_of_failure(name, night, webhook_block))
    if nights and evaluate:
        found.append(_evaluate_after(evaluate))
    return found


def _end_zombies(seconds: int) -> dict[str, Any]:
    return _automation(
        "end runs without a heartbeat",
        f"A run whose process and worker died says nothing any more: after {seconds} s without a heartbeat it is Crashed.",
        # The server says itself that a run is Running; a process that is killed at once has sent no heartbeat.
        _absence([_RUNNING, _HEARTBEAT], [_RUNNING, _HEARTBEAT, _CANCELLING, *_ENDED, *_WAITING], seconds),
        {
            "type": "change-flow-run-state",
            "state": "CRASHED",
            "message": f"No heartbeat for {seconds} s: its process is gone. Run it again; what was committed is found.",
        },
    )


def _end_cancelled(seconds: int) -> dict[str, Any]:
    return _automation(
        "end cancelled runs without a heartbeat",
        f"A run that is to be cancelled, and whose process is gone, obeys nobody: after {seconds} s it is Cancelled.",
        _absence([_CANCELLING], [_HEARTBEAT, *_ENDED, *_WAITING], seconds),
        {
            "type": "change-flow-run-state",
            "state": "CANCELLED",
            "message": f"No heartbeat for {seconds} s after it was to be cancelled: its process is gone.",
        },
    )


def _cancel_late(hours: float) -> dict[str, Any]:
    return _automation(
        "cancel runs that take too long",
        f"A run that has not ended {hours:g} hours after it began is cancelled; run again, it resumes from what it stored.",
        _absence([_RUNNING], [_CANCELLING, *_ENDED, *_WAITING], round(hours * 3600)),
        {"type": "cancel-flow-run"},
    )


def _retrain_on_arrival(name: str, night: str) -> dict[str, Any]:
    return _automation(
        f"retrain when data arrives{_of(name)}",
        f"An event {DATA_ARRIVED} starts {name}, which skips itself if the data are another line's.",
        _presence([DATA_ARRIVED], _EVERY_LINE, None),
        {"type": "run-deployment", "source": "selected", "deployment_id": night, "parameters": {"arrived": _LINE_OF_EVENT}},
    )


def _tell_of_failure(name: str, night: str, block: str) -> dict[str, Any]:
    return _automation(
        f"tell of a failed night{_of(name)}",
        f"A {name} that failed or crashed is told to the webhook.",
        _presence(_FAILED, _EVERY_RUN, night),
        {"type": "call-webhook", "block_document_id": block, "payload": _MESSAGE},
    )


def _evaluate_after(evaluate: str) -> dict[str, Any]:
    return _automation(
        "evaluate what was trained",
        f"A night that trained, and decided who is champion, starts {EVALUATE}; one that found nothing new does not.",
        _presence(_DECIDED, _EVERY_LINE, None),
        {"type": "run-deployment", "source": "selected", "deployment_id": evaluate, "parameters": {"line": _LINE_OF_EVENT}},
    )


def _absence(after: list[str], expect: list[str], seconds: int) -> dict[str, Any]:
    return {
        "type": "event",
        "posture": "Proactive",
        "match": _EVERY_RUN,
        "after": after,
        "expect": expect,
        "for_each": ["prefect.resource.id"],
        "threshold": 1,
        "within": seconds,
    }


def _presence(expect: list[str], match: dict[str, str], deployment: str | None) -> dict[str, Any]:
    # Each event by itself: two lines' at once are two.
    related = {"prefect.resource.role": "deployment", "prefect.resource.id": f"prefect.deployment.{deployment}"}
    return {
        "type": "event",
        "posture": "Reactive",
        "match": match,
        "match_related": related if deployment else {},
        "expect": expect,
        "for_each": ["prefect.resource.id"],
        "threshold": 1,
        "within": 0,
    }


def _of(night: str) -> str:
    """Tell the nights of several lines apart; most projects have one."""
    return "" if night == NIGHTLY else f": {night}"


def _automation(name: str, description: str, trigger: dict[str, Any], action: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": f"hypercolumns: {name}",
        "description": description,
        "enabled": True,
        "tags": [TAG],
        "trigger": trigger,
        "actions": [action],
    }
