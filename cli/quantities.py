"""Amounts as people write them: `50GB`, `1.5 TiB`, `12h`, `7d`."""

from __future__ import annotations

import re

__all__ = ["parse_bytes", "parse_seconds", "spell_bytes"]

_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_BYTES = {"": 1, "b": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("kmgtp", start=1)
    for suffix, base in (("", 1000), ("b", 1000), ("ib", 1024))
}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_bytes(text: str) -> int:
    """Read a number of bytes.

    Raises:
        SpecError: it is not one.
    """
    return int(_parsed(text, _BYTES, "a number of bytes, such as 50GB, 1.5TB or 200GiB"))


def parse_seconds(text: str) -> float:
    """Read a length of time, in seconds.

    Raises:
        SpecError: it is not one.
    """
    # Zero needs no unit.
    return _parsed(text, _SECONDS | ({"": 1} if text.strip() == "0" else {}), "a length of time, such as 12h, 1d or 2w")


def spell_bytes(count: int) -> str:
    """Spell a number of bytes in the unit that suits it."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"


def _parsed(text: str, units: dict[str, int], what: str) -> float:
    from hypercolumns.errors import SpecError

    match = _AMOUNT.fullmatch(text.strip())
    if match is None or match[2].lower() not in units:
        raise SpecError(f"expected {what}, got {text!r}")
    return float(match[1]) * units[match[2].lower()]
