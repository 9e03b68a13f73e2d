"""The cluster a flow may spread its work over: which one, what its workers must agree on, and what stages ask of it.

Which machine computes something is no part of any key. Nothing here knows Dask or Prefect: `flows.fleet` does.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import socket
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from hypercolumns.errors import HypercolumnsError

__all__ = ["ENVIRONMENT_VARIABLE", "Cluster", "ClusterError", "Fleet", "Terms"]

ENVIRONMENT_VARIABLE = "HYPERCOLUMNS_DASK_ADDRESS"

_ADDRESS = re.compile(r"((tcp|tls|ws|wss)://)?[^\s/:]+:\d{1,5}|((tcp|tls|ws|wss)://)?\[[0-9a-fA-F:.]+\]:\d{1,5}")
_PACKAGES = ("torch", "torchvision", "numpy", "prefect", "pydantic", "zarr")
"""What decides the last bits of the maps, and what must understand each other's messages."""
_CODE = ("hypercolumns", "storage", "tasks", "flows")

PartT = TypeVar("PartT")
DoneT = TypeVar("DoneT")


class ClusterError(HypercolumnsError):
    """The cluster cannot be reached, or does not do the work; what it committed is kept, and a rerun resumes."""


class Cluster(BaseModel):
    """The Dask cluster that extraction and evaluation are spread over, if any."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dask_address: str | None = Field(
        None,
        description="address of a Dask scheduler that runs, such as tcp://10.0.0.5:8786; empty: "
        f"${ENVIRONMENT_VARIABLE} where the flow runs, and without that no cluster",
    )
    parts_per_thread: int = Field(
        8,
        ge=1,
        le=1000,
        description="parts the work is cut into for each worker thread; more let late and fast workers do more",
    )
    patience_seconds: float = Field(
        30.0, ge=1.0, le=3600.0, description="how long the cluster may be without workers before the run fails"
    )
    silence_seconds: float = Field(
        60.0,
        ge=5.0,
        le=3600.0,
        description="a worker that stands still, and has said nothing for so long, is given up: others do its part",
    )

    @field_validator("dask_address")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value and not _ADDRESS.fullmatch(value):
            raise ValueError(f"expected a Dask scheduler's address such as tcp://10.0.0.5:8786, got {value!r}")
        return value or None

    def chosen(self) -> Cluster | None:
        """Return the cluster that is named here, or else in the environment; None if there is none.

        Raises:
            ClusterError: the environment names something that is no address.
        """
        if self.dask_address:
            return self
        named = os.environ.get(ENVIRONMENT_VARIABLE)
        if not named:
            return None
        if not _ADDRESS.fullmatch(named):
            raise ClusterError(
                f"${ENVIRONMENT_VARIABLE}: expected a Dask scheduler's address such as tcp://10.0.0.5:8786, got {named!r}"
            )
        return self.model_copy(update={"dask_address": named})


class Fleet(Protocol):
    """Workers that do parts of a stage. Parts and what comes back are small messages of keys, paths and numbers."""

    @property
    def parts(self) -> int:
        """Into how many parts work is best cut."""

    @property
    def terms(self) -> Terms:
        """What every part tells its worker to compare itself with."""

    def run(self, work: Callable[[PartT], DoneT], parts: Sequence[PartT]) -> list[DoneT]:
        """Have every part done by some worker, perhaps more than once; return what came back, in the order of the parts.

        Raises:
            ClusterError: the cluster was lost; parts may have been done.
        """


class Terms(BaseModel):
    """What a worker must have in common with the flow: code, versions that decide bytes, and the workspace itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    versions: dict[str, str]
    folder: Path
    """The run's own folder: nobody who sees another workspace has it."""

    @classmethod
    def here(cls, folder: Path) -> Terms:
        """Describe this process."""
        return cls(code=_code_digest(), versions=_versions(), folder=folder)

    def complaints(self) -> list[str]:
        """Say in what this process, a worker, differs: nothing if it fits."""
        found = [
            f"it has {name} {mine}, the flow has {self.versions.get(name)}: install the same requirements"
            for name, mine in _versions().items()
            if mine != self.versions.get(name)
        ]
        if not found and _code_digest() != self.code:
            found.append("its code of hypercolumns is another than the flow's: install the same release, and restart it")
        if not self.folder.is_dir():
            found.append(
                f"it does not see {self.folder}: the workspace must be a shared folder, mounted at the same path everywhere"
            )
        else:
            found += _unwritable(self.folder)
        return found

    def refuse_unfit(self) -> None:
        """Stop before a worker that differs computes anything.

        Raises:
            ClusterError: it names the machine, and what is wrong with it.
        """
        if complaints := self.complaints():
            raise ClusterError(f"a worker on {socket.gethostname()} cannot take part: {'; '.join(complaints)}")


def _unwritable(folder: Path) -> list[str]:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return []
    except OSError as error:
        return [f"it cannot write to the workspace ({error}): let its user write there"]


@cache
def _versions() -> dict[str, str]:
    """Name the versions of what computes here; of Python the first two numbers."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


@cache
def _code_digest() -> str:
    """Digest our own source files by name and content: a version number stays the same while somebody edits."""
    seen = hashlib.sha256()
    for package in _CODE:
        spec = find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            for path in sorted(Path(folder).rglob("*.py")):
                seen.update(f"{package}/{path.relative_to(folder).as_posix()}\n".encode() + path.read_bytes())
    return seen.hexdigest()[:16]
