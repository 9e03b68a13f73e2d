"""`hypercolumns up` and `hypercolumns status`: the server, the worker and what they run, in one command."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.context import JsonOption, WorkspaceOption, command, emit

__all__ = ["register_operations"]

AuthOption = Annotated[
    str | None,
    typer.Option(
        "--auth",
        envvar="HYPERCOLUMNS_AUTH",
        help="USER:PASSWORD that the server asks for; better in the environment, where others cannot read it.",
        show_default=False,
        show_envvar=True,
    ),
]


def register_operations(app: typer.Typer) -> None:
    """Add `up` and `status`."""
    app.command("up")(_up)
    app.command("status")(_status)


@command
def _up(
    port: Annotated[
        int, typer.Option(help="Port of the server on 127.0.0.1; 0 takes one that is free.", min=0, max=65535)
    ] = 4200,
    project: Annotated[
        Path | None,
        typer.Option(help="Folder of prefect.yaml; by default the current one, else the checkout.", show_default=False),
    ] = None,
    auth: AuthOption = None,
    webhook: Annotated[
        str | None,
        typer.Option(envvar="HYPERCOLUMNS_WEBHOOK", help="Address that is told when a night fails.", show_default=False),
    ] = None,
    zombie_seconds: Annotated[
        int, typer.Option(help="A run without a heartbeat (every 30 s) for this long is ended.", min=45, max=86_400)
    ] = 120,
    timeout_hours: Annotated[float, typer.Option(help="A run that takes longer is cancelled.", min=0.01, max=8_760)] = 72.0,
    gpu_slots: Annotated[
        int, typer.Option(help="Stages that may use the accelerator at once; a limit that exists is kept.", min=1, max=64)
    ] = 1,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start Prefect's server and pages, a worker, the deployments and the automations; Ctrl-C ends all of it.

    With PREFECT_API_URL, or a Prefect profile that names a server, that server is used and only the worker is started here.
    """
    from cli.service.marker import take_lock
    from cli.service.project import find_project
    from cli.service.settings import ServiceSettings, checked_webhook
    from storage.workspace import resolve_workspace

    found = find_project(project)
    settings = ServiceSettings.of(
        resolve_workspace(workspace),
        _free_port(port),
        auth,
        webhook=checked_webhook(webhook),
        zombie_seconds=zombie_seconds,
        timeout_hours=timeout_hours,
        gpu_slots=gpu_slots,
    )
    with take_lock(settings.home):
        if settings.own_server:
            _check_port(settings.port)
        _run(settings, found, as_json)


def _run(settings: Any, project: Any, as_json: bool) -> None:
    from cli.service.marker import withdraw, write_marker
    from cli.service.supervisor import Service, StopRequestedError

    begun, stop = time.monotonic(), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())

    def say(text: str) -> None:
        typer.echo(f"[{time.monotonic() - begun:5.1f} s] {text}", err=True)

    service = Service(settings, project, stop, say)
    try:
        write_marker(settings.home, settings.api_url, project.folder)
        service.start()
        emit(
            {"ui": settings.ui_url, "api": settings.api_url, "workspace": str(settings.workspace)}, as_json, _welcome(settings)
        )
        service.supervise()
    except StopRequestedError:
        pass
    finally:
        withdraw(settings.home)
        say("stopping")
        service.end()
        say("stopped; started again, it goes on where it was")


def _welcome(settings: Any) -> str:
    return (
        f"Prefect's pages   {settings.ui_url}\n"
        "run something     Deployments > run-experiment > Run > Custom run; fill the form (or leave it), Submit\n"
        "how it goes       hypercolumns status\n"
        "stop              Ctrl-C"
    )


def _free_port(port: int) -> int:
    import socket

    if port:
        return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _check_port(port: int) -> None:
    import socket

    from hypercolumns.errors import SpecError

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SpecError(
                f"--port: expected a port of 127.0.0.1 that is free, got {port} ({error.strerror}). Remedy: give another "
                "(--port 0 takes any), or, if a Prefect server is there, use it with PREFECT_API_URL"
            ) from error


@command
def _status(auth: AuthOption = None, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Show how the server, the worker, the deployments, the automations and last runs are; exit code 1 if one is not well."""
    from cli.service.marker import running_service
    from cli.service.settings import ServiceSettings
    from cli.service.status import read_status, spell_status
    from storage.workspace import Workspace, resolve_workspace

    root = resolve_workspace(workspace)
    running = running_service(Workspace(root).prefect_home)
    settings = ServiceSettings.of(root, auth=auth)
    status = read_status(running.api_url if running else settings.api_url, settings.auth, running)
    emit(status, as_json, spell_status(status))
    if status["problems"]:
        sys.stdout.flush()
        raise typer.Exit(1)
