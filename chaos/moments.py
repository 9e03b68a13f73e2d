"""Moments at which a process can be stopped: named phases, each call of their functions counted, one of them fatal.

Functions are replaced in the child alone. "before" and "after" are beside the call; "half" is in the middle of a write, when
half of its bytes are in the file.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["EXTRACTION", "SAMPLING", "TRAINING", "Moments", "counted", "stop_at"]

Moments = dict[str, int]
"""How often each moment ("phase:when") came up."""

_DISK = {
    "flush": ("os:fdatasync", "os:fsync"),
    "link": ("os:link", "os:unlink"),
    "rename": ("os:replace", "os:rename"),
}

EXTRACTION: Mapping[str, tuple[str, ...]] = {
    "forward": ("hypercolumns.backbones.extractor:Backbone.__call__",),
    "cast": ("storage.writing:encode",),
    "shard write": ("os:pwrite",),
    "checksum": ("storage.shards:checksum",),
    "lease": ("storage.leases:LeaseBook._write", "storage.leases:LeaseBook.remove"),
    "commit": ("storage.records:RecordLog.append",),
    "index": ("storage.rows_index:apply_counted", "storage.rows_index:save_state"),
    "resize": ("storage.zarr_metadata:_replace",),
    **_DISK,
}
"""Phases of an extraction, and the functions that are called in them."""

TRAINING: Mapping[str, tuple[str, ...]] = {
    "step": ("hypercolumns.training:_Run._step",),
    "epoch": ("hypercolumns.training:_Run.one_epoch",),
    "checkpoint": ("tasks.classifiers:save_checkpoint",),
    "model": ("tasks.classifiers:save_model",),
    "clearing": ("shutil:rmtree",),
    **_DISK,
}
"""Phases of a dense training."""

SAMPLING: Mapping[str, tuple[str, ...]] = {
    "gather": ("tasks.stores:StoreSource.gather",),
    "append": ("storage.sample_writer:SampleSetWriter.append",),
    "reserve": ("os:posix_fallocate",),
    "flush": _DISK["flush"],
    "link": _DISK["link"],
}
"""Phases of the writing of a sample set."""


def counted(phases: Mapping[str, tuple[str, ...]], work: Callable[[], Any]) -> Moments:
    """Do the work undisturbed and return how often each moment came up.

    Raises:
        LookupError: a phase never came up: a campaign that stopped there would stop nothing.
    """
    seen: Counter[str] = Counter()
    for phase, names in phases.items():
        for name in names:
            _replace(name, phase, lambda moment: seen.update([moment]))
    work()
    missing = [phase for phase in phases if not seen[f"{phase}:before"]]
    if missing:
        raise LookupError(f"expected the phases {', '.join(phases)}, never saw {', '.join(missing)}; were functions renamed?")
    return dict(seen)


def stop_at(phases: Mapping[str, tuple[str, ...]], moment: str, number: int) -> None:
    """Have this process killed by -9 when a moment comes up for the `number`-th time, from 1 on."""
    seen: Counter[str] = Counter()

    def die(name: str) -> None:
        seen[name] += 1
        if name == moment and seen[name] == number:
            os.kill(os.getpid(), signal.SIGKILL)

    phase = moment.partition(":")[0]
    for name in phases[phase]:
        _replace(name, phase, die)


def _replace(name: str, phase: str, tick: Callable[[str], None]) -> None:
    module, _, path = name.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, attribute = path.split(".")
    for step in outer:
        owner = getattr(owner, step)
    real = getattr(owner, attribute)
    setattr(owner, attribute, _torn(real, phase, tick) if attribute == "pwrite" else _beside(real, phase, tick))


def _beside(real: Callable[..., Any], phase: str, tick: Callable[[str], None]) -> Callable[..., Any]:
    @functools.wraps(real)
    def call(*arguments: Any, **options: Any) -> Any:
        tick(f"{phase}:before")
        result = real(*arguments, **options)
        tick(f"{phase}:after")
        return result

    return call


def _torn(real: Callable[..., int], phase: str, tick: Callable[[str], None]) -> Callable[..., int]:
    def call(descriptor: int, data: memoryview, offset: int) -> int:
        tick(f"{phase}:before")
        half = len(data) // 2 // 4096 * 4096
        if half:
            real(descriptor, data[:half], offset)
        tick(f"{phase}:half")
        written = real(descriptor, data, offset)
        tick(f"{phase}:after")
        return written

    return call
