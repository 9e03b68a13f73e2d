"""Where everything of a feature store lies, and what it is called.

Arrays lie beside each other as stock Zarr expects; all bookkeeping lies in `journal/`, which poses as an empty Zarr array so
that stock readers list the group without a warning. Knows names only: opens no file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from storage.canonical import digest

__all__ = [
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "JOURNAL",
    "ROW_KEYS",
    "ROW_KEY_BYTES",
    "SCALE_OFFSET_SUFFIX",
    "VALID",
    "StoreLayout",
    "array_name",
    "layer_folder_name",
]

FORMAT_NAME = "hypercolumns-features"
FORMAT_VERSION = 1
JOURNAL = "journal"
VALID = "valid"
ROW_KEYS = "row_keys"
ROW_KEY_BYTES = 192
"""The longest row key, in UTF-8; the width of the `row_keys` array."""
SCALE_OFFSET_SUFFIX = ".scale_offset"
_RESERVED = frozenset({JOURNAL, VALID, ROW_KEYS, "zarr.json"})
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,95}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.+-]+")


def layer_folder_name(layer: str) -> str:
    """Name the folder of a layer: the layer's own name where that is safe, else a readable part of it and a digest."""
    plain = _PLAIN_NAME.fullmatch(layer) and layer not in _RESERVED and not layer.endswith(SCALE_OFFSET_SUFFIX)
    if plain and not _is_suffixed(layer):
        return layer
    readable = _UNSAFE.sub("_", layer).strip("._-")[:64]
    return f"{readable or 'layer'}-{digest(layer, 12)}"


def _is_suffixed(layer: str) -> bool:
    """Tell whether a plain name looks like one of the digest-suffixed names, and so might collide with one."""
    return re.search(r"-[0-9a-f]{12}$", layer) is not None


def array_name(layer: str, role: str) -> str:
    """Name the array of one role of a layer.

    Args:
        layer: the layer's own name.
        role: `maps`, or `scale_offset` for the quantiser's companion.
    """
    return layer_folder_name(layer) + (SCALE_OFFSET_SUFFIX if role == "scale_offset" else "")


@dataclass(frozen=True)
class StoreLayout:
    """The paths of one store.

    Args:
        root: the group's folder, named by the store's key.
    """

    root: Path

    @property
    def journal(self) -> Path:
        """The folder of all bookkeeping."""
        return self.root / JOURNAL

    @property
    def records(self) -> Path:
        """The folder of the numbered records: the only truth about what is committed."""
        return self.journal / "records"

    @property
    def leases(self) -> Path:
        """The folder of the leases of those who write now."""
        return self.journal / "leases"

    @property
    def quarantine(self) -> Path:
        """The folder that damaged files are moved to."""
        return self.journal / "quarantine"

    @property
    def index(self) -> Path:
        """The derived index of rows."""
        return self.journal / "index.sqlite"

    @property
    def lock(self) -> Path:
        """The file that is locked while something is claimed or committed."""
        return self.journal / "store.lock"

    @property
    def occupancy(self) -> Path:
        """The file that everybody who has the store open holds a lock on; its time of change says when it was last used."""
        return self.journal / "open.lock"

    def array(self, layer: str, role: str = "maps") -> Path:
        """Return the folder of a layer's array."""
        return self.root / array_name(layer, role)

    def shard(self, layer: str, shard: int, role: str = "maps") -> Path:
        """Return the file of one shard (Zarr's default chunk key, with `.` as separator: one folder per layer to flush)."""
        return self.array(layer, role) / f"c.{shard}.0.0.0"
