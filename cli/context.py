"""What every command shares: the workspace, JSON on the last line of stdout, and errors that say what to do.

Exit codes: 0 for success, 2 for bad input (nothing was computed), 1 for a failure. Logs and progress go to stderr. Imports
nothing heavy: `hypercolumns --help` starts faster than torch does.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

__all__ = ["JsonOption", "WorkspaceOption", "command", "emit", "log_to_stderr", "printable"]

P = ParamSpec("P")
R = TypeVar("R")

WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        envvar="HYPERCOLUMNS_HOME",
        help="Folder of stores, samples, models and runs; by default the user's data folder.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]


_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Spell out what would act on a terminal instead of being shown: file names and values come from strangers."""
    return _UNPRINTABLE.sub(lambda sign: sign[0].encode("unicode_escape").decode("ascii"), text)


def emit(value: Any, as_json: bool, text: str) -> None:
    """Print a result: text for people, or one line of JSON."""
    if as_json:
        sys.stdout.write(json.dumps(value, default=str, allow_nan=False) + "\n")
    else:
        sys.stdout.write(printable(text).rstrip("\n") + "\n")
    sys.stdout.flush()


def log_to_stderr() -> None:
    """Send the project's own log lines to stderr."""
    logger = logging.getLogger("hypercolumns")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Turn the errors of a command into a message and an exit code."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        log_to_stderr()
        try:
            return function(*args, **kwargs)
        except (KeyboardInterrupt, typer.Exit):
            raise
        except Exception as error:
            code = _exit_code(error)
            if code is None:
                raise
            typer.echo(f"error: {printable(str(error))}", err=True)
            raise typer.Exit(code) from error

    return run


def _exit_code(error: Exception) -> int | None:
    """Return 2 for what the user can correct, 1 for what went wrong on the way, None for a defect of ours."""
    from hypercolumns import errors as library
    from storage import errors as storage

    bad_input = (library.SpecError, library.DatasetError, library.BackboneError, library.GeometryError, library.SamplingError)
    if isinstance(error, bad_input):
        return 2
    if isinstance(error, (library.HypercolumnsError, storage.StorageError)):
        return 1
    return None


@contextlib.contextmanager
def quiet_prefect() -> Any:
    """Keep Prefect from printing, traceback and all, an error that is about to be explained in one line.

    Only the terminal is spared: Prefect's own log, which its UI shows, keeps everything. Prefect must be imported before,
    because that is when it makes the handlers of the terminal.
    """

    def keep(record: logging.LogRecord) -> bool:
        if not record.name.startswith("prefect."):
            return True
        error = record.exc_info[1] if record.exc_info else None
        explained = isinstance(error, Exception) and _exit_code(error) is not None
        return not explained and not record.getMessage().startswith("Finished in state Failed(")

    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(keep)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(keep)
