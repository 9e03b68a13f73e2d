"""The service itself: starts its processes in their order, starts again those that die, and ends all of them.

Nothing is lost in between: a run whose process ends without it is handed to the next worker (`cli.service.handover`).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from cli.service.api import Api
from cli.service.deployment import begin_deployment
from cli.service.environment import client_environment, server_environment
from cli.service.handover import abandoned_runs, hand_over
from cli.service.pages import PageChanges
from cli.service.processes import Child, all_processes, end_processes, flow_processes, marked_processes
from cli.service.project import Project
from cli.service.registration import deployed, register_automations, register_gpu_limit, register_pool
from cli.service.settings import LOOPBACK, POOL, ServiceSettings
from storage.errors import StorageError

__all__ = ["Service", "StopRequestedError"]

_SERVER_SECONDS, _DEPLOY_SECONDS, _WORKER_SECONDS = 180, 300, 120
_PATIENCE_SECONDS = 10.0
_NEWS_SECONDS = 5.0
_MOST_RESTARTS, _RESTART_WINDOW_SECONDS = 5, 600.0
_MOST_STARTS = 5
_GRACE_SECONDS = "3"


class StopRequestedError(Exception):
    """Somebody asked the service to stop while it was starting."""


class Service:
    """A Prefect server (ours, or the user's), a worker, and what is registered with them.

    Args:
        settings: which.
        project: where prefect.yaml is.
        stop: set by whoever wants the service to end.
        say: told what is waited for.
    """

    def __init__(self, settings: ServiceSettings, project: Project, stop: threading.Event, say: Callable[[str], None]) -> None:
        self._settings, self._project, self._stop, self._say = settings, project, stop, say
        self._api = Api(settings.api_url, settings.auth)
        self._server: Child | None = None
        self._worker: Child | None = None
        self._lost: set[str] = set()
        self._worker_died = False
        self._restarts: deque[float] = deque()
        self.worker_name = f"hypercolumns-{socket.gethostname()}"

    def start(self) -> None:
        """Start everything, and return when the first run can be triggered.

        Raises:
            StopRequestedError: somebody wants it to end.
            StorageError: something did not start; says what, and what it printed last.
        """
        self._end_leftovers()
        environment = client_environment(self._settings)
        deployment = begin_deployment(self._project, environment, self._settings.logs)
        try:
            self._start_with(deployment)
        finally:
            deployment.end(1)

    def _start_with(self, deployment: Child) -> None:
        if self._settings.own_server:
            self._start_server()
        elif not self._api.healthy():
            raise StorageError(
                f"expected a Prefect server at {self._settings.api_url}, got no answer. Remedy: start it, or unset "
                "PREFECT_API_URL (or leave the Prefect profile) to have one started here"
            )
        register_pool(self._api)
        register_gpu_limit(self._api, self._settings.gpu_slots)
        self._find_abandoned()
        self._hand_over("hypercolumns up was killed", _MOST_STARTS)
        self._start_worker()
        self._deploy(deployment)
        names = register_automations(self._api, self._settings)
        self._say(f"{len(names)} automations are registered")
        self._wait_for_worker()

    def supervise(self) -> None:
        """Start again what dies, until somebody wants the service to end.

        Raises:
            StorageError: something dies again and again.
        """
        while not self._stop.wait(0.5):
            if self._server is not None and self._server.code is not None:
                self._count_restart(self._server)
                self._start_server()
            if self._worker is not None and self._worker.code is not None:
                self._count_restart(self._worker)
                self._end_flows()
                self._worker_died = True
                self._start_worker()
            if self._worker_died and self._api.healthy():
                self._find_abandoned()
                self._hand_over("its worker died", _MOST_STARTS)
                self._worker_died = False

    def end(self) -> None:
        """End all processes, the worker's flows first; their runs wait for the next start."""
        if self._worker is not None:
            # Who its runs are is asked first: the worker may end them before we do.
            self._lost |= set(flow_processes(marked_processes(self._settings.mark)))
            self._worker.terminate()
            self._end_flows()
            self._worker.end(_PATIENCE_SECONDS)
            self._end_flows()
        if self._lost and self._api.healthy():
            self._hand_over("hypercolumns up was stopped")
        if self._server is not None:
            self._server.end(_PATIENCE_SECONDS)
        end_processes(marked_processes(self._settings.mark), _PATIENCE_SECONDS)
        self._api.close()

    def _end_leftovers(self) -> None:
        """End what a service left that was killed and could not end it itself."""
        left = marked_processes(self._settings.mark)
        if left:
            self._say(f"ending {len(left)} processes that an earlier `hypercolumns up` left behind")
            self._lost |= set(flow_processes(left))
            end_processes(left, _PATIENCE_SECONDS)

    def _start_server(self) -> None:
        settings = self._settings
        elsewhere = "PREFECT_SERVER_DATABASE_CONNECTION_URL" in os.environ
        first = not elsewhere and not (settings.home / "prefect.db").exists()
        self._say(
            f"starting the Prefect server at {settings.ui_url}"
            + ("; its first start in a workspace takes about 20 s" if first else "")
        )
        application = "prefect.server.api.server:create_app"
        where = ["--host", LOOPBACK, "--port", str(settings.port), "--timeout-graceful-shutdown", _GRACE_SECONDS]
        arguments = ["-m", "uvicorn", "--factory", application, *where, "--log-level", "warning", "--lifespan", "on"]
        self._server = Child("server", arguments, server_environment(settings), settings.logs, settings.logs)
        self._wait("the Prefect server", self._api.healthy, _SERVER_SECONDS, self._server)

    def _start_worker(self) -> None:
        self._say(f"starting the worker {self.worker_name}")
        arguments = ["-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", self.worker_name]
        self._worker_since = datetime.now(UTC)
        environment = client_environment(self._settings)
        self._worker = Child("worker", arguments, environment, self._settings.logs, self._settings.logs)

    def _deploy(self, child: Child) -> None:
        count = len(self._project.deployments)
        self._say(f"deploying the {count} deployments of {self._project.file}")
        changes = PageChanges(self._api, self._settings.home)
        child.go()
        self._wait("prefect deploy --all", lambda: child.code == 0, _DEPLOY_SECONDS, child)
        missing = set(self._project.deployments) - set(deployed(self._api))
        if missing:
            raise StorageError(
                f"expected every deployment of {self._project.file} in the work pool {POOL!r}, found none named "
                f"{', '.join(sorted(missing))}. `prefect deploy --all` said:\n{child.tail()}"
            )
        for sentence in changes.put_back():
            self._say(sentence)

    def _wait_for_worker(self) -> None:
        if self._worker is not None:
            self._wait("the worker's first heartbeat", self._worker_lives, _WORKER_SECONDS, self._worker)

    def _worker_lives(self) -> bool:
        for worker in self._api.post(f"work_pools/{POOL}/workers/filter"):
            if worker["name"] == self.worker_name and worker["last_heartbeat_time"]:
                return bool(datetime.fromisoformat(worker["last_heartbeat_time"]) >= self._worker_since)
        return False

    def _wait(self, what: str, ready: Callable[[], bool], limit_s: float, child: Child) -> None:
        begun = news = time.monotonic()
        while not ready():
            now = time.monotonic()
            if child.code is not None and not ready():
                raise StorageError(
                    f"{what}: ended with exit code {child.code}; it printed (all of it: {child.log}):\n{child.tail()}"
                )
            if now - begun > limit_s:
                raise StorageError(
                    f"{what}: not ready after {limit_s:.0f} s; it printed (all of it: {child.log}):\n{child.tail()}"
                )
            if now - news > _NEWS_SECONDS:
                self._say(f"  still waiting for {what} ({now - begun:.0f} s)")
                news = now
            if self._stop.wait(0.1):
                raise StopRequestedError

    def _end_flows(self) -> None:
        flows = flow_processes(marked_processes(self._settings.mark))
        self._lost |= set(flows)
        end_processes([one for group in flows.values() for one in group], _PATIENCE_SECONDS)

    def _find_abandoned(self) -> None:
        """Find runs that are under way by their state alone; who runs those of a server elsewhere cannot be seen from here."""
        if self._settings.own_server:
            self._lost |= set(abandoned_runs(self._api, flow_processes(all_processes()), self.worker_name))

    def _hand_over(self, reason: str, most_starts: int | None = None) -> None:
        for name in hand_over(self._api, sorted(self._lost), reason, most_starts):
            self._say(f"run {name} goes on with the next worker")
        self._lost.clear()

    def _count_restart(self, child: Child) -> None:
        now = time.monotonic()
        self._restarts.append(now)
        while now - self._restarts[0] > _RESTART_WINDOW_SECONDS:
            self._restarts.popleft()
        what = f"the {child.name} ended with exit code {child.code}"
        if len(self._restarts) > _MOST_RESTARTS:
            raise StorageError(
                f"{what}, once more within {_RESTART_WINDOW_SECONDS / 60:.0f} minutes; it printed:\n{child.tail()}"
            )
        self._say(f"{what}; starting it again (what it printed: {child.log}.1)")
