"""Stores of other format versions: refused by name, with what to do, and never taken for damaged ones of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.canonical import read_json
from storage.errors import FormatError, VersionError
from storage.files import Files
from storage.layout import FORMAT_NAME, FORMAT_VERSION, StoreLayout
from storage.records import RecordLog, other_version

__all__ = ["refuse_other_versions"]


def refuse_other_versions(layout: StoreLayout, files: Files) -> None:
    """Refuse a store that another version of the format describes as its own.

    A store whose first record can be read is ours, whatever its derived metadata say.

    Raises:
        VersionError: says which version it is, and what to do.
    """
    try:
        if RecordLog(layout.records, files).read(1) is not None:
            return
    except VersionError:
        raise
    except FormatError:
        # Damaged, or spelled in a way that we do not know.
        pass
    attributes = _attributes(layout.root / "zarr.json", files)
    version = attributes.get("format_version")
    if attributes.get("format") == FORMAT_NAME and isinstance(version, int) and version != FORMAT_VERSION:
        raise other_version(files.spell(layout.root), version, FORMAT_VERSION)


def _attributes(path: Path, files: Files) -> dict[str, Any]:
    try:
        return dict(read_json(path, files.read).get("attributes", {}))
    except (FileNotFoundError, FormatError, TypeError, ValueError):
        return {}
