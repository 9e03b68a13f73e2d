"""What people change in Prefect's pages: `prefect deploy` sets all of it back to what prefect.yaml says, so it is put back.

As in a merge of three: a setting that the server has otherwise than the last deployment left it was changed in the pages, and
stays so, unless the file says something else than it said then: the file is taken, and what is lost is told. Compared are
schedules (on or off, their times, those added or removed), whether a deployment is paused, and its default parameters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cli.service.api import Api
from cli.service.settings import POOL
from storage.canonical import digest, read_json
from storage.errors import FormatError, StorageError
from storage.publish import replace_bytes

__all__ = ["PageChanges", "read_settings"]

Settings = dict[str, Any]
"""Value of each setting of a deployment: `paused`, `parameters.NAME`, `schedules.SLUG`; JSON."""

_FILE = "deployed.json"
_GONE = None
"""Instead of a value, where there is none: no setting has this one."""
_PARAMETER, _SCHEDULE = "parameters.", "schedules."
_OF_A_SCHEDULE = ("slug", "active", "schedule", "max_scheduled_runs", "parameters")
_ANCHOR = "anchor_date"
_PAGE = 200


def read_settings(api: Api) -> dict[str, Settings]:
    """Return what a person can set in the pages, of each deployment in our work pool, by name."""
    return {one["name"]: _settings(one) for one in _deployments(api)}


class PageChanges:
    """The changes that people made since the last deployment; made before the next one, to be put back after it.

    Args:
        api: the server.
        home: where what the last deployment left is kept.
    """

    def __init__(self, api: Api, home: Path) -> None:
        self._api, self._file = api, home / _FILE
        kept = self._read()
        self._left: dict[str, Settings] | None = kept.get("left")
        # A service that was killed while it deployed has not put back what it found: the server has forgotten that.
        self._found: dict[str, Settings] = kept.get("found") or read_settings(api)
        self._write({"left": self._left, "found": self._found})

    def put_back(self) -> list[str]:
        """Put back what people changed, where the file says the same as before, and keep what the file says now.

        Returns:
            What there is to tell about it, in sentences.
        """
        told, now = [], {}
        for deployment in _deployments(self._api):
            name, said = deployment["name"], _settings(deployment)
            now[name] = said
            if name in self._found:
                told += self._put_back_one(deployment, said, (self._left or {}).get(name, said), self._found[name])
        self._write({"left": now})
        return told

    def _put_back_one(self, deployment: dict[str, Any], said: Settings, left: Settings, found: Settings) -> list[str]:
        name = deployment["name"]
        changed = {key for key in left.keys() | found.keys() if left.get(key, _GONE) != found.get(key, _GONE)}
        stays = {key for key in changed if _meaning(said.get(key, _GONE)) == _meaning(left.get(key, _GONE))}
        told = [
            f"{name}: {key} is as prefect.yaml says now; what was set in the pages is gone: {json.dumps(found.get(key, _GONE))}"
            for key in sorted(changed - stays)
            if _meaning(found.get(key, _GONE)) != _meaning(said.get(key, _GONE))
        ]
        if not stays:
            return told
        values = {key: found.get(key, _GONE) for key in sorted(stays)}
        try:
            self._set(deployment, values)
        except StorageError as error:
            if not self._api.healthy():
                raise  # it is in the file, and put back next time
            return [*told, f"{name}: what was set in the pages no longer fits, and is gone: {json.dumps(values)} ({error})"]
        return [*told, f"{name}: kept as it was set in the pages: {', '.join(values)}"]

    def _set(self, deployment: dict[str, Any], values: Settings) -> None:
        """Set parameters first: a schedule must not start what they do not fit."""
        path = f"deployments/{deployment['id']}"
        parameters = _with_parameters(deployment["parameters"], values)
        if parameters != deployment["parameters"]:
            self._api.request("PATCH", path, {"parameters": parameters})
        if "paused" in values:
            self._api.request("PATCH", path, {"paused": values["paused"]})
        self._set_schedules(path, deployment, values)

    def _set_schedules(self, path: str, deployment: dict[str, Any], values: Settings) -> None:
        there = {_schedule_key(schedule): schedule["id"] for schedule in deployment["schedules"]}
        for key, value in values.items():
            if not key.startswith(_SCHEDULE):
                continue
            if value is _GONE:
                self._api.request("DELETE", f"{path}/schedules/{there[key]}")
            elif key in there:
                self._api.request("PATCH", f"{path}/schedules/{there[key]}", value)
            else:
                self._api.request("POST", f"{path}/schedules", [value])

    def _read(self) -> dict[str, Any]:
        try:
            return read_json(self._file) if self._file.exists() else {}
        except FormatError as error:
            raise StorageError(
                f"{error}. Remedy: remove it; whatever differs from prefect.yaml then counts as set in the pages, and stays"
            ) from error

    def _write(self, content: Mapping[str, Any]) -> None:
        replace_bytes(self._file, json.dumps(content).encode())


def _deployments(api: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.post("deployments/filter", work_pools={"name": {"any_": [POOL]}}, limit=_PAGE)
    return found


def _settings(deployment: dict[str, Any]) -> Settings:
    # A parameter may be null, which is not the same as none.
    parameters = {f"{_PARAMETER}{name}": {"value": value} for name, value in deployment["parameters"].items()}
    schedules = {
        _schedule_key(schedule): {name: schedule[name] for name in _OF_A_SCHEDULE} for schedule in deployment["schedules"]
    }
    return {"paused": deployment["paused"], **parameters, **schedules}


def _with_parameters(parameters: Mapping[str, Any], values: Settings) -> dict[str, Any]:
    named = {key.removeprefix(_PARAMETER): value for key, value in values.items() if key.startswith(_PARAMETER)}
    changed = {**parameters, **{name: value["value"] for name, value in named.items() if value is not _GONE}}
    return {name: value for name, value in changed.items() if named.get(name, True) is not _GONE}


def _schedule_key(schedule: dict[str, Any]) -> str:
    """Name a schedule: those that are made in the pages have no slug, and are what their times are."""
    return f"{_SCHEDULE}{schedule['slug'] or digest(_meaning(schedule['schedule']))[:12]}"


def _meaning(value: Any) -> Any:
    """Leave out what the server fills in anew with every deployment: from when on an interval is counted."""
    if isinstance(value, dict):
        return {name: _meaning(part) for name, part in value.items() if name != _ANCHOR}
    return value
