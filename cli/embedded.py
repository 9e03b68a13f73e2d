"""Prefect for commands that run a flow: an embedded server inside the workspace, unless the user's settings name one.

Settings are read once, when Prefect is imported; so everything here happens before that.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

__all__ = ["SETTINGS", "EmbeddedServer", "configure_prefect", "configured_auth", "configured_server"]

_LOOPBACK = "127.0.0.1"
_START_SECONDS = 120

SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_COLORS": "false",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "DO_NOT_TRACK": "1",
}
"""What every Prefect process of ours is told, unless the user's environment says otherwise."""

_IDLE_SERVICES = ("SCHEDULER", "LATE_RUNS", "FOREMAN", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP", "TRIGGERS")
"""Services with nothing to do in a server that lives for one run."""


def configured_server() -> str | None:
    """Return the address of the Prefect server that the user's environment or active profile names, if any."""
    return _configured("PREFECT_API_URL")


def configured_auth() -> str | None:
    """Return the auth string, USER:PASSWORD, that the user's environment or active profile has for that server, if any."""
    return _configured("PREFECT_API_AUTH_STRING")


def _configured(name: str) -> str | None:
    if value := os.environ.get(name):
        return value
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
    value = content.get("profiles", {}).get(active, {}).get(name)
    return str(value) if value else None


def configure_prefect(home: Path) -> bool:
    """Point Prefect at the user's server, at that of `hypercolumns up`, or at an embedded one with its data in `home`.

    Returns:
        Whether the server is an embedded one, which is yet to be started.

    Raises:
        StorageError: `hypercolumns up` has the data base, and its server does not answer.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if server := configured_server():
        sys.stderr.write(f"using the Prefect server at {server}\n")
        return False
    if _use_service(home):
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


def _use_service(home: Path) -> bool:
    """Use the server of a `hypercolumns up` that runs on this home: two on one data base get in each other's way."""
    from cli.service.marker import running_service
    from storage.errors import StorageError

    running = running_service(home)
    if running is None:
        return False
    try:
        with urllib.request.urlopen(f"{running.api_url}/health", timeout=5):
            pass
    except OSError as error:
        raise StorageError(
            f"expected the Prefect server of `hypercolumns up` (process {running.pid}) at {running.api_url}, got no answer. "
            "Remedy: wait until it has started, or stop it"
        ) from error
    os.environ["PREFECT_API_URL"] = running.api_url
    os.environ["PREFECT_HOME"] = str(home / "client")
    if auth := os.environ.get("HYPERCOLUMNS_AUTH"):
        os.environ.setdefault("PREFECT_API_AUTH_STRING", auth)
    sys.stderr.write(f"using the Prefect server at {running.api_url}, which `hypercolumns up` runs\n")
    return True


class EmbeddedServer:
    """A Prefect server for the length of this process, started beside the import of everything else.

    Prefect would start the same one when a flow first asks, import all of the server for it, and wait: on two cores that is
    half of a cached run's time. It listens on the loopback address alone and ends with this process, however that ends.
    """

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind((_LOOPBACK, 0))
            self._port = int(probe.getsockname()[1])
        self.url = f"http://{_LOOPBACK}:{self._port}/api"
        self._process = subprocess.Popen(
            # By its path, and with nothing put in front of sys.path: a folder `cli` where the user stands is none of ours.
            [sys.executable, "-P", str(Path(__file__).with_name("embedded_server.py")), _LOOPBACK, str(self._port)],
            env={**os.environ, "PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"},
            stdin=subprocess.PIPE,
            # Ctrl-C in a terminal goes to all of its processes: the run must find the server to tell it how it ended.
            start_new_session=True,
        )
        atexit.register(self.stop)
        os.environ["PREFECT_API_URL"] = self.url

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            StorageError: it ended, or did not answer in time.
        """
        from storage.errors import StorageError

        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if (code := self._process.poll()) is not None:
                raise StorageError(
                    f"the embedded Prefect server ended with exit code {code} (its reason is above); remove the workspace's "
                    "folder `prefect` if it is damaged, or set PREFECT_API_URL to a server of your own"
                )
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.05)
        raise StorageError(
            f"the embedded Prefect server did not answer within {_START_SECONDS} s; set PREFECT_API_URL to a server of your own"
        )

    def stop(self) -> None:
        """End the server."""
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
