"""What a piece of work does to a folder, step by step: the tree after every call that matters, and what was flushed when.

From such a log `chaos.outages` builds what a power loss may leave. Functions of `os` are replaced while it runs; SQLite's own
calls are not seen, so nothing of its files is ever taken to be flushed.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Log", "Step", "Tree", "recorded"]

Node = int
"""A file or folder, whatever its names are."""


@dataclass(frozen=True)
class Tree:
    """A folder at one moment.

    Args:
        entries: the names in each folder, by the folder's node; 0 is the top.
        contents: the bytes of each file.
    """

    entries: Mapping[Node, Mapping[str, Node]]
    contents: Mapping[Node, bytes]


@dataclass(frozen=True)
class Step:
    """One call, and the tree after it.

    Args:
        call: its name; `start` for the first, `ack` where the work said that something is safe.
        what: the file's name, or what was said to be safe.
        flushed: the node whose bytes or entries the disk keeps from now on, if the call was a flush.
        tree: the tree after it.
    """

    call: str
    what: str
    flushed: Node | None
    tree: Tree


@dataclass
class Log:
    """All steps, in order."""

    root: Path
    steps: list[Step] = field(default_factory=list)
    _nodes: dict[tuple[int, int], Node] = field(default_factory=dict)
    _held: list[int] = field(default_factory=list)

    def note(self, call: str, what: str, flushed: Node | None = None) -> None:
        """Add a step."""
        self.steps.append(Step(call, what, flushed, self._tree()))

    def ack(self, what: str) -> None:
        """Note that the work said of something that it is safe."""
        self.steps.append(Step("ack", what, None, self.steps[-1].tree))

    def node(self, status: os.stat_result) -> Node | None:
        """Return the node of a file that was seen; None for others (terminals, files elsewhere)."""
        return self._nodes.get((status.st_dev, status.st_ino))

    def close(self) -> None:
        """Let the files go."""
        for descriptor in self._held:
            os.close(descriptor)

    def _tree(self) -> Tree:
        entries: dict[Node, dict[str, Node]] = {}
        contents: dict[Node, bytes] = {}
        waiting = [(self._seen(self.root), self.root)]
        while waiting:
            node, folder = waiting.pop()
            entries[node] = {}
            for path in sorted(folder.iterdir()):
                below = entries[node][path.name] = self._seen(path)
                if path.is_dir():
                    waiting.append((below, path))
                else:
                    contents[below] = path.read_bytes()
        return Tree(entries, contents)

    def _seen(self, path: Path) -> Node:
        status = path.stat()
        known = self._nodes.get((status.st_dev, status.st_ino))
        if known is None:
            # Held open, so that its number is not given to another file.
            self._held.append(os.open(path, os.O_RDONLY))
            known = self._nodes[status.st_dev, status.st_ino] = len(self._nodes)
        return known


_CALLS = (
    "fsync",
    "fdatasync",
    "link",
    "unlink",
    "replace",
    "rename",
    "mkdir",
    "pwrite",
    "write",
    "ftruncate",
    "posix_fallocate",
)


@contextmanager
def recorded(root: Path, between: Callable[[str], None] = lambda call: None) -> Iterator[Log]:
    """Record what happens to a folder until the block is left.

    Args:
        root: The folder; what lies in it at the beginning counts as flushed.
        between: Called after each call: somebody else, who acts at this very moment. What it does is recorded too.
    """
    log = Log(root)
    log.note("start", "")
    real = {name: getattr(os, name) for name in _CALLS}
    one_at_a_time, busy = threading.RLock(), threading.local()

    def watch(name: str) -> Callable[..., Any]:
        def call(target: Any, *rest: Any, **options: Any) -> Any:
            if getattr(busy, "noting", False):
                return real[name](target, *rest, **options)
            with one_at_a_time:
                status = os.fstat(target) if isinstance(target, int) else None
                result = real[name](target, *rest, **options)
                if status is None or stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                    busy.noting = True
                    _note(log, name, target, status)
                    busy.noting = False
                if not getattr(busy, "interrupted", False):
                    busy.interrupted = True
                    between(name)
                    busy.interrupted = False
            return result

        return call

    for name in _CALLS:
        setattr(os, name, watch(name))
    try:
        yield log
    finally:
        for name, function in real.items():
            setattr(os, name, function)
        log.close()


def _note(log: Log, name: str, target: Any, status: os.stat_result | None) -> None:
    flushes = name in ("fsync", "fdatasync") and status is not None
    # A file created since the last step has no node yet: the step before the flush sees it.
    if status is not None and log.node(status) is None:
        log.note("seen", "")
    what = Path(os.fspath(target)).name if status is None else Path(f"/proc/self/fd/{target}").readlink().name
    log.note(name, what, log.node(status) if flushes and status is not None else None)
