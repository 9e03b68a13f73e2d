"""How things are timed here: side by side, in turn, medians; and the machine's own limits, measured the same way."""

from __future__ import annotations

import mmap
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "DiskLimit",
    "Figure",
    "RandomPages",
    "forget",
    "interleaved",
    "ratio",
    "scratch",
]

REPEATS = 5
_BLOCKS = (1 << 21, 1 << 23)
_DISK_THREADS = 4
_PAGE_THREADS = 64
_PAGE = 4096


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


class DiskLimit:
    """The disk's own speed: the same bytes moved past the page cache by four threads that do nothing else.

    Args:
        count: How many bytes.
        block: How many at a time; which is the fastest depends on the disk.
    """

    def __init__(self, count: int, block: int) -> None:
        self._paths: list[Path] = []
        self._offsets = range(0, count // _DISK_THREADS // block * block, block)
        self._source: memoryview | None = None
        self._blocks = [mmap.mmap(-1, block) for _ in range(_DISK_THREADS)]
        for memory in self._blocks:
            memory.write(os.urandom(block))

    @classmethod
    def of_blocks(cls, count: int) -> list[DiskLimit]:
        """Return one of small and one of large blocks."""
        return [cls(count, block) for block in _BLOCKS]

    def write(self, folder: Path, source: memoryview | None = None) -> None:
        """Write the bytes to new files of a folder and have the disk keep them.

        Args:
            folder: To be made.
            source: Where each thread fetches a block's bytes from before it writes them, going round; by default it writes the
                same over and over.
        """
        folder.mkdir()
        self._source = source
        self._paths = [folder / f"limit-{number}" for number in range(_DISK_THREADS)]
        _in_threads(self._write, _DISK_THREADS)

    def read(self) -> None:
        """Read what was written last."""
        _in_threads(self._read, _DISK_THREADS)

    def _write(self, number: int) -> None:
        descriptor = os.open(self._paths[number], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_DIRECT, 0o600)
        block = self._blocks[number]
        for offset in self._offsets:
            if self._source is not None:
                first = offset % (len(self._source) // len(block) * len(block))
                np.copyto(np.frombuffer(block, np.uint8), np.frombuffer(self._source[first : first + len(block)], np.uint8))
            os.pwrite(descriptor, block, offset)
        os.fdatasync(descriptor)
        os.close(descriptor)

    def _read(self, number: int) -> None:
        descriptor = os.open(self._paths[number], os.O_RDONLY | os.O_DIRECT)
        for offset in self._offsets:
            os.preadv(descriptor, [self._blocks[number]], offset)
        os.close(descriptor)


class RandomPages:
    """The disk's own speed at single pages: read in any order past the page cache, as many at a time as it may like.

    Args:
        path: Of a file to be written.
        count: How many bytes it has.
        pages: How many pages are read, no two the same.
    """

    def __init__(self, path: Path, count: int, pages: int) -> None:
        self._path = path
        path.write_bytes(os.urandom(count))
        self._offsets = random.Random(0).sample(range(0, count // _PAGE * _PAGE, _PAGE), pages)

    def read(self) -> None:
        """Read them."""
        _in_threads(self._read, _PAGE_THREADS)

    def _read(self, number: int) -> None:
        descriptor, page = os.open(self._path, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, _PAGE)
        for offset in self._offsets[number::_PAGE_THREADS]:
            os.preadv(descriptor, [page], offset)
        os.close(descriptor)


def _in_threads(work: Callable[[int], None], threads: int) -> None:
    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(work, range(threads)))
