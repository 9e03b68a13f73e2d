"""What a service is: its workspace, its address, its secrets; checked before anything starts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from cli.embedded import configured_auth, configured_server
from storage.canonical import digest
from storage.workspace import Workspace

__all__ = [
    "AUTH_VARIABLE",
    "DEFAULT_PORT",
    "LOOPBACK",
    "POOL",
    "WEBHOOK_VARIABLE",
    "ServiceSettings",
    "checked_auth",
    "checked_webhook",
]

POOL = "hypercolumns"
LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 4200
AUTH_VARIABLE = "HYPERCOLUMNS_AUTH"
WEBHOOK_VARIABLE = "HYPERCOLUMNS_WEBHOOK"


@dataclass(frozen=True)
class ServiceSettings:
    """One service.

    Attributes:
        workspace: folder of stores, samples, models and runs; what flows use unless their form names another.
        home: Prefect's home: data base, logs and the service's own files.
        api_url: address of the server's HTTP interface, ending in /api.
        own_server: whether the server is ours to start and stop, or the user's.
        auth: USER:PASSWORD of the server, or none.
        webhook: address that is told of failed nights, or none.
        zombie_seconds: a run that sent no heartbeat for this long is ended.
        timeout_hours: a run that takes longer is cancelled.
        gpu_slots: how many stages may use the accelerator at once.
    """

    workspace: Path
    home: Path
    api_url: str
    own_server: bool
    auth: str | None = field(default=None, repr=False)
    webhook: str | None = field(default=None, repr=False)
    zombie_seconds: int = 120
    timeout_hours: float = 72.0
    gpu_slots: int = 1

    @property
    def ui_url(self) -> str:
        """The address of Prefect's pages, for a browser."""
        return self.api_url.removesuffix("/").removesuffix("/api")

    @property
    def port(self) -> int:
        """The port of a server of ours."""
        return int(self.api_url.rsplit(":", 1)[1].split("/", 1)[0])

    @property
    def mark(self) -> str:
        """What processes of this service carry in their environment, so that they are found even when their parent is gone."""
        return digest({"home": str(self.home)})[:16]

    @property
    def logs(self) -> Path:
        """Folder of what the server, the worker and the deployment print."""
        folder = self.home / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @classmethod
    def of(cls, workspace: Path, port: int = DEFAULT_PORT, auth: str | None = None, **more: object) -> ServiceSettings:
        """Find out which server is meant: the one that the user's Prefect settings name, else one of ours."""
        server = configured_server()
        return cls(
            workspace=workspace,
            home=Workspace(workspace).prefect_home,
            api_url=server.rstrip("/") if server else f"http://{LOOPBACK}:{port}/api",
            own_server=server is None,
            auth=checked_auth(auth or os.environ.get(AUTH_VARIABLE) or configured_auth()),
            **more,  # type: ignore[arg-type]
        )


def checked_auth(value: str | None) -> str | None:
    """Check that an auth string is USER:PASSWORD.

    Raises:
        SpecError: it is not. The value itself is not repeated: it may be a password.
    """
    from hypercolumns.errors import SpecError

    if not value:
        return None
    user, separator, password = value.partition(":")
    if not separator or not user or not password or not value.isprintable():
        raise SpecError(f"--auth (or {AUTH_VARIABLE}): expected USER:PASSWORD, got something else of {len(value)} characters")
    return value


def checked_webhook(value: str | None) -> str | None:
    """Check that a webhook is an http or https address.

    Raises:
        SpecError: it is not. The value itself is not repeated: it may hold a token.
    """
    from urllib.parse import urlsplit

    from hypercolumns.errors import SpecError

    if not value:
        return None
    try:
        parts = urlsplit(value)
        fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and value.isprintable() and " " not in value
    except ValueError:
        fits = False
    if not fits:
        raise SpecError(f"--webhook (or {WEBHOOK_VARIABLE}): expected http://HOST/... or https://HOST/..., got something else")
    return value
