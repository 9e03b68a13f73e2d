"""The disk campaign: file systems too small for what is to be written, and limits on files.

A child mounts a memory file system of its own (in a mount namespace, so that nothing of it is left) and extracts into it. The
error must say what was needed and what was there, all that was committed must be right, and with more room a rerun must finish.
"""

from __future__ import annotations

import ctypes
import os
import random
import re
import resource
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from chaos.crowds import judged, reference
from chaos.experiments import Prints, extract, prepare_process, tiny_spec, write_images
from chaos.forking import answer, in_parallel
from chaos.outcome import Case, Row, scaled, scratch, tallied
from hypercolumns.specs import ExperimentSpec
from storage.errors import DiskSpaceError, StorageError
from tasks.jobs import Job
from tasks.plan import check_plan
from tasks.prepare import prepare_dataset

__all__ = ["campaign", "mounted"]

_CASES = 48
_LIMIT_CASES = 16
_IMAGES = 20
_NEW_USER, _NEW_MOUNTS, _PRIVATE, _REMOUNT = 0x10000000, 0x00020000, (1 << 18) | (1 << 14), 32
_SAYS = re.compile(r"(needs|were to be written|may be larger than).*(MB|size).*free", re.DOTALL)


def campaign(scale: float, seed: int) -> list[Row]:
    """Fill disks up."""
    with scratch("disk") as folder:
        specs = {
            dtype: tiny_spec(write_images(folder / f"data-{dtype}", range(_IMAGES), 12), store__dtype=dtype)
            for dtype in ("float16", "uint8")
        }
        specs["zstd"] = tiny_spec(folder / "data-float16", store__compression="zstd")
        prepare_process(specs["float16"])
        references = {name: answer(partial(reference, folder / f"reference-{name}", spec)) for name, spec in specs.items()}
        sizes = {name: _bytes_below(folder / f"reference-{name}") for name in specs}
        rows = []
        problem = answer(lambda: _why_not(folder))
        if problem:
            rows.append(Row("disk full", skipped=problem))
        else:

            def full(case: int) -> dict[str, Any]:
                name = sorted(specs)[case % len(specs)]
                return _filled(folder / f"full-{case}", specs[name], references[name], sizes[name], case, seed)

            rows.append(tallied("disk full", in_parallel(full, range(scaled(_CASES, scale, 3)))))

        def limited(case: int) -> dict[str, Any]:
            name = sorted(specs)[case % len(specs)]
            return _limited(folder / f"limit-{case}", specs[name], references[name], case, seed)

        rows.append(tallied("size of files limited", in_parallel(limited, range(scaled(_LIMIT_CASES, scale, 3)))))
        return rows


def _filled(
    root: Path, spec: ExperimentSpec, known: tuple[Prints, Sequence[str], list[str]], size: int, case: int, seed: int
) -> dict[str, Any]:
    """Extract into a disk of a part of the bytes needed, then make room and extract again."""
    choose = random.Random(f"{seed} disk {case}")
    kib = int(size * choose.uniform(0.02, 0.98) / 1024) + 4
    root.mkdir()

    def work() -> dict[str, Any]:
        remount = mounted(root, kib)
        return _told(spec, root / "workspace", known, remount, planned=True)

    told = answer(work)
    name = f"case {case} of seed {seed}, {kib} KiB of {size // 1024}"
    return asdict(Case(name, told["said"], not told["after"], [*told["wrong"], *told["after"]]))


def _limited(
    root: Path, spec: ExperimentSpec, known: tuple[Prints, Sequence[str], list[str]], case: int, seed: int
) -> dict[str, Any]:
    """Extract where no file may be larger than so much (RLIMIT_FSIZE), then without the limit."""
    choose = random.Random(f"{seed} limit {case}")
    largest = choose.randint(200, 150_000)
    root.mkdir()

    def work() -> dict[str, Any]:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
        return _told(spec, root / "workspace", known, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)))

    told = answer(work)
    name = f"case {case} of seed {seed}, files of at most {largest} bytes"
    return asdict(Case(name, told["said"], not told["after"], [*told["wrong"], *told["after"]]))


def _told(
    spec: ExperimentSpec,
    workspace: Path,
    known: tuple[Prints, Sequence[str], list[str]],
    make_room: Callable[[], object],
    *,
    planned: bool = False,
) -> dict[str, Any]:
    """Extract until there is no room; judge what is there; make room; extract again; judge again."""
    prints, keys, layers = known
    wrong: list[str] = []
    said = True
    try:
        extract(spec, workspace)
    except DiskSpaceError as error:
        said = bool(_SAYS.search(str(error)))
        wrong += [] if said else [f"the error does not say what was needed and there: {error}"]
    except OSError as error:
        said, wrong = False, [f"not explained: {type(error).__name__}: {error}"]
    wrong += [what for what in _consistent(workspace, prints, layers, keys) if not what.endswith("is not there")]
    if planned:
        wrong += _refusal(spec, workspace)
    make_room()
    try:
        extract(spec, workspace)
        after = judged(workspace, prints, layers, keys)
    except (StorageError, OSError) as error:
        after = [f"the rerun failed: {type(error).__name__}: {error}"]
    return {"said": said, "wrong": wrong, "after": [f"after the rerun {what}" for what in after]}


def _consistent(workspace: Path, prints: Prints, layers: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Judge a store on a full disk; what is derived, or was never committed, may be missing."""
    try:
        found = judged(workspace, prints, layers, keys)
    except (StorageError, OSError) as error:
        # A store whose layers are not declared yet has nothing to lose.
        return [] if "declare_layers first" in str(error) or "no record" in str(error) else [f"not readable: {error}"]
    allowed = (
        "verify found metadata",
        "verify found index",
        "verify found orphan",
        "verify found partial",
        "there is no store",
    )
    return [what for what in found if not what.startswith(allowed)]


def _refusal(spec: ExperimentSpec, workspace: Path) -> list[str]:
    """The planner must refuse what does not fit, before anything is computed."""
    job = Job(spec=spec, workspace=workspace)
    try:
        planned = check_plan(job, prepare_dataset(job))
    except DiskSpaceError as error:
        # It may be that not even the plan's own manifest, or the records of a new store, fit.
        return (
            [] if _SAYS.search(str(error)) or "nothing was computed" in str(error) else [f"refused without saying so: {error}"]
        )
    except (StorageError, OSError) as error:
        return [f"the plan failed: {type(error).__name__}: {error}"]
    return [] if planned.fits else ["a plan that does not fit was let through"]


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# --- mounting --------------------------------------------------------------------------------------------------------


def mounted(folder: Path, kib: int) -> Callable[[], None]:
    """Mount an empty memory file system of so many KiB, seen by this process alone; return what gives it more room.

    Raises:
        OSError: not allowed here.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: Any) -> None:
        if getattr(libc, name)(*arguments) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")

    user, group = os.getuid(), os.getgid()
    call("unshare", _NEW_MOUNTS if user == 0 else _NEW_USER | _NEW_MOUNTS)
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    call("mount", b"none", b"/", None, _PRIVATE, None)
    target = str(folder).encode()
    call("mount", b"none", target, b"tmpfs", 0, f"size={kib}k".encode())
    return lambda: call("mount", b"none", target, b"tmpfs", _REMOUNT, b"size=1g")


def _why_not(folder: Path) -> str:
    """Say why nothing can be mounted here; empty if it can."""
    probe = folder / "probe"
    probe.mkdir()
    try:
        mounted(probe, 64)
    except OSError as error:
        return f"no file system can be mounted here ({error})"
    return ""
