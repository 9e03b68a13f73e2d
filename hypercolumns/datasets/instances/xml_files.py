"""XML annotation files, read strictly: elements, attributes and text; no document type, and so no entities, is accepted.

Entities can be nested until a small file fills all memory, and can name other files; annotations have no use for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from hypercolumns.datasets.instances.files import check_file
from hypercolumns.errors import DatasetError

__all__ = ["child_text", "number_of", "read_xml_file"]

_MOST_BYTES = 16 << 20
_DEEPEST = 50


def read_xml_file(path: Path) -> Element:
    """Read an XML file and return its outermost element.

    Raises:
        DatasetError: it is missing, damaged, too large or too deep, or declares a document type or entities.
    """
    check_file(path, "an XML file", _MOST_BYTES)
    builder, depth = TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise DatasetError(f"{path}: expected elements at most {_DEEPEST} deep, got deeper ones")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> NoReturn:
        raise DatasetError(
            f"{path}: expected an annotation without a document type, got one. Remedy: write it without entities"
        )

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DatasetError(f"{path}: expected XML, got a damaged or truncated file: {error}") from error
    return builder.close()


def child_text(element: Element, path: str) -> str:
    """Return the text of an element inside.

    Raises:
        DatasetError: there is none.
    """
    text = (element.findtext(path) or "").strip()
    if not text:
        raise DatasetError(f"expected an element {path} with text in {element.tag}, got none")
    return text


def number_of(text: str | None, what: str) -> float:
    """Read a number.

    Raises:
        DatasetError: the text is no number of a usual size.
    """
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e15:
        raise DatasetError(f"{what}: expected a finite number, got {str(text)[:60]!r}")
    return value
