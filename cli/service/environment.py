"""The environment of the service's processes: where the server listens, what flows are told, and nothing of telemetry.

Secrets travel in the environment alone, never in arguments, which everybody on the machine can read.
"""

from __future__ import annotations

import os

from cli.embedded import SETTINGS
from cli.service.settings import LOOPBACK, ServiceSettings

__all__ = ["MARK_VARIABLE", "client_environment", "server_environment"]

MARK_VARIABLE = "HYPERCOLUMNS_SERVICE"
_LOGGING = {
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "hypercolumns",
    # Threads that read and write say things, too, and belong to no flow in Prefect's eyes.
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


def client_environment(settings: ServiceSettings) -> dict[str, str]:
    """Return the environment of the worker, of its flows, and of the deployment."""
    found = {**_common(settings), "PREFECT_API_URL": settings.api_url, "HYPERCOLUMNS_HOME": str(settings.workspace)}
    if settings.auth:
        found["PREFECT_API_AUTH_STRING"] = settings.auth
    return found


def server_environment(settings: ServiceSettings) -> dict[str, str]:
    """Return the environment of the server: loopback only, no calls to other hosts, nothing done for foreign web pages."""
    found = _common(settings)
    found.pop("PREFECT_API_URL", None)
    found |= {
        "PREFECT_SERVER_API_HOST": LOOPBACK,
        "PREFECT_SERVER_API_PORT": str(settings.port),
        "PREFECT_UI_API_URL": settings.api_url,
        "PREFECT_UI_STATIC_DIRECTORY": str(settings.home / "ui"),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": settings.ui_url,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    }
    if settings.auth:
        found["PREFECT_SERVER_API_AUTH_STRING"] = settings.auth
        # The server calls itself, too, to run what automations ask for.
        found["PREFECT_API_AUTH_STRING"] = settings.auth
    return found


def _common(settings: ServiceSettings) -> dict[str, str]:
    found = {**SETTINGS, **_LOGGING, **os.environ}
    found[MARK_VARIABLE] = settings.mark
    if settings.own_server:
        found["PREFECT_HOME"] = str(settings.home)
        found["PREFECT_PROFILES_PATH"] = str(settings.home / "profiles.toml")
    # A proxy in the environment must not be asked for what is on this machine.
    for name in ("NO_PROXY", "no_proxy"):
        found[name] = ",".join(part for part in (found.get(name), LOOPBACK, "localhost") if part)
    for secret in ("HYPERCOLUMNS_AUTH", "HYPERCOLUMNS_WEBHOOK"):
        found.pop(secret, None)
    return found
