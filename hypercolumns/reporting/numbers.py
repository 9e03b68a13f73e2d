"""How numbers are written for people: percent with one decimal, true minus signs, units that fit.

Formatting only; no number is computed or rounded anywhere else in the report.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["byte_size", "compact", "duration", "flatten", "interval", "percent", "plain", "points", "words"]

_SPACE = "\u00a0"  # a unit stays on the line of its number
_NONE = "–"


def percent(value: float | None) -> str:
    """Write a share in [0, 1] as `64.2 %`."""
    return _NONE if value is None else f"{100 * value:.1f}{_SPACE}%"


def interval(bounds: tuple[float, float] | None) -> str:
    """Write two shares in [0, 1] as `61.9–66.4 %`."""
    return _NONE if bounds is None else f"{100 * bounds[0]:.1f}–{100 * bounds[1]:.1f}{_SPACE}%"


def points(difference: float) -> str:
    """Write a difference of shares as signed percentage points, `+12.1`."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def compact(count: float) -> str:
    """Write a count in three digits or so, `16.9 M`."""
    return _scaled(count, 1000.0, ("", "k", "M", "G", "T"))


def byte_size(size: float) -> str:
    """Write bytes in decimal units, `312 MB`."""
    return _scaled(size, 1000.0, ("B", "kB", "MB", "GB", "TB"))


def _scaled(value: float, base: float, units: tuple[str, ...]) -> str:
    power = 0
    while abs(value) >= base and power + 1 < len(units):
        value, power = value / base, power + 1
    digits = 1 if power and abs(value) < 100 else 0
    return f"{value:.{digits}f}{_SPACE}{units[power]}".rstrip(_SPACE)


def duration(seconds: float | None) -> str:
    """Write seconds as `0.42 s`, `12.3 s`, `4 min 25 s` or `2 h 05 min`."""
    if seconds is None:
        return _NONE
    if seconds < 60:
        return f"{seconds:.{2 if seconds < 1 else 1}f}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min{_SPACE}{rest:02d}{_SPACE}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{_SPACE}h{_SPACE}{minutes:02d}{_SPACE}min"


def plain(value: Any) -> str:
    """Write any plain value: booleans as words, floats in at most four digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "−")
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value)
    return _NONE if value is None else str(value)


def words(name: str) -> str:
    """Write an identifier as words, `mean_iu` as `mean IU`."""
    return re.sub(r"\biu\b", "IU", name.replace("_", " "))


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Turn a nested mapping into (label, value) pairs, labels in words."""
    pairs: list[tuple[str, str]] = []
    for key, value in mapping.items():
        label = prefix + words(str(key))
        pairs += flatten(value, f"{label}: ") if isinstance(value, Mapping) else [(label, plain(value))]
    return pairs
