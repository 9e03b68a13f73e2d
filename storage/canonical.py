"""One spelling for a JSON value, and the digest of it: the root of every key in a workspace.

Sorted keys, no white space, UTF-8, no NaN: the same value gives the same bytes in every process, on every machine: which
Python's `hash()` does not.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from storage.errors import FormatError

__all__ = ["KEY_DIGITS", "canonical_bytes", "digest", "file_sha256", "is_key", "read_json"]

KEY_DIGITS = 20
"""Hexadecimal digits of a sha256 that serve as a key (80 bits: no accidental collision among 10⁹ keys)."""
_KEY = re.compile(f"[0-9a-f]{{{KEY_DIGITS}}}")


def canonical_bytes(value: Any) -> bytes:
    """Spell a JSON value in its one canonical form.

    Raises:
        FormatError: the value is not JSON (a NaN, a tuple key, an object).
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"expected a JSON value to make a key of, got {type(value).__name__}: {error}") from error


def digest(value: Any, digits: int = KEY_DIGITS) -> str:
    """Return the first `digits` hexadecimal digits of the sha256 of the canonical form."""
    return hashlib.sha256(canonical_bytes(value)).hexdigest()[:digits]


def is_key(text: str) -> bool:
    """Tell whether a name is a key: as many hexadecimal digits."""
    return _KEY.fullmatch(text) is not None


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path, read: Callable[[Path], bytes] = Path.read_bytes) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        read: how its bytes are read; by default from the disk.

    Raises:
        FormatError: the file is not JSON, or not an object; names the file.
    """
    try:
        value = json.loads(read(path))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: expected a JSON object, got bytes that do not parse ({error})") from error
    if not isinstance(value, Mapping):
        raise FormatError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return dict(value)
