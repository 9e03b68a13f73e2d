"""Requests to an S3-compatible object store: explained errors, retries with backoff, and writes that never overwrite unseen.

The only module that knows the client library (obstore). An object appears whole or not at all; a conditional PUT either creates
it, or replaces exactly the one whose entity tag was seen. Keys are relative to the URL. Knows nothing of stores.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from storage.errors import AlreadyPublishedError, ObjectChangedError, ObjectStoreError
from storage.object_errors import configured_seconds, explained, is_final, refuse_forks

if TYPE_CHECKING:
    from obstore.store import S3Store

__all__ = ["ObjectClient", "ObjectSeen"]

_ATTEMPTS = 4
_PIECE_BYTES = 1 << 22
_NO_SUCH_RANGE = "416 Range Not Satisfiable"
_LARGEST_PUT_BYTES = 5 * 10**9


@dataclass(frozen=True)
class ObjectSeen:
    """One object, as it was listed.

    Args:
        key: relative to the client's URL.
        size: in bytes.
        tag: its entity tag.
    """

    key: str
    size: int
    tag: str


class ObjectClient:
    """Objects below one URL. Safe among threads; not after a fork.

    Credentials, endpoint and region come from the usual AWS_* variables of the environment.

    Args:
        url: `s3://bucket/prefix`.

    Raises:
        ObjectStoreError: the client library is missing, or cannot make sense of the configuration.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        refuse_forks(url)
        self._seconds = configured_seconds()
        try:
            from obstore.store import S3Store
        except ImportError as error:
            raise ObjectStoreError(f"{url}: object stores need an extra: pip install 'hypercolumns[s3]'") from error
        limit = timedelta(seconds=self._seconds)
        with self._explained("opening", ""):
            self._store = S3Store.from_url(
                url,
                client_options={
                    "timeout": limit,
                    "connect_timeout": min(limit, timedelta(seconds=5)),
                    # Options given here replace those that the library takes from the environment.
                    "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes"),
                },
                retry_config={"retry_timeout": limit, "max_retries": 8},
            )

    # --- reading ---------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Make sure that the bucket is there and lets us in.

        Raises:
            ObjectStoreError: says what is wrong, and what to do.
        """
        with self._explained("listing", ""):
            next(iter(self._store.list(chunk_size=1)), None)

    def get(self, key: str) -> bytes:
        """Return an object's bytes.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._explained("reading", key):
            return bytes(self._client().get(key).bytes())

    def get_range(self, key: str, start: int, length: int) -> tuple[bytes, int]:
        """Return some of an object's bytes, none if it ends before, and the size of all of it.

        Raises:
            FileNotFoundError: there is no such object.
        """
        with self._explained("reading", key):
            try:
                found = self._client().get(key, options={"range": (start, start + length)})
                return bytes(found.bytes()), int(found.meta["size"])
            except Exception as error:
                if _NO_SUCH_RANGE not in str(error):
                    raise
        seen = self.head(key)
        return b"", 0 if seen is None else seen.size

    def download(self, key: str, size: int, write: Callable[[memoryview], object]) -> int:
        """Hand an object's bytes over, piece by piece, if it has the size expected; return its size.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._explained("reading", key):
            found = self._client().get(key)
            if int(found.meta["size"]) == size:
                for piece in found.stream(min_chunk_size=_PIECE_BYTES):
                    write(memoryview(piece))
            return int(found.meta["size"])

    def head(self, key: str) -> ObjectSeen | None:
        """Return an object's size and tag; None if there is none."""
        with contextlib.suppress(FileNotFoundError), self._explained("asking for", key):
            meta = self._client().head(key)
            return ObjectSeen(key, int(meta["size"]), str(meta["e_tag"]))
        return None

    def listed(self, folder: str, after: str | None = None) -> Iterator[ObjectSeen]:
        """Yield all objects below a folder, in the order of their keys.

        Args:
            folder: without a slash at its end; "" for all.
            after: a key; only those that come after it.
        """
        with self._explained("listing", folder):
            for batch in self._client().list(folder or None, offset=after):
                for meta in batch:
                    yield ObjectSeen(str(meta["path"]), int(meta["size"]), str(meta["e_tag"]))

    def folders(self) -> list[str]:
        """List the names of the folders right below the URL."""
        with self._explained("listing", ""):
            return sorted(self._client().list_with_delimiter()["common_prefixes"])

    # --- writing ---------------------------------------------------------------------------------------------------

    def create(self, key: str, data: Any) -> str:
        """Write an object that is not there yet, and return its tag.

        One that is there already with the same bytes counts as ours: an answer that was lost on its way, and tried again.

        Raises:
            AlreadyPublishedError: there is one with other bytes; it stands.
        """
        tag = self._put(key, data, "create")
        if tag is None:
            raise AlreadyPublishedError(f"{self.spell(key)}: already published by somebody else; theirs stands")
        return tag

    def update(self, key: str, data: Any, tag: str) -> str:
        """Replace an object that still has a tag, and return its new one.

        Raises:
            ObjectChangedError: it has another one, or is gone.
        """
        new = self._put(key, data, {"e_tag": tag})
        if new is None:
            raise ObjectChangedError(f"{self.spell(key)}: somebody else has replaced or removed it meanwhile")
        return new

    def replace(self, key: str, data: bytes) -> None:
        """Write an object, whatever is there."""
        self._put(key, data, "overwrite")

    def copy(self, key: str, target: str) -> None:
        """Copy an object inside the store."""
        with self._explained("copying", key):
            self._client().copy(key, target)

    def delete(self, key: str) -> None:
        """Delete an object, if there is one."""
        with contextlib.suppress(FileNotFoundError), self._explained("deleting", key):
            self._client().delete(key)

    def spell(self, key: str) -> str:
        """Return an object's URL."""
        return f"{self.url}/{key}".rstrip("/")

    def _put(self, key: str, data: Any, mode: Any) -> str | None:
        """Write an object; None if the condition does not hold and what is there is not ours."""
        from obstore.exceptions import AlreadyExistsError, GenericError, PreconditionError

        if len(data) > _LARGEST_PUT_BYTES:
            raise ObjectStoreError(
                f"{self.spell(key)}: {len(data) / 1e9:.1f} GB, and one PUT holds at most {_LARGEST_PUT_BYTES / 1e9:.0f} GB. "
                "Remedy: a smaller store.shard_images"
            )
        for attempt in range(_ATTEMPTS):
            with self._explained("writing", key):
                try:
                    return str(self._client().put(key, data, mode=mode, use_multipart=False)["e_tag"])
                except (AlreadyExistsError, PreconditionError):
                    return self._tag_if_same(key, data)
                except GenericError as error:
                    # The library does not repeat a conditional PUT of which it does not know whether it arrived; we can.
                    if attempt + 1 == _ATTEMPTS or is_final(error):
                        raise
            time.sleep(random.uniform(0.1, 0.2) * 2**attempt)
        raise AssertionError("unreachable")

    def _tag_if_same(self, key: str, data: Any) -> str | None:
        seen = self.head(key)
        if seen is None or seen.size != len(data):
            return None
        with contextlib.suppress(FileNotFoundError):
            return seen.tag if self.get(key) == bytes(data) else None
        return None

    def _client(self) -> S3Store:
        refuse_forks(self.url)
        return self._store

    def _explained(self, doing: str, key: str) -> contextlib.AbstractContextManager[None]:
        return explained(self.spell(key), doing)
