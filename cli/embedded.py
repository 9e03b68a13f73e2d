"""Prefect for commands that run a flow: an embedded server inside the workspace, unless the user's settings name one.

Settings are read once, when Prefect is imported; so everything here happens before that.
"""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path

__all__ = ["configure_prefect", "configured_server"]

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


def configure_prefect(home: Path) -> None:
    """Point Prefect at the user's server, or at an embedded one that keeps its data in `home`."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if server := configured_server():
        sys.stderr.write(f"using the Prefect server at {server}\n")
        return
    first = not (home / "prefect.db").exists()
    os.environ["PREFECT_HOME"] = str(home)
    os.environ["PREFECT_PROFILES_PATH"] = str(home / "profiles.toml")
    wait = "; its first start in a workspace takes about 20 s" if first else ""
    sys.stderr.write(f"starting the embedded Prefect server{wait}\n")
    sys.stderr.flush()
