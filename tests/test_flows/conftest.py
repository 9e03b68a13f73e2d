"""One real Prefect server for all tests of the flows, on loopback, with its home in a folder of the tests."""

import socket
import subprocess
import sys
import time

import httpx
import pytest

from cli.service.api import Api
from tests.factories import write_folder
from tests.pipeline_factory import REPOSITORY, python_environment, started

_START_SECONDS = 180


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A running Prefect server: its address, its home, the environment of a process that uses it, and what it tells."""

    def __init__(self, url, home):
        self.url, self.home = url, home
        self.api = Api(url)
        self.environment = python_environment(
            PREFECT_API_URL=url,
            PREFECT_HOME=str(home / "client"),
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            PREFECT_LOGGING_COLORS="false",
        )

    def get(self, path):
        return self.api.get(path)

    def post(self, path, **body):
        return self.api.post(path, **body)

    def flow_run(self, flow, name):
        """Return the only run of a flow that has this name."""
        (found,) = self.post("flow_runs/filter", flows={"name": {"any_": [flow]}}, flow_runs={"name": {"any_": [name]}})
        return found

    def prefect(self, *arguments, timeout=300):
        """Run the `prefect` command in the checkout."""
        return subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env=self.environment,
            timeout=timeout,
            check=False,
        )

    def wait_until_healthy(self, process, log):
        deadline = time.monotonic() + _START_SECONDS
        while True:
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
            try:
                if httpx.get(f"{self.url}/health").is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.2)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Start the server, and end exactly that process."""
    home = tmp_path_factory.mktemp("prefect")
    port = free_port()
    found = Server(f"http://127.0.0.1:{port}/api", home)
    log = home / "server.log"
    environment = {**found.environment, "PREFECT_HOME": str(home / "server")}
    del environment["PREFECT_API_URL"]
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (
        log.open("w") as output,
        started(command, env=environment, cwd=home, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        found.wait_until_healthy(process, log)
        yield found


@pytest.fixture(scope="session")
def prefect_here(server):
    """Let flows that are called in this process use the server, and nothing of the user's settings."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            if name.startswith("PREFECT"):
                patch.setenv(name, value)
        from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_LOGGING_LEVEL, temporary_settings

        settings = {PREFECT_API_URL: server.url, PREFECT_HOME: server.home / "client", PREFECT_LOGGING_LEVEL: "ERROR"}
        with temporary_settings(settings):
            yield server


@pytest.fixture
def data(tmp_path):
    return write_folder(tmp_path / "data", splits={"train": 6, "val": 3}, image_hw=(48, 64))


@pytest.fixture
def workspace(tmp_path):
    return tmp_path / "workspace"
