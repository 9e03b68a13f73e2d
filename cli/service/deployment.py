"""`prefect deploy --all`, begun while the server starts: importing the flows takes as long, and there are two cores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cli.service.processes import Child
from cli.service.project import Project

__all__ = ["begin_deployment"]

_PROGRAM = """
import contextlib, importlib, runpy, sys
for name in sys.argv[1:]:
    # Whatever is wrong with a flow, the deployment says it, and better.
    with contextlib.suppress(Exception):
        importlib.import_module(name)
if sys.stdin.readline() != "go\\n":
    sys.exit("nobody wants a deployment any more")
sys.argv = ["prefect", "--no-prompt", "deploy", "--all"]
runpy.run_module("prefect", run_name="__main__")
"""
"""Imports nothing of ours but what is deployed: it runs in the project's folder, where other things may have our names."""


def begin_deployment(project: Project, environment: Mapping[str, str], logs: Path) -> Child:
    """Start a process that imports a project's flows, and deploys them as soon as it is told to `go`."""
    return Child("deploy", ["-c", _PROGRAM, *project.modules], environment, logs, project.folder, listens=True)
