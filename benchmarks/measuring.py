"""How things are timed here: side by side, in turn, medians; and the machine's own limits, measured the same way."""

from __future__ import annotations

import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "Figure",
    "disk_read_seconds",
    "disk_write_seconds",
    "forget",
    "interleaved",
    "ratio",
    "scratch",
]

REPEATS = 5
_BLOCK = 1 << 22
_DISK_THREADS = 4


@dataclass(frozen=True)
class Figure:
    """One figure against its target; None where the issue names none."""

    what: str
    value: float
    target: float | None
    unit: str = "x"
    at_most: bool = False
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the target is reached."""
        if self.target is None:
            return True
        return self.value <= self.target if self.at_most else self.value >= self.target


def interleaved(
    *functions: Callable[[], Any], repeats: int = REPEATS, before: Callable[[], Any] | None = None
) -> tuple[float, ...]:
    """Time functions in turn and return the median seconds of each; the first round warms up and is dropped."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats + 1):
        for function, kept in zip(functions, times, strict=True):
            if before is not None:
                before()
            start = time.perf_counter()
            function()
            kept.append(time.perf_counter() - start)
    return tuple(statistics.median(kept[1:]) for kept in times)


def ratio(what: str, target: float | None, ours: float, plain: float, **details: Any) -> Figure:
    """Say how many times faster ours is than the plain form."""
    return Figure(what, plain / ours, target, details={"ours_seconds": ours, "baseline_seconds": plain, **details})


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder on the disk that is measured: $HYPERCOLUMNS_BENCH_DIR, or the current one."""
    root = Path(os.environ.get("HYPERCOLUMNS_BENCH_DIR", "."))
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix="bench-") as folder:
        yield Path(folder).resolve()


def forget(folder: Path) -> None:
    """Drop the files below a folder from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def disk_write_seconds(folder: Path, count: int) -> float:
    """Write `count` bytes with four threads, past the page cache, and have the disk keep them."""

    def write(number: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_DIRECT
        descriptor = os.open(folder / f"limit-{number}", flags, 0o600)
        for offset in range(0, count // _DISK_THREADS // _BLOCK * _BLOCK, _BLOCK):
            os.pwrite(descriptor, blocks[number], offset)
        os.fdatasync(descriptor)
        os.close(descriptor)

    blocks = [mmap.mmap(-1, _BLOCK) for _ in range(_DISK_THREADS)]
    for block in blocks:
        block.write(os.urandom(_BLOCK))
    for path in folder.glob("limit-*"):
        path.unlink()
    return _in_threads(write)


def disk_read_seconds(folder: Path) -> float:
    """Read what `disk_write_seconds` wrote, with four threads, past the page cache."""

    def read(number: int) -> None:
        path = folder / f"limit-{number}"
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
        for offset in range(0, path.stat().st_size, _BLOCK):
            os.preadv(descriptor, [blocks[number]], offset)
        os.close(descriptor)

    blocks = [mmap.mmap(-1, _BLOCK) for _ in range(_DISK_THREADS)]
    return _in_threads(read)


def _in_threads(work: Callable[[int], None]) -> float:
    with ThreadPoolExecutor(_DISK_THREADS) as executor:
        start = time.perf_counter()
        list(executor.map(work, range(_DISK_THREADS)))
        return time.perf_counter() - start
