"""YAML to plain values: mappings with text keys, lists, text, numbers, truth values and nothing, of bounded size and depth.

Stricter than PyYAML's safe loader where that would take a mistake for a wish: a key that is given twice is refused, and so are
tags that make other things than JSON knows. Anchors and merge keys work; each use of an anchor is a copy of its own, and all
copies count towards the bound. May not know what the values mean.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

__all__ = ["MOST_BYTES", "PlainYamlError", "parse_plain_yaml"]

MOST_BYTES = 1 << 18
_MOST_NODES = 20_000
_DEEPEST = 40
_LONGEST_NUMBER = 100
_PREFIX = "tag:yaml.org,2002:"
_MERGE = f"{_PREFIX}merge"


class PlainYamlError(ValueError):
    """The text is no YAML of plain values; says where and why."""


def parse_plain_yaml(text: str) -> Any:
    """Parse a YAML text of one document; an empty one is None.

    Raises:
        PlainYamlError: it does not parse, gives a key twice, has a tag, or is too long, too deep or too large.
    """
    if len(text) > MOST_BYTES:
        raise PlainYamlError(f"expected at most {MOST_BYTES} characters, got {len(text)}")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return None if node is None else _Values().of(node, 0)
    except yaml.YAMLError as error:
        raise PlainYamlError(str(error)) from error
    except RecursionError as error:
        raise PlainYamlError("it is nested too deeply") from error


class _Values:
    """Turn nodes into values, counting them."""

    def __init__(self) -> None:
        self._count = 0
        self._scalars = SafeConstructor()

    def of(self, node: yaml.Node, depth: int) -> Any:
        self._count += 1
        if self._count > _MOST_NODES or depth > _DEEPEST:
            raise _refusal(node, f"expected at most {_MOST_NODES} values and {_DEEPEST} levels, anchors counted at each use")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_PREFIX}seq":
            return [self.of(item, depth + 1) for item in node.value]
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_PREFIX}map":
            return self._mapping(node, depth)
        raise _refusal(node, f"expected plain values, got the tag {node.tag}")

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                merged = self._merged(value, depth) | merged
                continue
            name = self.of(key, depth + 1)
            if not isinstance(name, str):
                raise _refusal(key, f"expected a name as key, got {name!r:.80}; put it in quotes if it is one")
            if name in own:
                raise _refusal(key, f"the key {name!r:.80} is given twice; keep one of them")
            own[name] = self.of(value, depth + 1)
        return merged | own

    def _merged(self, node: yaml.Node, depth: int) -> dict[str, Any]:
        """Return what a merge key brings in; of several mappings the first that has a key wins."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for source in sources:
            value = self.of(source, depth + 1)
            if not isinstance(value, dict):
                raise _refusal(source, "expected a mapping to merge")
            merged = value | merged
        return merged

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix(_PREFIX)
        if kind in ("str", "timestamp"):
            return node.value
        readers: dict[Hashable, Callable[[Any], Any]] = {
            "null": self._scalars.construct_yaml_null,
            "bool": self._scalars.construct_yaml_bool,
            "int": self._scalars.construct_yaml_int,
            "float": self._scalars.construct_yaml_float,
        }
        if kind not in readers:
            raise _refusal(node, f"expected plain values, got the tag {node.tag}")
        if len(node.value) > _LONGEST_NUMBER:
            raise _refusal(node, f"expected a number of at most {_LONGEST_NUMBER} characters, got {len(node.value)}")
        try:
            return readers[kind](node)
        except (ValueError, LookupError) as error:
            raise _refusal(node, f"expected a value of type {kind}, got {node.value!r}") from error


def _refusal(node: yaml.Node, message: str) -> PlainYamlError:
    mark = node.start_mark
    where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
    return PlainYamlError(f"{message}{where}")
