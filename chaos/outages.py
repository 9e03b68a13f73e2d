"""What a power loss may leave of a folder, by the rules of POSIX and nothing more.

Flushed bytes stay. A file's other bytes are any of the states it had since, or torn: cut, empty, zero where they were never
written. SQLite's files, whose flushes are SQLite's own business, are taken together as they were at any earlier moment. A name
that was made, moved or removed since its folder was last flushed is there or not, each independently of all others. A file is
not in its folder because it was flushed, nor a folder in its parent.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path

from chaos.recording import Log, Node, Tree

__all__ = ["build", "outage"]

_BLOCK = 512
_TOP: Node = 0


def outage(log: Log, step: int, choose: random.Random) -> Tree:
    """Return one tree that a power loss right after a step may leave.

    Half of the draws are extremes: nothing that was not flushed survives, or all of it, or all but one thing.
    """
    mood = choose.choice(["nothing", "everything", "all but one", "any", "any", "any"])
    files, names = _unflushed_files(log, step), _unflushed_names(log, step)
    unlucky = choose.choice([*files, *names]) if mood == "all but one" and (files or names) else None
    now = log.steps[step].tree
    contents = dict(now.contents)
    for node, states in files.items():
        keep = mood == "everything" or (mood == "all but one" and node != unlucky)
        contents[node] = states[-1] if keep else states[0] if mood == "nothing" else _torn(states, choose)
    entries = {folder: dict(found) for folder, found in now.entries.items()}
    for (folder, name), values in names.items():
        keep = mood == "everything" or (mood == "all but one" and (folder, name) != unlucky)
        value = values[-1] if keep else values[0] if mood == "nothing" else choose.choice(values)
        if value is None:
            entries.setdefault(folder, {}).pop(name, None)
        else:
            entries.setdefault(folder, {})[name] = value
            _bring_back(log, step, value, entries, contents)
    earlier = 0 if mood == "nothing" else choose.choice([step, step, choose.randint(0, step)])
    _keep_databases(log.steps[earlier].tree, entries, contents)
    return Tree(entries, contents)


def build(tree: Tree, root: Path) -> None:
    """Write a tree into an empty folder; what no name leads to is gone."""
    written: dict[Node, Path] = {}
    waiting = [(_TOP, root)]
    root.mkdir(parents=True)
    while waiting:
        node, folder = waiting.pop()
        for name, below in tree.entries[node].items():
            path = folder / name
            if below in tree.entries:
                path.mkdir()
                waiting.append((below, path))
            elif below in written:
                os.link(written[below], path)
            else:
                path.write_bytes(tree.contents[below])
                written[below] = path


def _unflushed_files(log: Log, step: int) -> dict[Node, list[bytes]]:
    """Return the states of each file since its last flush, the flushed one first, where there is more than that."""
    found = {}
    for node in {node for seen in log.steps[: step + 1] for node in seen.tree.contents}:
        flushed = _last_flush(log, step, node)
        states = [b""] if flushed is None else []
        for seen in log.steps[flushed or 0 : step + 1]:
            content = seen.tree.contents.get(node)
            if content is not None and (not states or states[-1] != content):
                states.append(content)
        if len(states) > 1:
            found[node] = states
    return found


def _unflushed_names(log: Log, step: int) -> dict[tuple[Node, str], list[Node | None]]:
    """Return what each name led to since its folder's last flush, the flushed state first, where it changed."""
    found = {}
    for folder in {folder for seen in log.steps[: step + 1] for folder in seen.tree.entries}:
        flushed = _last_flush(log, step, folder)
        since: list[Mapping[str, Node]] = [] if flushed is not None else [{}]
        since += [seen.tree.entries.get(folder, {}) for seen in log.steps[flushed or 0 : step + 1]]
        for name in {name for entries in since for name in entries}:
            values: list[Node | None] = []
            for entries in since:
                value = entries.get(name)
                if not values or values[-1] != value:
                    values.append(value)
            if len(values) > 1:
                found[folder, name] = values
    return found


def _last_flush(log: Log, step: int, node: Node) -> int | None:
    """Return the step at which a node was last flushed; what was there at the beginning was flushed then."""
    for number in range(step, 0, -1):
        if log.steps[number].flushed == node:
            return number
    first = log.steps[0].tree
    return 0 if node in first.contents or node in first.entries else None


def _keep_databases(earlier: Tree, entries: dict[Node, dict[str, Node]], contents: dict[Node, bytes]) -> None:
    for folder, found in entries.items():
        for name in [name for name in found if _is_database(name)]:
            del found[name]
        for name, node in earlier.entries.get(folder, {}).items():
            if _is_database(name):
                found[name] = node
                contents[node] = earlier.contents[node]


def _is_database(name: str) -> bool:
    return ".sqlite" in name


def _bring_back(log: Log, step: int, node: Node, entries: dict[Node, dict[str, Node]], contents: dict[Node, bytes]) -> None:
    """Give a file or folder, whose removal the disk may not know of, what it last had."""
    for seen in reversed(log.steps[: step + 1]):
        if node in entries or node in contents:
            return
        if node in seen.tree.contents:
            contents[node] = seen.tree.contents[node]
        elif node in seen.tree.entries:
            entries[node] = dict(seen.tree.entries[node])
            for below in entries[node].values():
                _bring_back(log, step, below, entries, contents)


def _torn(states: list[bytes], choose: random.Random) -> bytes:
    """Return an old state, or the newest one with bytes missing or zero that the flushed state did not have."""
    newest, flushed = states[-1], states[0]
    kind = choose.choice(["state", "cut", "zero tail", "zero block"])
    if kind == "state" or not newest:
        return choose.choice(states)
    # Bytes that were flushed and not written since are what they were.
    same = _common(newest, flushed)
    if kind == "cut":
        return newest[: choose.randint(same, len(newest))]
    start = choose.randrange(len(newest)) // _BLOCK * _BLOCK
    end = len(newest) if kind == "zero tail" else start + _BLOCK
    torn = bytearray(newest)
    torn[start:end] = bytes(len(torn[start:end]))
    torn[:same] = flushed[:same]
    return bytes(torn)


def _common(first: bytes, second: bytes) -> int:
    """Return how many bytes two files begin with in common."""
    count = min(len(first), len(second))
    return next((place for place in range(count) if first[place] != second[place]), count)
