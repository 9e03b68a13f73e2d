"""Where a workspace's feature stores lie: in its own folder, or at a URL for which a folder of it, the mirror, stands.

The environment's HYPERCOLUMNS_STORES decides, else the workspace's file `stores.url`, else the disk. May not know what a
store is, and talks to nobody.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from storage.backends import PLACE_FILE
from storage.canonical import digest
from storage.errors import StorageError
from storage.publish import ensure_folder, replace_bytes

__all__ = ["LOCAL", "MIRRORS", "STORES_VARIABLE", "URL_FILE", "checked_url", "choose_stores", "mirror_of", "stores_url"]

STORES_VARIABLE = "HYPERCOLUMNS_STORES"
LOCAL = "local"
"""What names the workspace's own disk."""
URL_FILE = "stores.url"
MIRRORS = "mirrors"
"""The workspace's folder of all mirrors."""
_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[A-Za-z0-9._=+-]+)*)/?")


def stores_url(workspace: Path) -> str | None:
    """Return the URL of a workspace's stores; None if they lie on its own disk.

    Raises:
        StorageError: what is configured is neither a URL nor `local`; says where it stands.
    """
    named, source = os.environ.get(STORES_VARIABLE, ""), STORES_VARIABLE
    file = workspace / URL_FILE
    if not named and file.is_file():
        named, source = file.read_text(errors="replace").strip(), str(file)
    return None if named in ("", LOCAL) else checked_url(named, source)


def checked_url(url: str, source: str = "URL") -> str:
    """Return the one spelling of an object store's URL.

    Args:
        url: `s3://bucket/prefix`.
        source: where it stands, for the message.

    Raises:
        StorageError: it is not such a URL.
    """
    match = _URL.fullmatch(url)
    if match is None or any(part in (".", "..") for part in url.split("/")):
        raise StorageError(
            f"{source}: expected s3://BUCKET or s3://BUCKET/PREFIX (letters, digits and . _ = + - in the prefix), or "
            f"{LOCAL!r}, got {url!r:.200}"
        )
    return f"s3://{match[1]}{match[2]}"


def choose_stores(workspace: Path, named: str) -> str | None:
    """Keep where a workspace's stores are to lie from now on; what lies elsewhere stays there.

    Args:
        workspace: its folder.
        named: a URL, or `local`.

    Returns:
        the URL; None for the workspace's own disk.
    """
    url = None if named == LOCAL else checked_url(named)
    replace_bytes(workspace / URL_FILE, f"{url or LOCAL}\n".encode())
    return url


def mirror_of(mirrors: Path, url: str) -> Path:
    """Return the folder that stands for the stores at a URL, made at its first use.

    Args:
        mirrors: the folder of all mirrors.
        url: as `checked_url` spells it.
    """
    mirror = mirrors / digest(url)
    if not (mirror / PLACE_FILE).is_file():
        ensure_folder(mirror)
        replace_bytes(mirror / PLACE_FILE, json.dumps({"url": url}).encode())
    return mirror
