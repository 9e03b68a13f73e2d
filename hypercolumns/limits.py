"""Limits of a spec's fields in words, beside what the fields mean: forms and schemas show descriptions, few show limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["spell_limits"]

_LOWEST = (("minimum", "at least"), ("exclusiveMinimum", "more than"))
_HIGHEST = (("maximum", "at most"), ("exclusiveMaximum", "less than"))
_PAIR = ("minimum", "maximum")


def spell_limits(schema: dict[str, Any]) -> None:
    """Add the range of every number to its description, in place: `hidden units (0 to 8,192)`.

    Args:
        schema: JSON schema of a model, with `properties`.
    """
    for field in schema.get("properties", {}).values():
        limits = _limits(field)
        if limits and "description" in field:
            field["description"] = f"{field['description']} ({limits})"


def _limits(field: Mapping[str, Any]) -> str:
    """Spell the limits of a field: its own, of the one type that it may have beside null, or of its first item."""
    for place in (field, *field.get("anyOf", ()), *field.get("prefixItems", ())[:1]):
        if all(key in place for key in _PAIR):
            return f"{_spell(place['minimum'])} to {_spell(place['maximum'])}"
        words = [f"{text} {_spell(place[key])}" for key, text in (*_LOWEST, *_HIGHEST) if key in place]
        if words:
            return ", ".join(words)
    return ""


def _spell(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:,.10g}"
