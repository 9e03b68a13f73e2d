"""Prefect's HTTP interface, as far as the service needs it: requests that answer JSON or say in one sentence what is wrong."""

from __future__ import annotations

import random
import time
import uuid
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from storage.errors import StorageError

__all__ = ["Api", "NotFoundError"]

_REQUEST_SECONDS = 30
_CHANGING = {"POST", "PUT", "PATCH", "DELETE"}
_LONGEST = 500
_BUSY = {httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE}
"""What Prefect's server answers when it did nothing, as its database is locked or it has too much to do."""
_BUSY_PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Seconds, more or less: clients that were turned away together do not come back together."""


class NotFoundError(StorageError):
    """The server knows nothing of that name."""


class Api:
    """A Prefect server, seen through HTTP.

    Args:
        url: ends in /api.
        auth: USER:PASSWORD, where the server asks for it.
    """

    def __init__(self, url: str, auth: str | None = None) -> None:
        self.url = url.rstrip("/")
        user, _, password = (auth or "").partition(":")
        host = urlsplit(url).hostname or ""
        self._name = uuid.uuid4().hex
        self._token: dict[str, str] | None = None
        self._client = httpx.Client(
            auth=httpx.BasicAuth(user, password) if auth else None,
            timeout=_REQUEST_SECONDS,
            # A proxy in the environment must not be asked for what is on this machine.
            trust_env=host not in {"127.0.0.1", "localhost", "::1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def healthy(self) -> bool:
        """Tell whether the server answers."""
        try:
            return bool(self._client.get(f"{self.url}/health", timeout=2).is_success)
        except httpx.HTTPError:
            return False

    def get(self, path: str) -> Any:
        """Read."""
        return self.request("GET", path)

    def post(self, path: str, **body: Any) -> Any:
        """Make, or look for."""
        return self.request("POST", path, body)

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return what it answers; a server that is busy is asked again for some seconds.

        Raises:
            NotFoundError: there is no such thing.
            SpecError: the server wants another auth string.
            StorageError: it does not answer, or refuses.
        """
        answer = self._send(method, path, body)
        for pause in _BUSY_PAUSES:
            if answer.status_code not in _BUSY:
                break
            time.sleep(pause * random.uniform(0.5, 1.5))
            answer = self._send(method, path, body)
        if answer.status_code == httpx.codes.FORBIDDEN and method in _CHANGING:
            self._token = None  # it expired, or the server forgot it
            answer = self._send(method, path, body)
        self._explain(answer, method, path)
        return answer.json() if answer.content else None

    def _send(self, method: str, path: str, body: Any) -> httpx.Response:
        try:
            headers = self._csrf_headers() if method in _CHANGING else {}
            return self._client.request(method, f"{self.url}/{path}", json=body, headers=headers)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise StorageError(f"expected a Prefect server at {self.url}, got no answer: {reason}") from error

    def _csrf_headers(self) -> dict[str, str]:
        """Ask for the token that tells our requests from those which a web page makes a browser send."""
        if self._token is None:
            answer = self._client.get(f"{self.url}/csrf-token", params={"client": self._name})
            found = answer.json().get("token") if answer.is_success else None
            self._token = {"Prefect-Csrf-Token": found, "Prefect-Csrf-Client": self._name} if found else {}
        return self._token

    def _explain(self, answer: httpx.Response, method: str, path: str) -> None:
        from hypercolumns.errors import SpecError

        if answer.is_success:
            return
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise SpecError(
                f"the Prefect server at {self.url} asks for another auth string. Remedy: --auth USER:PASSWORD, "
                "HYPERCOLUMNS_AUTH or PREFECT_API_AUTH_STRING"
            )
        kind = NotFoundError if answer.status_code == httpx.codes.NOT_FOUND else StorageError
        raise kind(f"{method} {self.url}/{path}: expected success, got {answer.status_code}: {answer.text[:_LONGEST]}")
