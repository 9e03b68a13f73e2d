"""What goes wrong between an object store and us, said with the remedy; and what is refused before it goes wrong."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from storage.errors import ObjectStoreError

__all__ = ["SECONDS_VARIABLE", "configured_seconds", "explained", "is_final", "refuse_forks"]

SECONDS_VARIABLE = "HYPERCOLUMNS_S3_SECONDS"
"""How long one request may take, and how long it is tried again after failures."""
_SECONDS = 60.0

_used_by: dict[str, int] = {}
"""Which process was the first of its forks to use the library."""

_REMEDIES = (
    # Where the library looks for a cloud machine's own credentials when it is given none.
    ("169.254.169.254", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ("NoSuchBucket", "make the bucket, or name another one"),
    ("InvalidBucketName", "name a bucket that can be one"),
    ("URL scheme is not allowed", "an endpoint of http:// needs AWS_ALLOW_HTTP=true"),
    ("BadScheme", "an endpoint of http:// needs AWS_ALLOW_HTTP=true"),
    (
        "status code: 403",
        "see that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are right and may read, list, write and delete there",
    ),
    ("status code: 401", "see that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are right"),
)
_REMEDY = f"see that AWS_ENDPOINT_URL is right and the server is up; a slow one may need a larger {SECONDS_VARIABLE}"


@contextlib.contextmanager
def explained(name: str, doing: str) -> Iterator[None]:
    """Turn the client library's errors into ours; that there is no such object stays a FileNotFoundError.

    Args:
        name: the object's URL.
        doing: what was tried.

    Raises:
        ObjectStoreError: says what failed, and what to do.
    """
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" not in str(error):
            raise FileNotFoundError(f"{name}: there is no such object") from error
        raise _explanation(name, doing, error) from error
    except (BaseError, ValueError) as error:
        raise _explanation(name, doing, error) from error


def _explanation(name: str, doing: str, error: Exception) -> ObjectStoreError:
    text = str(error)
    first = text.splitlines()[0] if text else type(error).__name__
    remedy = next((remedy for sign, remedy in _REMEDIES if sign in text), _REMEDY)
    return ObjectStoreError(
        f"{name}: {doing} it failed: {first:.300}. Remedy: {remedy}. What was committed is safe; run the same command again: "
        "it resumes"
    )


def is_final(error: Exception) -> bool:
    """Tell whether trying again cannot help."""
    return any(sign in str(error) for sign, _ in _REMEDIES)


def refuse_forks(url: str) -> None:
    """Refuse what would hang: the library's threads do not cross a fork, and it cannot start others in one.

    Raises:
        ObjectStoreError: this process is the fork of one that has used the library.
    """
    if _used_by.setdefault("process", os.getpid()) != os.getpid():
        raise ObjectStoreError(
            f"{url}: object stores were used by process {_used_by['process']}, and cannot be used by its fork {os.getpid()}: "
            "the client's threads do not cross a fork. Remedy: start processes with the method `spawn`"
        )


def configured_seconds() -> float:
    """Return how long a request may take.

    Raises:
        ObjectStoreError: the environment's value is no number of seconds.
    """
    text = os.environ.get(SECONDS_VARIABLE, "")
    try:
        seconds = float(text) if text else _SECONDS
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 86_400:
        raise ObjectStoreError(f"{SECONDS_VARIABLE}: expected seconds, more than 0 and less than a day, got {text!r}")
    return seconds
