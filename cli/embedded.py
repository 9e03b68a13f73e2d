"""Prefect for commands that run a flow: an embedded server inside the workspace, unless the user's settings name one.

Settings are read once, when Prefect is imported; so everything here happens before that.
"""

from __future__ import annotations

import os
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["EmbeddedServer", "configure_prefect", "configured_server"]

_SETTINGS = {
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_COLORS": "false",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "DO_NOT_TRACK": "1",
}


_IDLE_SERVICES = ("SCHEDULER", "LATE_RUNS", "FOREMAN", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP", "TRIGGERS")
"""Services with nothing to do in a server that lives for one run."""


def configured_server() -> str | None:
    """Return the address of the Prefect server that the user's environment or active profile names, if any."""
    if address := os.environ.get("PREFECT_API_URL"):
        return address
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml"))
    if not profiles.is_file():
        return None
    try:
        content = tomllib.loads(profiles.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError:
        # A broken profile is Prefect's to explain; it names the file itself when it loads it.
        return None
    active = os.environ.get("PREFECT_PROFILE", content.get("active", ""))
    address = content.get("profiles", {}).get(active, {}).get("PREFECT_API_URL")
    return str(address) if address else None


def configure_prefect(home: Path) -> bool:
    """Point Prefect at the user's server, or at an embedded one that keeps its data in `home`.

    Returns:
        Whether the server is an embedded one, which is yet to be started.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if server := configured_server():
        sys.stderr.write(f"using the Prefect server at {server}\n")
        return False
    first = not (home / "prefect.db").exists()
    for service in _IDLE_SERVICES:
        os.environ.setdefault(f"PREFECT_SERVER_SERVICES_{service}_ENABLED", "false")
    os.environ["PREFECT_HOME"] = str(home)
    os.environ["PREFECT_PROFILES_PATH"] = str(home / "profiles.toml")
    wait = "; its first start in a workspace takes about 20 s" if first else ""
    sys.stderr.write(f"starting the embedded Prefect server{wait}\n")
    sys.stderr.flush()
    return True


class EmbeddedServer:
    """The start of Prefect's own embedded server, ahead of the first flow and beside the import of everything else.

    Prefect would start it when a flow first asks, and wait; on two cores that is a third of a cached run's time. It ends with
    this process, as it would then.
    """

    def __init__(self) -> None:
        from prefect.server.api.server import SubprocessASGIServer
        from prefect.settings import get_current_settings

        timeout = get_current_settings().server.ephemeral.startup_timeout_seconds
        self._server = SubprocessASGIServer()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="embedded-server")
        self._started = self._executor.submit(self._server.start, timeout)

    def wait(self) -> None:
        """Wait until it answers; raises what kept it from starting."""
        self._started.result()
        self._executor.shutdown()
