"""What the server must know before the first run: the work pool, the limit on the accelerator, the webhook, the automations.

Everything can be done again: what is there and as it should be stays untouched, and so do the user's own switches.
"""

from __future__ import annotations

from typing import Any

from cli.service.api import Api, NotFoundError
from cli.service.settings import POOL, ServiceSettings
from flows.accelerator import GPU_LIMIT
from flows.automations import EVALUATE, NIGHTLY, TAG, automations
from storage.canonical import digest
from storage.errors import StorageError

__all__ = ["deployed", "register_automations", "register_gpu_limit", "register_pool"]

_WEBHOOK = "hypercolumns-webhook"
_DEFINITION = "definition:"
_PAGE = 200


def register_pool(api: Api) -> None:
    """Make the work pool, unless it is there.

    Raises:
        StorageError: there is one of this name and of another type.
    """
    try:
        pool = api.get(f"work_pools/{POOL}")
    except NotFoundError:
        pool = api.post("work_pools/", name=POOL, type="process", description="Flows of hypercolumns, each in a process.")
    if pool["type"] != "process":
        raise StorageError(
            f"expected the work pool {POOL!r} to be of type process, got {pool['type']!r}. Remedy: start its own "
            "kind of worker, or remove the pool"
        )


def register_gpu_limit(api: Api, slots: int) -> None:
    """Make the global concurrency limit `gpu`, unless it is there; one that is there keeps the limit it was given."""
    try:
        api.get(f"v2/concurrency_limits/{GPU_LIMIT}")
    except NotFoundError:
        api.post("v2/concurrency_limits/", name=GPU_LIMIT, limit=slots, active=True)


def deployed(api: Api, flow: str | None = None) -> dict[str, str]:
    """Return the identifier of each deployment in our work pool, by name; of one flow, or of all."""
    chosen = {"flows": {"name": {"any_": [flow]}}} if flow else {}
    found = api.post("deployments/filter", work_pools={"name": {"any_": [POOL]}}, limit=_PAGE, **chosen)
    return {deployment["name"]: deployment["id"] for deployment in found}


def register_automations(api: Api, settings: ServiceSettings) -> list[str]:
    """Register the automations that fit the deployments there are, and remove those that fit no more.

    An automation whose definition is as before is not touched: changing it would make it forget the runs it is watching.

    Returns:
        Their names.
    """
    wanted = automations(
        deployed(api, NIGHTLY),
        deployed(api).get(EVALUATE),
        zombie_seconds=settings.zombie_seconds,
        timeout_hours=settings.timeout_hours,
        webhook_block=_webhook_block(api, settings.webhook),
    )
    there = {one["name"]: one for one in api.post("automations/filter", limit=_PAGE) if TAG in one["tags"]}
    for automation in wanted:
        automation["tags"] = [TAG, f"{_DEFINITION}{digest(automation)[:12]}"]
        found = there.pop(automation["name"], None)
        if found is None:
            api.post("automations/", **automation)
        elif set(found["tags"]) != set(automation["tags"]):
            api.request("PUT", f"automations/{found['id']}", {**automation, "enabled": found["enabled"]})
    for name, found in there.items():
        if name.startswith("hypercolumns: "):
            api.request("DELETE", f"automations/{found['id']}")
    return [automation["name"] for automation in wanted]


def _webhook_block(api: Api, url: str | None) -> str | None:
    """Keep the webhook's address in a Prefect block, where it is encrypted and not shown; without an address, remove it."""
    found = api.post("block_documents/filter", block_documents={"name": {"any_": [_WEBHOOK]}}, limit=1)
    if url is None:
        for block in found:
            api.request("DELETE", f"block_documents/{block['id']}")
        return None
    data = {"method": "POST", "url": url}
    if found:
        api.request("PATCH", f"block_documents/{found[0]['id']}", {"data": data, "merge_existing_data": True})
        return str(found[0]["id"])
    kind = api.get("block_types/slug/webhook")
    schemas: list[dict[str, Any]] = api.post(
        "block_schemas/filter", block_schemas={"block_type_id": {"any_": [kind["id"]]}}, limit=1
    )
    made = api.post("block_documents/", name=_WEBHOOK, data=data, block_type_id=kind["id"], block_schema_id=schemas[0]["id"])
    return str(made["id"])
