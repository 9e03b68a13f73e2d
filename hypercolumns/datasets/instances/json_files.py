"""JSON annotation files, read whole and strictly: what is damaged is named with its place in the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from hypercolumns.datasets.instances.files import check_file
from hypercolumns.errors import DatasetError

__all__ = ["checked_id", "read_json_file", "record_lists"]

_MOST_BYTES = 4 << 30


def read_json_file(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DatasetError: it is missing, no regular file, no UTF-8 text, truncated or otherwise no JSON, or has NaN or Infinity.
    """
    check_file(path, "a JSON file", _MOST_BYTES)
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        early = error.pos >= len(error.doc.rstrip()) - 1 or error.msg.startswith("Unterminated string")
        raise DatasetError(
            f"{path}: expected JSON, got {error.msg} in line {error.lineno}, column {error.colno}: "
            f"{'it ends too early' if early else 'it is damaged there'}. "
            "Remedy: copy the file again"
        ) from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#04x}") from error
    except (RecursionError, ValueError) as error:
        raise DatasetError(f"{path}: expected plain JSON of finite numbers, got {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"the value {name}")


def record_lists(path: Path, data: Any, names: tuple[str, ...]) -> dict[str, list[dict[str, Any]]]:
    """Return the lists of records of a JSON object.

    Raises:
        DatasetError: one is missing, or is no list of objects.
    """
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: expected an object with {', '.join(names)}, got {type(data).__name__}")
    for name in names:
        if not isinstance(data.get(name), list) or not all(isinstance(record, dict) for record in data[name]):
            raise DatasetError(
                f"{path}: expected a list of objects named {name!r}, got {'another' if name in data else 'no'} one"
            )
    return {name: data[name] for name in names}


def checked_id(record: dict[str, Any], name: str) -> int:
    """Return a whole number of a record.

    Raises:
        DatasetError: it is missing, or something else.
    """
    value = record.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DatasetError(f"{name}: expected a whole number, got {str(value)[:60] if name in record else 'none'}")
    return value
