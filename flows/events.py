"""Events: what happened here, told to the Prefect server, so that automations can start what follows.

Names begin with `hypercolumns.`; the resource is the task line, `hypercolumns.line.NAME`.
"""

from __future__ import annotations

from typing import Any, Literal

import httpx
from prefect.client.orchestration import get_client
from prefect.events import Event, emit_event

from flows.automations import LINE_RESOURCE
from hypercolumns.errors import HypercolumnsError

__all__ = ["EventName", "announce", "announce_now"]

EventName = Literal["data.arrived", "training.completed", "champion.promoted", "champion.kept", "champion.evaluated"]


def announce(event: EventName, line: str, payload: dict[str, Any]) -> None:
    """Tell the server of this flow run, in the background: a flow never fails for an event that nobody hears.

    Args:
        event: What happened; `hypercolumns.` is put in front.
        line: Name of the task line.
        payload: JSON mapping of particulars.
    """
    emit_event(event=f"hypercolumns.{event}", resource=_resource(line), payload=payload)


def announce_now(event: EventName, line: str, payload: dict[str, Any]) -> str:
    """Tell the configured server, and return the event's id once it was sent.

    Raises:
        HypercolumnsError: the server cannot be reached.
    """
    told = Event(event=f"hypercolumns.{event}", resource=_resource(line), payload=payload)

    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[told.model_dump(mode="json")])
    except (httpx.HTTPError, RuntimeError) as error:
        raise HypercolumnsError(
            f"expected a Prefect server to tell of {told.event}, got {type(error).__name__}: {error}; is it running, and "
            "is PREFECT_API_URL (and PREFECT_API_AUTH_STRING, where it asks for one) its own?"
        ) from error
    return str(told.id)


def _resource(line: str) -> dict[str, str]:
    return {"prefect.resource.id": f"{LINE_RESOURCE}{line}", "prefect.resource.name": line}
