"""Are our packages ours? `tasks`, `storage` and `flows` are common names, and Python takes whichever it finds first.

Looks, and imports nothing; what is not ours is named with its file before anything of it runs.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

__all__ = ["foreign_package", "refuse_foreign_packages"]

_PACKAGES = ("hypercolumns", "storage", "tasks", "flows")


def foreign_package() -> str | None:
    """Explain which package that Python finds first is not ours, and the remedy; None when all are ours."""
    home = Path(__file__).resolve().parents[1]
    for name in _PACKAGES:
        spec = find_spec(name)
        # A folder without __init__.py has no origin, and is found only when there is no package of that name at all.
        found = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        if found is not None and found.parent == home / name:
            continue
        if found is None:
            return f"expected our package {name!r} in {home / name}, found none. Remedy: install hypercolumns[pipeline] again"
        folder = found.parent.parent if found.name == "__init__.py" else found.parent
        return (
            f"expected our package {name!r} in {home / name}, got a foreign one that Python finds first: {found}. "
            f"Remedy: start in another folder than {folder}, take that folder off PYTHONPATH, or rename what is there"
        )
    return None


def refuse_foreign_packages() -> None:
    """End the process with exit code 2 and an explanation when a foreign package shadows one of ours."""
    if message := foreign_package():
        sys.stderr.write(f"error: {message}\n")
        raise SystemExit(2)
