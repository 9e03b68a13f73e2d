"""What flows do about a world that fails now and then: try again where that helps, and only there.

A stage is tried again as a whole; what it committed is found. Input that is wrong is wrong again: it is not tried again.
"""

from __future__ import annotations

import errno
from typing import Any

from prefect.states import get_state_exception

from storage.errors import LeaseLostError
from tasks.cluster import ClusterError

__all__ = ["RETRYING", "is_transient"]

_TRANSIENT = {
    *(errno.EIO, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ETIMEDOUT, errno.ESTALE, errno.EREMOTEIO),
    *(errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH),
    *(errno.EHOSTDOWN, errno.ENETRESET, errno.EPIPE),
}


def is_transient(error: BaseException | None) -> bool:
    """Tell whether what failed may work in a minute: a network file system that stumbles, a lease that another writer took.

    Looks at the causes of an error, too. A full disk, a missing file and wrong input stay as they are; a cluster that was
    lost was waited for already, for as long as the flow was told to.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ClusterError):
            return False
        if isinstance(error, (LeaseLostError, TimeoutError, ConnectionError)):
            return True
        if isinstance(error, OSError) and error.errno in _TRANSIENT:
            return True
        error = error.__cause__
    return False


def _worth_retrying(_task: Any, _task_run: Any, state: Any) -> bool:
    found = get_state_exception(state)
    return isinstance(found, BaseException) and is_transient(found)


RETRYING: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": [10, 60],
    # Runs that failed together do not come back together.
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _worth_retrying,
}
